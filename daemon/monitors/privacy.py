"""Fields that must not be stored: hashed or dropped right after reading, before anything is kept, dead letters included."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from daemon.monitors.plan import Privacy, StreamPlan
from daemon.monitors.values import names, plain


def protect(columns: dict[str, Any], plan: StreamPlan) -> dict[str, Any]:
    """The columns with the stream's privacy applied. The id is hashed where it should be dropped: labels join by it."""
    if not plan.privacy:
        return columns
    return {
        field: _hashed(column, plan.name) if _level(plan, field) == "hash" else column
        for field, column in columns.items()
        if _level(plan, field) != "drop"
    }


def redact(record: Mapping[str, Any], plan: StreamPlan, above: str = "") -> dict[str, Any]:
    """A record, nested ones included, with the stream's privacy applied."""
    result: dict[str, Any] = {}
    for name, value in record.items():
        field = f"{above}.{name}" if above else name
        level = _level(plan, field)
        if level == "drop":
            continue
        if level == "hash":
            result[name] = hashed(str(value), plan.name)
        else:
            result[name] = redact(value, plan, field) if isinstance(value, dict) else plain(value)
    return result


def hashed(text: str, stream: str) -> str:
    """A keyed hash of a text, the same for the same text within a stream."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12, key=stream.encode()[:64]).hexdigest()


def _hashed(column: Any, stream: str) -> list[str | None]:
    return [None if name is None else hashed(name, stream) for name in names(column)]


def _level(plan: StreamPlan, field: str) -> Privacy:
    level = plan.privacy.get(field, "keep")
    return "hash" if level == "drop" and field == plan.fields.id else level
