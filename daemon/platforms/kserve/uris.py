"""Where the registry says that a model lies, as an address that KServe fetches.

KServe takes what does not begin with `SCHEME://` for a path inside the pod and fails only when it loads: so `models:/…` and
`mlflow-artifacts:/…` are mapped here, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from daemon.core.errors import Refused

_FETCHED = re.compile(r"(?!mlflow-artifacts|models|runs|file)[a-z][a-z0-9]*://.+")


def storage_uri(location: str, roots: Mapping[str, str]) -> str:
    """The address for KServe; Refused when it has none. The longest of `roots` that the location begins with counts."""
    root = max((root for root in roots if location.startswith(root)), key=len, default=None)
    if root is not None:
        location = f"{roots[root].rstrip('/')}/{location[len(root) :].lstrip('/')}"
    location = location.rstrip("/")
    if not _FETCHED.fullmatch(location):
        raise Refused(
            "kserve",
            "storageUri",
            f"the registry says that the model lies at {location}, which KServe cannot fetch",
            "map its beginning under platform.serving.roots, or let MLflow keep artifacts where clients can fetch them",
        )
    return location
