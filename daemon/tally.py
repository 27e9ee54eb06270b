"""What has happened since the process began, counted as it happens, and how long it took.

Counters begin at zero with every start of the daemon, as Prometheus expects of counters; what has happened in all is in the
store. Only what is durable is counted.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

START_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of how long a call waited for its handler."""
WORK_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
"""Upper bounds of how long a handler took."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one transaction has stored."""

    events: Mapping[str, int]
    """By type."""
    undecidable: int
    """Of the events, those that no rule could be asked about."""
    decisions: Mapping[str, int]
    """By verdict."""
    problems: Mapping[str, int]
    """By kind; the same one again counts again."""


@dataclass(slots=True)
class Durations:
    """A histogram. `counts` has one place more than `bounds`: for what took longer than the last of them."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    seconds: float = 0.0
    """All of them together."""

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """One more; none is shorter than nothing, whatever the clock says."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    def copy(self) -> Durations:
        """As it is now."""
        return Durations(self.bounds, list(self.counts), self.seconds)


@dataclass(slots=True)
class Figures:
    """All of it."""

    events: Counter[str] = field(default_factory=Counter)
    undecidable: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By verb and outcome."""
    starts: Durations = field(default_factory=lambda: Durations(START_S))
    work: dict[str, Durations] = field(default_factory=dict)
    """By verb."""

    def copy(self) -> Figures:
        """As it is now."""
        return Figures(
            self.events.copy(),
            self.undecidable,
            self.decisions.copy(),
            self.problems.copy(),
            self.outcomes.copy(),
            self.starts.copy(),
            {verb: durations.copy() for verb, durations in self.work.items()},
        )


class Tally:
    """Counts. Safe to use from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._figures = Figures()

    def stored(self, counts: Counts) -> None:
        """A transaction is durable."""
        with self._guard:
            self._figures.events.update(counts.events)
            self._figures.undecidable += counts.undecidable
            self._figures.decisions.update(counts.decisions)
            self._figures.problems.update(counts.problems)

    def started(self, waited: float) -> None:
        """A handler begins; its call was due so many seconds ago."""
        with self._guard:
            self._figures.starts.add(waited)

    def answered(self, verb: str, outcome: str, seconds: float) -> None:
        """A handler has answered, after so many seconds."""
        with self._guard:
            self._figures.outcomes[verb, outcome] += 1
            self._figures.work.setdefault(verb, Durations(WORK_S)).add(seconds)

    def figures(self) -> Figures:
        """What has been counted so far."""
        with self._guard:
            return self._figures.copy()
