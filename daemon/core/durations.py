"""Durations as people write them: `30s`, `5m`, `6h`, `1d`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")


def parse_duration(value: Any) -> timedelta:
    """A duration from text; ValueError says what is expected. A timedelta passes through."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is no duration; write for example 30s, 5m, 6h, 1d or 1h30m")
    try:
        return sum((timedelta(seconds=float(number) * _UNITS[unit]) for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{value!r} is longer than a duration can be") from None


def write_duration(value: timedelta) -> str:
    """The shortest text that parses back to `value` (whole milliseconds)."""
    rest = round(value.total_seconds() * 1000)
    if rest == 0:
        return "0s"
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text
