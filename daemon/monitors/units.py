"""Which units were seen on which arm: each counts once per arm, because the tests of a canary need independent units.

A set is sorted runs of 64-bit hashes: 8 bytes per unit, at most RUNS * RUN units (about a million) per arm; beyond that
the oldest run is forgotten and its units would count again. Only the last run changes, so a checkpoint writes 128 KiB at
most per arm.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from daemon.core.columns import Bools
from daemon.core.hashes import Hashes

RUN = 16_384
RUNS = 64


class UnitSet:
    """The units of one arm."""

    def __init__(self, runs: Iterable[tuple[int, Hashes]] = ()) -> None:
        self.runs: dict[int, Hashes] = dict(sorted(runs))

    def __len__(self) -> int:
        return sum(map(len, self.runs.values()))

    def known(self, units: Hashes) -> Bools:
        """Which of the units were seen before."""
        found = np.zeros(len(units), np.bool_)
        for run in self.runs.values():
            at = np.minimum(np.searchsorted(run, units), len(run) - 1)
            found |= run[at] == units
        return found

    def add(self, units: Hashes) -> tuple[list[int], list[int]]:
        """Take in units that are not known; the numbers of the runs that changed, and of those that were forgotten."""
        if len(units) == 0:
            return [], []
        changed: list[int] = []
        last = max(self.runs, default=0)
        merged = np.concatenate([self.runs.get(last, np.empty(0, np.uint64)), units])
        while len(merged):
            self.runs[last] = np.sort(merged[:RUN])
            changed.append(last)
            merged = merged[RUN:]
            last += 1
        forgotten = sorted(self.runs)[:-RUNS]
        for number in forgotten:
            del self.runs[number]
        return [number for number in changed if number in self.runs], forgotten
