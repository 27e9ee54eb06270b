"""Requests per model version and block: what a canary's verdict is made of.

A unit counts once per arm, with its first score, its slowest answer and any failure of the block in which it is first
seen there; labels count for that first request only. When a version appears that had no traffic, all arms start over:
units that the champion has long known count again, beside those of the newcomer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daemon.core.columns import Bools, Floats, Integers
from daemon.core.events import LATENCY_EDGES_MS
from daemon.core.hashes import Hashes
from daemon.core.histograms import added
from daemon.core.losses import losses
from daemon.core.panes import output_codes
from daemon.core.reference import Reference
from daemon.monitors.join import Match
from daemon.monitors.journal import Journal
from daemon.monitors.packing import pack, unpack
from daemon.monitors.rows import Predictions
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


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The units that an arm saw, each once. Arrays of equal length."""

    hashes: Hashes
    failed: Bools
    """Any of its requests failed."""
    slowest: Floats
    """Its slowest answer in ms; -inf where none is known."""
    codes: Integers
    """The output bin of its first request; -1 for none."""
    firsts: Integers
    """Where its first request was: a row of the block, or a position in the stream."""

    @classmethod
    def of(cls, rows: Predictions, at: Integers, reference: Reference) -> Units:
        """The units of the rows `at`."""
        units, first, inverse = np.unique(rows.units[at], return_index=True, return_inverse=True)
        slowest = np.full(len(units), -np.inf)
        np.fmax.at(slowest, inverse, rows.latency_ms[at])
        records, chosen = rows.batch.records, at[first]
        score = records.score and records.score.take(chosen)
        prediction = records.prediction and records.prediction.take(chosen)
        codes = output_codes(reference, score, prediction)
        return cls(
            hashes=units,
            failed=np.bincount(inverse, weights=rows.failed[at], minlength=len(units)) > 0,
            slowest=slowest,
            codes=np.full(len(units), -1, np.int64) if codes is None else codes,
            firsts=chosen,
        )

    def joined(self, other: Units) -> Units:
        """Both together; of a unit that is in both, the first request is the one with the smaller place."""
        if not len(self.hashes) or not len(other.hashes):
            return self if len(self.hashes) else other
        hashes = np.concatenate([self.hashes, other.hashes])
        firsts = np.concatenate([self.firsts, other.firsts])
        order = np.lexsort((firsts, hashes))
        units, first, inverse = np.unique(hashes[order], return_index=True, return_inverse=True)
        slowest = np.full(len(units), -np.inf)
        np.fmax.at(slowest, inverse, np.concatenate([self.slowest, other.slowest])[order])
        failed = np.bincount(inverse, weights=np.concatenate([self.failed, other.failed])[order]) > 0
        chosen = order[first]
        return Units(units, failed, slowest, np.concatenate([self.codes, other.codes])[chosen], firsts[chosen])

    def take(self, index: Bools | Integers) -> Units:
        """Some of them."""
        return Units(self.hashes[index], self.failed[index], self.slowest[index], self.codes[index], self.firsts[index])


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What an arm saw in a block or slice."""

    requests: int
    errors: int
    start: int
    """Earliest and latest event time."""
    end: int
    bins: int
    """Output bins of the reference; 0 without."""
    units: Units | None
    """None when each request is a unit of its own: then the sums are all that is needed."""
    latency: tuple[int, ...] = ()
    """Requests by latency, and by output bin; only without units."""
    scores: tuple[int, ...] = ()

    @classmethod
    def of(cls, rows: Predictions, at: Integers, reference: Reference, with_units: bool) -> Seen:
        """What the rows `at`, at least one, amount to."""
        times = rows.batch.times[at]
        records = rows.batch.records
        output = records.score if reference.output == "score" else records.prediction
        bins = 0 if reference.outputs is None or output is None else len(reference.outputs.counts)
        common = (len(at), int(rows.failed[at].sum()), int(times.min()), int(times.max()), bins)
        if with_units:
            return cls(*common, Units.of(rows, at, reference))
        codes = output_codes(
            reference, records.score and records.score.take(at), records.prediction and records.prediction.take(at)
        )
        return cls(*common, None, tuple(_latency_counts(rows.latency_ms[at])), _score_counts(codes, bins))

    def joined(self, other: Seen) -> Seen:
        """Both together; scores in other bins are left out."""
        units = self.units.joined(other.units) if self.units and other.units else self.units or other.units
        same = self.bins == other.bins
        return Seen(
            self.requests + other.requests, self.errors + other.errors,
            min(self.start, other.start), max(self.end, other.end), self.bins if same else 0, units,
            tuple(added(self.latency, other.latency)), tuple(added(self.scores, other.scores)) if same else (),
        )  # fmt: skip


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

    def observe(self, rows: Predictions, versions: Sequence[str], chosen: Bools, reference: Reference) -> Bools:
        """Count the chosen rows; which rows of the block were the first of their unit on their arm."""
        counted = np.zeros(rows.count, np.bool_)
        arms = _few([version or UNKNOWN for version in versions])
        rows_of = {
            arm: np.flatnonzero(chosen & np.array([name == arm for name in arms], np.bool_))
            for arm in dict.fromkeys(arm for arm, use in zip(arms, chosen.tolist(), strict=True) if use)
        }
        seen = {arm: Seen.of(rows, at, reference, with_units=True) for arm, at in rows_of.items()}
        for firsts in self.add(seen):
            counted[firsts] = True
        return counted

    def add(self, seen: Mapping[str, Seen]) -> list[Integers]:
        """Count what a block or slice brought, by arm; where the first requests of fresh units were, per arm with units."""
        for arm, one in seen.items():  # before any is counted: a newcomer makes all of the block's arms start over
            self._arrived(arm, one.end)
            self._times += [one.start, one.end]
        return [self._count(arm, one) for arm, one in seen.items()]

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

    def _count(self, arm: str, seen: Seen) -> Integers:
        """Count one arm's requests; where the first requests of its fresh units were."""
        counts = self._counts(arm)
        counts["requests"] += seen.requests
        counts["errors"] += seen.errors
        if seen.units is None:
            counts["units"] += seen.requests
            counts["failed_units"] += seen.errors
            latency, scores, firsts = list(seen.latency), seen.scores, np.empty(0, np.int64)
        else:
            fresh = seen.units.take(self._remember(arm, seen.units.hashes))
            counts["units"] += len(fresh.hashes)
            counts["failed_units"] += int(fresh.failed.sum())
            latency, scores, firsts = (
                _latency_counts(fresh.slowest), _score_counts(fresh.codes, seen.bins), np.sort(fresh.firsts),
            )  # fmt: skip
        if self._latency:
            _add(counts, "latency", latency)
        if scores:
            _add(counts, "scores", list(scores))
        return firsts

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


def few(seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """What came of each version, by arm: those with the fewest requests put together when there are too many."""
    named = {version or UNKNOWN: one for version, one in seen.items()}
    ranked = sorted(named, key=lambda arm: (-named[arm].requests, arm))
    kept = set(ranked if len(ranked) <= ARMS else ranked[: ARMS - 1])
    arms: dict[str, Seen] = {}
    for version, one in named.items():
        arm = version if version in kept else OTHERS
        arms[arm] = arms[arm].joined(one) if arm in arms else one
    return arms


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
    known = slowest[np.isfinite(slowest)]  # NaN is no latency
    buckets = np.searchsorted(np.asarray(LATENCY_EDGES_MS), known, side="left")
    counts: list[int] = np.bincount(buckets, minlength=len(LATENCY_EDGES_MS) + 1).tolist()
    return counts


def _score_counts(codes: Integers | None, bins: int) -> tuple[int, ...]:
    return () if codes is None or not bins else tuple(np.bincount(codes[codes >= 0], minlength=bins).tolist())


def _add(counts: dict[str, Any], name: str, more: list[int]) -> None:
    have = counts.get(name)
    counts[name] = more if have is None else [a + b for a, b in zip(have, more, strict=True)]
