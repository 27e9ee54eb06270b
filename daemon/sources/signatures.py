"""Signatures of incoming requests: who may say something, and that nobody changed it on the way.

A sender signs with the secret it shares with the hook:

    X-Driftd-Timestamp: 1767225600
    X-Driftd-Signature: v1=<hex of HMAC-SHA256(secret, text)>

    text = timestamp LF  (for each `ce-` header, sorted by name: name "=" value LF)  LF  body

with header names in lower case and values as they are sent. A request in structured mode has no `ce-` headers, so its
text is `timestamp LF LF body`. All that says something is signed: a replay within the window is the same event again,
and an altered copy is refused. Several signatures may be given, separated by commas, while a secret is being changed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

TIMESTAMP = "x-driftd-timestamp"
SIGNATURE = "x-driftd-signature"
_LONGEST = 4096


def sign(secret: bytes, timestamp: str, attributes: Iterable[tuple[str, str]], body: bytes) -> str:
    """The value of the signature header; `attributes` are the `ce-` headers, names in lower case."""
    lines = "".join(f"{name}={value}\n" for name, value in sorted(attributes))
    text = f"{timestamp}\n{lines}\n".encode("latin-1") + body
    return f"v1={hmac.new(secret, text, hashlib.sha256).hexdigest()}"


def is_signed(secret: bytes, headers: Iterable[tuple[str, str]], body: bytes, now: datetime, window: timedelta) -> bool:
    """Whether the request was signed with `secret`, no longer ago (or ahead) than `window`. An empty secret signs nothing."""
    named = [(name.lower(), value) for name, value in headers]
    told = dict(named)
    timestamp = told.get(TIMESTAMP, "")
    given = told.get(SIGNATURE, "")
    if not secret or not _is_recent(timestamp, now, window) or len(given) > _LONGEST:
        return False
    wanted = sign(secret, timestamp, [(name, value) for name, value in named if name.startswith("ce-")], body)
    return _any_equal(wanted, given)


def is_signed_by_mlflow(
    secret: bytes, headers: Mapping[str, str], body: bytes, now: datetime, window: timedelta
) -> bool:
    """Whether MLflow's webhook delivery signed the request (mlflow/webhooks/delivery.py); header names in lower case.

    `v1,<base64 of HMAC-SHA256(secret, "<delivery id>.<timestamp>.<body>")>`; a retry keeps id and timestamp.
    """
    timestamp = headers.get("x-mlflow-timestamp", "")
    given = headers.get("x-mlflow-signature", "")
    if not secret or not _is_recent(timestamp, now, window) or len(given) > _LONGEST:
        return False
    text = f"{headers.get('x-mlflow-delivery-id', '')}.{timestamp}.".encode("latin-1") + body
    wanted = base64.b64encode(hmac.new(secret, text, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(f"v1,{wanted}".encode(), given.encode("latin-1", "replace"))


def _any_equal(wanted: str, given: str) -> bool:
    """Whether one of the given signatures is the wanted one; takes the same time for each, right or wrong."""
    equal = [
        hmac.compare_digest(wanted.encode(), item.strip().encode("latin-1", "replace")) for item in given.split(",")
    ]
    return any(equal)


def _is_recent(timestamp: str, now: datetime, window: timedelta) -> bool:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(now.timestamp() - int(timestamp)) <= window.total_seconds()
