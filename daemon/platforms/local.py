"""The platform that needs nothing around it: jobs under a shim, models behind the local gateway."""

from __future__ import annotations

from daemon.platforms.local_jobs import LocalJobs
from daemon.platforms.local_serving import LocalServing

__all__ = ["LocalJobs", "LocalServing"]
