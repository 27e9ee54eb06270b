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
from daemon.parts import Duration, Part


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
    Annotated[StorageSource, Tag("storage")] | Annotated[KafkaSource, Tag("kafka")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="kind must be storage or kafka"),
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
    if schedule.cron is not None and len(schedule.cron.split()) != 5:
        yield f"has a cron of {len(schedule.cron.split())} fields; crontab has five: minute hour day month weekday"
    if schedule.every is not None and schedule.every < timedelta(seconds=1):
        yield "is due more than once a second"
    if schedule.start is not None and not _is_time(schedule.start):
        yield f"starts at {schedule.start!r}, which is no ISO 8601 time"
    try:
        ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"has an unknown timezone {schedule.timezone!r}"


def _is_time(text: str) -> bool:
    try:
        utc(text)
    except ValueError:
        return False
    return True
