"""Schedules: `schedule.due` at each time of a crontab line or an interval.

A due time is a function of the schedule alone, and its event's id is made of it: restarts, clocks that are set back and
two daemons can never make two events of one time. The cursor is the last due time that was handled; what lies between it
and now is what is due, late or not.

Crontab lines mean what they mean in crontab, in the schedule's own time zone: Sunday is 0 or 7, and where both day of
month and day of week are given either suffices (APScheduler 3 has Monday as 0, and wants both). When clocks go forward, a
time that does not exist is due as much later as they went; when they go back, a line with a fixed hour is due once, one
with `*` hours goes on by elapsed time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from daemon.core.durations import write_duration
from daemon.core.events import Event, utc
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, Intake
from daemon.sourceparts import MONTHS, WEEKDAYS, Schedule, cron_mistakes
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

MOST = 1000
"""Most events for times that passed while driftd was down."""
ON_TIME_S = 10.0
"""A time counts as kept, not as missed, for so many seconds."""
COUNTED = 10_000
"""Most due times of a crontab line that are counted singly; a longer absence counts as this many."""
_SLICE_S = 1.0
_A_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORD = re.compile("[a-z]+")

Misfire = Literal["skip", "once", "all"]


class DueTimes(Protocol):
    """The due times of a schedule, as aware UTC."""

    def next(self, after: datetime) -> datetime | None:
        """The first one after a moment; None when there never is one."""
        ...

    def between(self, after: datetime, until: datetime) -> tuple[list[datetime], int]:
        """Those after one moment and not after another: the last MOST of them, and how many there are."""
        ...


@dataclass(frozen=True, slots=True)
class Planned:
    """What a look at the clock brings."""

    events: tuple[Event, ...]
    after: datetime
    """Every due time up to this one is handled."""


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


def plan(name: str, times: DueTimes, misfire: Misfire, after: datetime, now: datetime) -> Planned:
    """The events that are due at `now` when all up to `after` is handled: a pure function."""
    due, count = times.between(after, now)
    if not due:
        return Planned((), after)
    latest = due[-1]
    if misfire == "all":
        dropped = count - len(due)
        events = tuple(event_of(name, item, 0 if index else dropped) for index, item in enumerate(due))
        return Planned(events, latest)
    if misfire == "once":
        return Planned((event_of(name, latest, count - 1),), latest)
    kept = (now - latest).total_seconds() <= ON_TIME_S
    return Planned((event_of(name, latest, 0),) if kept else (), latest)


def event_of(name: str, due: datetime, missed: int) -> Event:
    """The event of one due time of the schedule `name`; `missed` earlier ones have none of their own."""
    when = due.isoformat()
    data = {"schedule": name, "due": when, "missed": missed}
    return Event(f"{name}@{when}", f"schedule:{name}", "schedule.due", name, due, data)


class ScheduleSource:
    """The source of one schedule."""

    def __init__(self, name: str, schedule: Schedule, clock: Callable[[], datetime]) -> None:
        self.name = f"schedule:{name}"
        self._short = name
        self._schedule = schedule
        self._clock = clock
        self._pulse = Pulse(clock)

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Look at the clock until `stop` is set."""
        try:
            times = due_times(self._schedule)
        except ValueError as error:
            self._pulse.ails(str(error))
            deliver(intake, Batch(problems=(Problem("config", self.name, str(error)),)), stop, self._pulse)
            stop.wait()
            return
        after = self._begin(intake, stop)
        while not stop.is_set():
            now = self._clock()
            # A clock that was set back: what it comes by again has ids that the store knows.
            planned = plan(self._short, times, self._schedule.misfire, min(after, now), now)
            if planned.events:
                batch = Batch(planned.events, (self._cursor(planned.after),))
                if deliver(intake, batch, stop, self._pulse) is None:
                    return
            after = planned.after
            following = times.next(now)
            self._pulse.alive("" if following else "this schedule never comes due")
            wait = _SLICE_S if following is None else (following - now).total_seconds()
            stop.wait(min(max(wait, 0.0), _SLICE_S))

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _begin(self, intake: Intake, stop: threading.Event) -> datetime:
        """Where to go on; a new schedule begins now, and that is stored: times that pass while it is down count."""
        stored = intake.cursor(self.name)
        if stored is not None:
            return utc(stored["after"])
        now = self._clock()
        deliver(intake, Batch(cursors=(self._cursor(now),)), stop, self._pulse)
        return now

    def _cursor(self, after: datetime) -> Cursor:
        return Cursor(self.name, {"after": after.isoformat()})


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
