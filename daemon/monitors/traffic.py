"""Requests per model version and block: what a canary's verdict is made of.

A unit counts once per arm, with its first score, its slowest answer and any failure of the block in which it is first
seen there; labels count for that first request only. When a version appears that had no traffic, all arms start over:
units that the champion has long known count again, beside those of the newcomer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from daemon.core.columns import Bools, Floats
from daemon.core.events import LATENCY_EDGES_MS
from daemon.core.losses import losses
from daemon.core.panes import output_counts
from daemon.core.reference import Reference
from daemon.monitors.join import Match
from daemon.monitors.journal import Journal
from daemon.monitors.packing import pack, unpack
from daemon.monitors.rows import Hashes, Predictions
from daemon.monitors.units import UnitSet
from daemon.monitors.values import instant

ARMS = 8
"""Most versions of a model that are told apart at a time; the one longest without traffic is forgotten first."""
FORGET = 6 * 3_600_000_000
"""A version without traffic for so long (event time, µs) starts over when it comes back."""
UNKNOWN = "unknown"
"""The arm of rows that do not say their version."""
OTHERS = "others"
"""The arm of the versions with the fewest rows of a block, when there are too many."""


class Traffic:
    """The arms of one model on one stream."""

    def __init__(self, model: str, units: bool, latency: bool, journal: Journal) -> None:
        self._model = model
        self._units = units
        """Several requests may share a unit; else each is its own, and none need be remembered."""
        self._latency = latency
        self._journal = journal
        self._arms: dict[str, UnitSet] = {}
        self._seen: dict[str, int] = {}
        """Arm -> latest event time."""
        self._block: dict[str, dict[str, Any]] = {}
        self._times: list[int] = []

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Take up what was stored."""
        head = states.get(f"arms/{self._model}")
        if head is None:
            return
        self._seen = dict(unpack(head)["seen"])
        for arm in self._seen:
            prefix = f"units/{self._model}/{arm}/"
            runs = (
                (int(key.removeprefix(prefix)), unpack(states[key])["run"]) for key in states if key.startswith(prefix)
            )
            self._arms[arm] = UnitSet(runs)

    def observe(self, rows: Predictions, versions: list[str], chosen: Bools, reference: Reference) -> Bools:
        """Count the chosen rows; which rows of the block were the first of their unit on their arm."""
        counted = np.zeros(rows.count, np.bool_)
        arms = _few([version or UNKNOWN for version in versions])
        rows_of = {
            arm: np.flatnonzero(chosen & np.array([name == arm for name in arms], np.bool_))
            for arm in dict.fromkeys(arm for arm, use in zip(arms, chosen.tolist(), strict=True) if use)
        }
        for arm, at in rows_of.items():  # before any is counted: a newcomer makes all of the block's arms start over
            self._arrived(arm, int(rows.batch.times[at].max()))
        for arm, at in rows_of.items():
            counted[self._arm(arm, rows, at, reference)] = True
        if chosen.any():
            times = rows.batch.times[chosen]
            self._times += [int(times.min()), int(times.max())]
        return counted

    def labelled(self, match: Match, reference: Reference) -> None:
        """Count the labels that came for this model's first requests."""
        mine = np.array([model == self._model for model, _ in match.arms], np.bool_) & match.counted
        if not mine.any():
            return
        wrong = _wrong(match, reference)
        chosen = np.flatnonzero(mine).tolist()
        for row, name in zip(chosen, _few([match.arms[row][1] or UNKNOWN for row in chosen]), strict=True):
            arm = self._counts(name)
            arm["labelled"] += 1
            arm["wrong"] += int(wrong[row])
        self._times += [int(match.times[mine].min()), int(match.times[mine].max())]

    def measured(self, stream: str) -> dict[str, Any] | None:
        """The data of traffic.measured for what came since the last call; None when nothing did."""
        if not self._block:
            return None
        start, end = instant(min(self._times)), instant(max(self._times))
        arms = {arm: self._block[arm] for arm in sorted(self._block)}
        self._block, self._times = {}, []
        return {
            "model": self._model,
            "stream": stream,
            "start": start.isoformat(),
            "end": end.isoformat(),
            "arms": arms,
        }

    def _arm(self, arm: str, rows: Predictions, at: Any, reference: Reference) -> Any:
        """Count one arm's rows `at`; the rows that were the first of their unit."""
        units, first, inverse = np.unique(rows.units[at], return_index=True, return_inverse=True)
        fresh = self._remember(arm, units)
        failed = np.bincount(inverse, weights=rows.failed[at], minlength=len(units))[fresh] > 0
        counts = self._counts(arm)
        counts["requests"] += len(at)
        counts["errors"] += int(rows.failed[at].sum())
        counts["units"] += int(fresh.sum())
        counts["failed_units"] += int(failed.sum())
        if self._latency:
            slowest = np.full(len(units), -np.inf)
            np.fmax.at(slowest, inverse, rows.latency_ms[at])
            _add(counts, "latency", _latency_counts(slowest[fresh]))
        chosen = np.sort(at[first[fresh]])
        records = rows.batch.records
        score, prediction = (
            records.score and records.score.take(chosen),
            records.prediction and records.prediction.take(chosen),
        )
        bins = output_counts(reference, score, prediction)
        if bins:
            _add(counts, "scores", list(bins))
        return chosen

    def _remember(self, arm: str, units: Hashes) -> Bools:
        """Which of the units are new on the arm; from now on they are known."""
        if not self._units:
            return np.ones(len(units), np.bool_)
        known = self._arms.get(arm)
        if known is None:  # pushed out by newcomers of the same block
            return np.ones(len(units), np.bool_)
        fresh = ~known.known(units)
        changed, forgotten = known.add(units[fresh])
        for number in changed:
            self._journal.touch(self._key(arm, number), lambda arm=arm, number=number: self._blob(arm, number))  # type: ignore[misc]
        for number in forgotten:
            self._journal.drop(self._key(arm, number))
        return fresh

    def _arrived(self, arm: str, time: int) -> None:
        """Note that the arm has traffic; a newcomer makes all arms start over."""
        latest = max(self._seen.values(), default=time)
        if arm not in self._seen or latest - self._seen[arm] > FORGET:
            for other in list(self._arms):
                self._forget(other)
            self._seen.setdefault(arm, time)
            oldest = sorted(self._seen.keys() - {arm}, key=lambda name: (self._seen[name], name))
            for other in oldest[: max(0, len(self._seen) - ARMS)]:
                del self._seen[other]
            self._arms = {name: UnitSet() for name in self._seen}
        self._seen[arm] = max(time, self._seen[arm])
        self._journal.touch(f"arms/{self._model}", lambda: pack({"seen": self._seen}))

    def _forget(self, arm: str) -> None:
        for number in self._arms.pop(arm).runs:
            self._journal.drop(self._key(arm, number))

    def _counts(self, arm: str) -> dict[str, Any]:
        empty = {"requests": 0, "errors": 0, "units": 0, "failed_units": 0, "labelled": 0, "wrong": 0}
        return self._block.setdefault(arm, empty)

    def _key(self, arm: str, number: int) -> str:
        return f"units/{self._model}/{arm}/{number:08}"

    def _blob(self, arm: str, number: int) -> bytes:
        return pack({"run": self._arms[arm].runs[number]})


def _few(arms: list[str]) -> list[str]:
    """The arms, with those of the fewest rows put together when there are more than can be told apart."""
    counted = Counter(arms)
    if len(counted) <= ARMS:
        return arms
    kept = {arm for arm, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[: ARMS - 1]}
    return [arm if arm in kept else OTHERS for arm in arms]


def _wrong(match: Match, reference: Reference) -> Bools:
    """Which predictions were wrong; regression: further off than 80 % of the reference's."""
    found = match_losses(match, reference)
    if reference.task != "regression":
        return found > 0.5
    return found > (np.inf if reference.large_error is None else reference.large_error)


def match_losses(match: Match, reference: Reference) -> Floats:
    """The realised loss of each joined row."""
    return losses(reference.task, match.records(), reference.positive)


def _latency_counts(slowest: Floats) -> list[int]:
    known = slowest[np.isfinite(slowest)]
    buckets = np.searchsorted(np.asarray(LATENCY_EDGES_MS), known, side="left")
    counts: list[int] = np.bincount(buckets, minlength=len(LATENCY_EDGES_MS) + 1).tolist()
    return counts


def _add(counts: dict[str, Any], name: str, more: list[int]) -> None:
    have = counts.get(name)
    counts[name] = more if have is None else [a + b for a, b in zip(have, more, strict=True)]
