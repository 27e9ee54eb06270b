"""The due times of a crontab line or an interval: a function of these alone.

Crontab lines mean what they mean in crontab, in the schedule's own time zone: Sunday is 0 or 7, and where both day of
month and day of week are given either suffices (APScheduler 3 has Monday as 0, and wants both). When clocks go forward, a
time that does not exist is due as much later as they went; when they go back, a line with a fixed hour is due once, one
with `*` hours goes on by elapsed time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from daemon.core.durations import write_duration
from daemon.sourceparts import MONTHS, WEEKDAYS, Schedule, cron_mistakes

MOST = 1000
"""Most due times between two moments that are told one by one."""
COUNTED = 10_000
"""Most due times of a crontab line that are counted singly; a longer absence counts as this many."""
_A_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORD = re.compile("[a-z]+")


class DueTimes(Protocol):
    """The due times of a schedule, as aware UTC."""

    def next(self, after: datetime) -> datetime | None:
        """The first one after a moment; None when there never is one."""
        ...

    def between(self, after: datetime, until: datetime) -> tuple[list[datetime], int]:
        """Those after one moment and not after another: the last MOST of them, and how many there are."""
        ...


def due_times(schedule: Schedule) -> DueTimes:
    """The due times of a schedule; ValueError says what is wrong with it."""
    try:
        zone = ZoneInfo(schedule.timezone)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"there is no time zone {schedule.timezone!r}; write for example Europe/Berlin") from None
    if schedule.every is not None and schedule.cron is None:
        return _Interval(schedule.every, _start(schedule.start, zone))
    if schedule.cron is not None and schedule.every is None:
        return _Crontab(schedule.cron, zone)
    raise ValueError("a schedule has either `cron` or `every`")


class _Interval:
    """Every so often from a start on, in whole microseconds: APScheduler's own interval trigger counts in floating
    seconds, and a due time that differs by one in the last place would be another one.
    """

    def __init__(self, every: timedelta, start: datetime) -> None:
        if every < timedelta(seconds=1):
            raise ValueError(f"`every` is {write_duration(every)}; the shortest is 1s")
        self._every = every
        self._start = start

    def next(self, after: datetime) -> datetime | None:
        return self._at(max(self._passed(after), 0))

    def between(self, after: datetime, until: datetime) -> tuple[list[datetime], int]:
        first, end = max(self._passed(after), 0), max(self._passed(until), 0)
        return [self._at(number) for number in range(max(first, end - MOST), end)], max(end - first, 0)

    def _passed(self, moment: datetime) -> int:
        """How many due times there are up to and with `moment`."""
        return (moment - self._start) // self._every + 1

    def _at(self, number: int) -> datetime:
        return (self._start + number * self._every).astimezone(UTC)


class _Crontab:
    """A line of five fields. APScheduler's trigger finds the times that the clock on the wall shows (its own arithmetic
    over a change of clocks leaves a day out: half past midnight after a spring night); two triggers where either day
    suffices. When those are is worked out here.
    """

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        if mistake := next(cron_mistakes(line), ""):
            raise ValueError(f"it has a cron {mistake}")
        minute, hour, day, month, weekday = line.lower().split()
        month, days = _months(month), _weekdays(weekday)
        pairs = [(day, days)] if day.startswith("*") or weekday.startswith("*") else [(day, "*"), ("*", days)]
        self._triggers = [
            CronTrigger(minute=minute, hour=hour, day=one, month=month, day_of_week=other, timezone=UTC)
            for one, other in pairs
        ]
        self._zone = zone
        self._by_elapsed_time = hour.startswith("*")

    def next(self, after: datetime) -> datetime | None:
        """See DueTimes."""
        offsets = [(after + by).astimezone(self._zone).utcoffset() or timedelta(0) for by in (-_A_DAY, _A_DAY)]
        change = abs(offsets[1] - offsets[0])
        # Near a change of clocks the order on the wall is not the order of time: look at all that may come first.
        wall = self._wall(after) - change
        best: datetime | None = None
        while best is None or (change and wall <= self._wall(best) + change):
            following = self._next_on_wall(wall)
            if following is None:
                return best
            wall = following
            best = min([due for due in self._moments(wall) if due > after] + ([best] if best else []), default=None)
        return best

    def between(self, after: datetime, until: datetime) -> tuple[list[datetime], int]:
        kept, ended = self._walk(after, until, COUNTED)
        if ended:
            return kept[-MOST:], len(kept)
        # Too many to find one by one: close in on a moment that has between MOST and twice as many behind it.
        early, late = after, until
        while not (ended and len(kept) >= MOST):
            middle = early + (late - early) / 2
            kept, ended = self._walk(middle, until, 2 * MOST)
            early, late = (early, middle) if ended else (middle, late)
        return kept[-MOST:], COUNTED

    def _walk(self, after: datetime, until: datetime, most: int) -> tuple[list[datetime], bool]:
        """The first ones, and whether there are no more up to `until`."""
        found: list[datetime] = []
        due = self.next(after)
        while due is not None and due <= until:
            if len(found) == most:
                return found, False
            found.append(due)
            due = self.next(due)
        return found, True

    def _wall(self, moment: datetime) -> datetime:
        """What the clock on the wall shows, written as if it were UTC."""
        return moment.astimezone(self._zone).replace(tzinfo=UTC, fold=0)

    def _next_on_wall(self, wall: datetime) -> datetime | None:
        found = [due for trigger in self._triggers if (due := trigger.get_next_fire_time(wall, wall)) is not None]
        return min(found, default=None)

    def _moments(self, wall: datetime) -> list[datetime]:
        """When the clock on the wall shows this: once, or twice, or never, and what then counts as due."""
        first, second = (wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first > second:  # never: the first is as much later as the clock went forward
            return [] if self._by_elapsed_time else [first]
        return [first, second] if first < second and self._by_elapsed_time else [first]


def _months(field: str) -> str:
    """Crontab's month field with numbers for names (APScheduler takes no notice of steps behind names)."""
    return _WORD.sub(lambda word: str(MONTHS.index(word[0]) + 1), field)


def _weekdays(field: str) -> str:
    """Crontab's day-of-week field with its numbers (Sunday is 0 or 7) written as names, ranges written out."""
    return "*" if field == "*" else ",".join(day for part in field.split(",") for day in _weekday_range(part))


def _weekday_range(part: str) -> list[str]:
    span, stepped, step = part.partition("/")
    first, ranged, last = ("0", "-", "6") if span == "*" else span.partition("-")
    start = _weekday(first)
    end = _weekday(last) if ranged else 6 if stepped else start
    if end < start:
        end += 7  # fri-mon
    return [WEEKDAYS[number % 7] for number in range(start, end + 1, int(step or 1))]


def _weekday(text: str) -> int:
    return WEEKDAYS.index(text) if text in WEEKDAYS else int(text)


def _start(text: str | None, zone: ZoneInfo) -> datetime:
    if text is None:
        return _EPOCH
    try:
        start = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`start` is {text!r}; write a time like 2026-01-31T09:00") from None
    return (start.replace(tzinfo=zone) if start.tzinfo is None else start).astimezone(UTC)
