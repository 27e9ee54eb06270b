"""Schedules: `schedule.due` at each time of a crontab line or an interval.

A due time is a function of the schedule alone, and its event's id is made of it: restarts, clocks that are set back and
two daemons can never make two events of one time. The cursor is the last due time that was handled; what lies between it
and now is what is due, late or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from daemon.core.events import Event, utc
from daemon.core.problems import Problem
from daemon.duetimes import DueTimes, due_times
from daemon.intake import Batch, Cursor, Intake
from daemon.sourceparts import Schedule
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

ON_TIME_S = 10.0
"""A time counts as kept, not as missed, for so many seconds."""
_SLICE_S = 1.0

Misfire = Literal["skip", "once", "all"]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a look at the clock brings."""

    events: tuple[Event, ...]
    after: datetime
    """Every due time up to this one is handled."""


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
