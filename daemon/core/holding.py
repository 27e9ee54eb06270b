"""What keeps a run from starting although it might: a storm of firings, and a freeze of production.

A *storm* is more firings than an operator finds believable: one bad upstream table makes every drift rule fire. The
firings up to the limit start their runs, all further ones are held until somebody says what shall become of them. Held ones
count like those that started, so a storm lasts as long as the firings come at that rate, and is over when for a whole
`within` none was held; or when an operator says so, which begins the count anew.

A *freeze* is a time in which production is not changed. It holds runs that would, and lets them go when it ends.

Neither holds a rollback, nor a run that only tells somebody. A pure question over what was, what is, and `now`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from daemon.core.durations import write_duration
from daemon.core.runs import Run


class Holder(Enum):
    """What holds a run back before its start."""

    STORM = "storm"
    """A person says what becomes of it."""
    FREEZE = "freeze"
    """It starts by itself when the freeze is over."""


@dataclass(frozen=True, slots=True)
class StormLimit:
    """So many firings may start runs within a stretch of recorded time."""

    firings: int
    within: timedelta


@dataclass(frozen=True, slots=True)
class Frozen:
    """A freeze that is on."""

    name: str
    until: datetime
    """When it ends, as far as one window of it goes."""
    skips: bool = False
    """Firings that it holds back start nothing, now or later; else they wait for its end."""

    @property
    def why(self) -> str:
        """In words."""
        return f"production is frozen ({self.name}) until {self.until.isoformat()}"


Calendar = Callable[[datetime], Frozen | None]
"""The freeze that is on at a moment, if one is. A pure function."""


@dataclass(frozen=True, slots=True)
class Guards:
    """What may hold a run back at one moment."""

    storm: StormLimit | None = None
    calm: datetime | None = None
    """When an operator ended a storm: what fired until then does not count any more."""
    frozen: Frozen | None = None
    """The freeze that is on."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A run must not start yet."""

    by: Holder
    why: str
    storm: str = ""
    """Id of the run that was the first to be held in this storm."""
    skips: bool = False
    """It is not kept: the rule stays armed instead."""

    def begins(self, run: Run) -> bool:
        """Whether a storm begins with this run: that is told, once."""
        return self.storm == run.id


def hold_back(run: Run, runs: Iterable[Run], guards: Guards, now: datetime) -> Hold | None:
    """What keeps `run`, whose rule has just fired, from starting at `now`; `runs` are those of the last `within`, in any order.

    The storm comes first: what it holds must not start by itself when a freeze ends.
    """
    if exempt(run):
        return None
    storm = guards.storm
    if storm is not None:
        recent = [other for other in runs if other.id != run.id and _counts(other, storm, guards.calm, now)]
        if len(recent) >= storm.firings:
            names = [(other.created, other.id, other.storm) for other in recent if other.storm]
            held = max(names)[2] if names else run.id
            why = f"a storm: {len(recent)} firings within {write_duration(storm.within)}, {storm.firings} are allowed"
            return Hold(Holder.STORM, why, held)
    return frozen_back(run, guards)


def frozen_back(run: Run, guards: Guards) -> Hold | None:
    """What keeps a run from its first change of production; None when it first asks a person, who may override."""
    frozen = guards.frozen
    if frozen is None or not run.changes or exempt(run) or run.asks_first:
        return None
    return Hold(Holder.FREEZE, frozen.why, skips=frozen.skips)


def exempt(run: Run) -> bool:
    """Rollbacks, and runs that only tell somebody, are held by nothing and count for nothing."""
    return run.rolls_back or all(step.verb == "notify" for step in run.steps)


def _counts(run: Run, storm: StormLimit, calm: datetime | None, now: datetime) -> bool:
    return now - run.created < storm.within and (calm is None or run.created > calm) and not exempt(run)
