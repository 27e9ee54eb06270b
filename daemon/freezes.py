"""The freezes of config.yaml as a calendar: which one is on at a moment, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.core.holding import Calendar, Frozen
from daemon.duetimes import DueTimes, due_times
from daemon.limitparts import Freeze
from daemon.sourceparts import Schedule


@dataclass(frozen=True, slots=True)
class _Window:
    """One freeze, ready to be asked."""

    name: str
    begins: datetime | None
    ends: datetime | None
    freeze: Freeze
    starts: DueTimes | None

    def on(self, now: datetime) -> Frozen | None:
        """The freeze when it is on at `now`."""
        if (self.begins is not None and now < self.begins) or (self.ends is not None and now >= self.ends):
            return None
        ends, lasts = self.ends, self.freeze.lasts
        if self.starts is not None and lasts is not None:
            begun, _ = self.starts.between(now - lasts, now)
            if not begun:
                return None
            ends = min(begun[-1] + lasts, self.ends) if self.ends is not None else begun[-1] + lasts
        assert ends is not None  # config.yaml was checked: it has an end of one kind or the other
        return Frozen(self.name, ends.astimezone(UTC), skips=self.freeze.firings == "skip")


def calendar(freezes: Mapping[str, Freeze]) -> Calendar:
    """The calendar of these freezes. Where several are on, the one that lasts longest is told; one that skips decides."""
    windows = tuple(_window(name, freeze) for name, freeze in freezes.items())

    def frozen(now: datetime) -> Frozen | None:
        found = [on for window in windows if (on := window.on(now)) is not None]
        if not found:
            return None
        longest = max(found, key=lambda one: (one.until, one.name))
        return Frozen(longest.name, longest.until, skips=any(one.skips for one in found))

    return frozen


def _window(name: str, freeze: Freeze) -> _Window:
    starts = due_times(Schedule(cron=freeze.cron, timezone=freeze.timezone)) if freeze.cron is not None else None
    return _Window(name, freeze.begins, freeze.ends, freeze, starts)
