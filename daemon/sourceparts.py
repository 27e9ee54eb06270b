"""The parts of config.yaml that say where events come from: folders, topics, schedules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Discriminator, Tag

from daemon.core.events import utc
from daemon.kafkaparts import KafkaSource
from daemon.nodeparts import NodesSource
from daemon.parts import Duration, Part

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
"""From 1."""
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
"""From 0; Sunday is 7 too."""
_SUNDAY = 7
_CRON = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of month", 1, 31, ()), ("month", 1, 12, MONTHS),
    ("day of week", 0, _SUNDAY, WEEKDAYS),
)  # fmt: skip
"""The fields of a crontab line: name, lowest and highest value, and words for the values from the lowest on."""


class StorageSource(Part):
    """A watched folder whose complete new files are `data.landed` events."""

    kind: Literal["storage"] = "storage"
    path: Path
    """Relative to `home`."""
    pattern: str = "*"
    """Which file names count (fnmatch); names that start with `.` or end in `.part`, `.tmp` never do."""
    complete: Literal["renamed", "marker", "stable"] = "stable"
    """When a file counts: it was renamed or closed in place; a marker `NAME.done` lies beside it; its size stood still."""
    stable_for: Duration = timedelta(seconds=2)
    poll: Duration = timedelta(seconds=5)
    """How often the folder is listed beside the notifications (and instead of them where there are none)."""
    remember: Duration = timedelta(days=1)
    """How long the content of a file that is gone is still known: until then it is a duplicate when it comes again."""


def _kind(source: Any) -> str:
    """The kind of a source, as written or as it was made."""
    return str(source.get("kind", "storage") if isinstance(source, dict) else getattr(source, "kind", ""))


AnySource = Annotated[
    Annotated[StorageSource, Tag("storage")]
    | Annotated[KafkaSource, Tag("kafka")]
    | Annotated[NodesSource, Tag("nodes")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="kind must be storage, kafka or nodes"),
]


class Schedule(Part):
    """A schedule: `schedule.due` at each of its times."""

    cron: str | None = None
    """Five fields, as crontab writes them."""
    every: Duration | None = None
    start: str | None = None
    """ISO time from which `every` counts; default: the epoch."""
    timezone: str = "UTC"
    misfire: Literal["skip", "once", "all"] = "once"
    """Times that passed while driftd was down: none of them, one event for all, or one event each (at most 1000)."""


def contradictions(schedule: Schedule) -> Iterator[str]:
    """What a schedule's fields alone cannot know."""
    if (schedule.cron is None) == (schedule.every is None):
        yield "needs either cron or every"
    if schedule.cron is not None:
        yield from (f"has a cron {mistake}" for mistake in cron_mistakes(schedule.cron))
    if schedule.every is not None and schedule.every < timedelta(seconds=1):
        yield "is due more than once a second"
    if schedule.start is not None and not _is_time(schedule.start):
        yield f"starts at {schedule.start!r}, which is no ISO 8601 time"
    try:
        ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"has an unknown timezone {schedule.timezone!r}"


def cron_mistakes(line: str) -> Iterator[str]:
    """What is wrong with a crontab line, as it goes on after its name."""
    fields = line.split()
    if len(fields) != len(_CRON):
        yield f"of {len(fields)} fields; crontab has five: minute hour day month weekday"
        return
    for field, (name, low, high, words) in zip(fields, _CRON, strict=True):
        parts = field.lower().split(",")
        yield from (
            f"whose {name} {part!r} cannot be read; it takes {_taken(low, high, words)}, `*`, ranges `a-b` and steps `/n`"
            for part in parts
            if not _is_cron(part, low, high, words)
        )


def _is_cron(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    """Is it `*`, a value or a range, perhaps in steps that are no longer than it is?"""
    span, stepped, step = part.partition("/")
    first, ranged, last = span.partition("-")
    if span == "*":
        start, end = low, high
    else:
        values = [_cron_value(text, low, high, words) for text in ((first, last) if ranged else (first,))]
        if None in values:
            return False
        start, end = values[0] or 0, values[-1] or 0
        if end < start and high == _SUNDAY:
            end += _SUNDAY  # fri-mon
        elif stepped and not ranged:
            end = high
    return start <= end and (not stepped or (_is_number(step) and 1 <= int(step) <= end - start))


def _cron_value(text: str, low: int, high: int, words: tuple[str, ...]) -> int | None:
    if text in words:
        return words.index(text) + low
    return int(text) if _is_number(text) and low <= int(text) <= high else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len("59")


def _taken(low: int, high: int, words: tuple[str, ...]) -> str:
    return f"{low} to {high}" + (f" or {words[0]} to {words[-1]}" if words else "")


def _is_time(text: str) -> bool:
    try:
        utc(text)
    except ValueError:
        return False
    return True
