"""The parts of config.yaml that set limits: how much may happen by itself, and how long what was made is kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from daemon.core.spelling import did_you_mean
from daemon.documents import Where
from daemon.parts import Duration, Part
from daemon.sourceparts import cron_mistakes

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class Budget(Part):
    """How much of a verb may happen."""

    concurrent: int | None = Field(default=None, ge=1)
    """Runs at once, over all models."""
    per_target: int | None = Field(default=None, ge=1)
    """Runs per target and day."""
    per_day: int | None = Field(default=None, ge=1)
    """Runs per day (24 h back from now), over all models."""


class Breaker(Part):
    """Stops starting runs on a target that keeps failing."""

    failures: int = Field(default=3, ge=1)
    """Consecutive failed runs of a target after which it opens."""
    reset: Duration = timedelta(hours=6)
    """After so long one run may try again."""


class Storm(Part):
    """Holds back what a flood of firings would start; see `daemon/core/holding.py`."""

    firings: int = Field(default=10, ge=1)
    """So many start their runs ..."""
    within: Duration = timedelta(minutes=30)
    """... within this time; all further ones are held until a person says what becomes of them."""
    notify: str | None = None
    """One of `channels:`, which is told once per storm."""


class Freeze(Part):
    """A time in which production is not changed: `from` and `until`, or `cron` and `lasts`, or the second within the first."""

    from_: str | None = Field(default=None, alias="from")
    """ISO date or time; null: it has been so always."""
    until: str | None = None
    """ISO date (that whole day is still frozen) or time (at which it ends)."""
    cron: str | None = None
    """Five fields, as crontab writes them: when it begins, again and again ..."""
    lasts: Duration | None = None
    """... each time for so long."""
    timezone: str = "UTC"
    firings: Literal["hold", "skip"] = "hold"
    """Runs that rules would start wait for the end, or are not started at all: then the rules stay armed."""

    @property
    def begins(self) -> datetime | None:
        """`from` as an aware time."""
        return None if self.from_ is None else moment_of(self.from_, ZoneInfo(self.timezone))

    @property
    def ends(self) -> datetime | None:
        """`until` as an aware time: the first at which it is over."""
        if self.until is None:
            return None
        return moment_of(self.until, ZoneInfo(self.timezone), timedelta(days=1))


def moment_of(text: str, zone: ZoneInfo, whole_day: timedelta = timedelta()) -> datetime:
    """A time as written, in `zone` unless it says its own; a date is its midnight and `whole_day`. ValueError when it is none."""
    moment = datetime.fromisoformat(text) + (whole_day if _DATE.fullmatch(text) else timedelta())
    return moment.replace(tzinfo=zone) if moment.tzinfo is None else moment


def contradictions(
    storm: Storm | None, freezes: Mapping[str, Freeze], channels: Collection[str]
) -> Iterator[tuple[Where, str]]:
    """What a part alone cannot know."""
    if storm is not None and storm.notify is not None and storm.notify not in channels:
        hint = did_you_mean(storm.notify, channels) or f"; there are {', '.join(channels) or 'none'}"
        yield ("storm", "notify"), f"there is no channel {storm.notify}{hint}"
    if storm is not None and storm.within <= timedelta():
        yield ("storm", "within"), "a storm needs a time longer than nothing"
    for name, freeze in freezes.items():
        for message in _wrong_with(freeze):
            yield ("freeze", name), f"freeze {name} {message}"


def _wrong_with(freeze: Freeze) -> Iterator[str]:
    try:
        zone = ZoneInfo(freeze.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"has an unknown timezone {freeze.timezone!r}"
        return
    if (freeze.cron is None) != (freeze.lasts is None):
        yield "needs both cron and lasts, or neither"
    if freeze.cron is None and freeze.until is None:
        yield "never ends: say `until`, or `cron` and `lasts`"
    if freeze.cron is not None:
        yield from (f"has a cron {mistake}" for mistake in cron_mistakes(freeze.cron))
    if freeze.lasts is not None and not timedelta() < freeze.lasts <= timedelta(days=366):
        yield "lasts for no time, or for more than a year"
    wrong = [text for text in (freeze.from_, freeze.until) if text is not None and not _is_moment(text, zone)]
    yield from (f"has the time {text!r}; write it like 2026-12-20 or 2026-12-20T18:00" for text in wrong)
    if not wrong and freeze.begins and freeze.ends and freeze.ends <= freeze.begins:
        yield "ends before it begins"


def _is_moment(text: str, zone: ZoneInfo) -> bool:
    try:
        moment_of(text, zone)
    except ValueError:
        return False
    return True


class RetentionConfig(Part):
    """How long driftd keeps what it has made; `null`: for ever, as all that is not named here."""

    jobs: Duration | None = timedelta(days=30)
    """Folders of jobs, counted from the end of their run."""
    evidence: Duration | None = None
    """Reports and other evidence, counted from the end of their run."""
    predictions: Duration | None = None
    """The local gateway's prediction log, once it was measured: no training reaches further back. At least a day."""
