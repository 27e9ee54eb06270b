"""The watches of the cluster that the platform is: looked after like a source, though it is no event that they bring."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from daemon.intake import Intake
from daemon.sources.base import Health


class Followed(Protocol):
    """What is followed."""

    def start(self) -> None:
        """Begin to follow."""
        ...

    def stop(self) -> None:
        """Follow no more, and ask nothing more."""
        ...

    def heard(self) -> tuple[float, str]:
        """Seconds since its watches all heard from the server, and why one does not; 0 and empty when all is well."""
        ...


class ClusterSource:
    """Follows the cluster while it runs, and says how that is going."""

    def __init__(self, followed: Followed, clock: Callable[[], datetime]) -> None:
        self._followed = followed
        self._clock = clock

    @property
    def name(self) -> str:
        """See Source."""
        return "platform:kubernetes"

    def run(self, intake: Intake, stop: threading.Event) -> None:  # noqa: ARG002 - the protocol's
        """Follow it until `stop` is set."""
        self._followed.start()
        try:
            stop.wait()
        finally:
            self._followed.stop()

    def health(self) -> Health:
        """See Source."""
        silent, problem = self._followed.heard()
        return Health(self._clock() - timedelta(seconds=silent), None, problem)
