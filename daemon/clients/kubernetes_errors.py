"""What an API server answers when it does not do it, as our errors. Pure: a status code and the body decide.

The API server's errors are `Status` objects: `reason` and `details` tell apart what the code alone does not (API
conventions, "Response Status Kind").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from daemon.core.errors import ClientError, Conflict, Refused, Unavailable

SERVICE = "kubernetes"


class Absent(Conflict):
    """The object that was to be changed is not there (any more)."""


class Exists(Conflict):
    """An object of that name is there already: adopt it or leave it alone."""


class Expired(Conflict):
    """The version that was asked for is compacted away (410): list anew."""


class UnknownKind(Refused):
    """The cluster does not serve this kind: what defines it is not installed."""


class FieldsOwned(Refused):
    """Another field manager owns fields that were to be applied: `owners` says who owns which."""

    def __init__(self, operation: str, owners: Mapping[str, str], why: str) -> None:
        told = ", ".join(f"{field} is owned by {owner}" for field, owner in owners.items()) or why
        hint = "leave these fields out of the template, or let their owner give them up"
        super().__init__(SERVICE, operation, told, hint)
        self.owners = owners


_OWNER = re.compile(r'conflict with "([^"]*)"')


def error_of(operation: str, code: int, body: Mapping[str, Any], text: str = "") -> ClientError:
    """The error for an answer of `code` (not 2xx) with this Status `body`; `text` is what came when it was no Status."""
    why = str(body.get("message") or text or f"status {code}")[:2000]
    reason = str(body.get("reason") or "")
    if code == 401:
        return Unavailable(SERVICE, operation, why, "the cluster does not know who driftd is: check its credentials")
    if code == 403:
        return Refused(SERVICE, operation, why, _forbidden(why))
    if code == 404:
        return _not_found(operation, body, why)
    if code == 409:
        return _conflict(operation, body, reason, why)
    if code == 410:
        return Expired(SERVICE, operation, why)
    if code == 429 or code >= 500:
        return Unavailable(SERVICE, operation, why)
    return Refused(SERVICE, operation, why)


def _forbidden(why: str) -> str:
    if "exceeded quota" in why:
        return "free some of the quota, or have it raised"
    if "denied the request" in why or "ValidatingAdmissionPolicy" in why:
        return ""
    return "let driftd's service account do it"


def _not_found(operation: str, body: Mapping[str, Any], why: str) -> ClientError:
    details = body.get("details") or {}
    if not details.get("name"):
        return UnknownKind(SERVICE, operation, why, "install what defines this kind")
    if details.get("kind") == "namespaces":
        return Refused(SERVICE, operation, why, "make the namespace, or name another")
    return Absent(SERVICE, operation, why)


def _conflict(operation: str, body: Mapping[str, Any], reason: str, why: str) -> ClientError:
    details = body.get("details") or {}
    if reason == "AlreadyExists":
        return Exists(SERVICE, operation, why)
    causes = [cause for cause in details.get("causes") or () if cause.get("reason") == "FieldManagerConflict"]
    if causes:
        owners = {}
        for cause in causes:
            found = _OWNER.search(str(cause.get("message")))
            owners[str(cause.get("field") or "")] = found[1] if found else str(cause.get("message"))
        return FieldsOwned(operation, owners, why)
    if details.get("kind") == "resourcequotas":
        # Two writers counted against one quota at once: nothing is wrong with what was asked for.
        return Unavailable(SERVICE, operation, why)
    return Conflict(SERVICE, operation, why)


def retry_after(value: str | None) -> float:
    """Seconds that a `Retry-After` header asks to wait; 0 when it asks for none. API servers write whole seconds."""
    try:
        return min(max(float(value or 0), 0.0), 300.0)
    except ValueError:
        return 0.0
