"""Predictions that wait for their labels, and labels that came before their predictions.

Coordinated sampling: a prediction and its label are kept iff the hash of their id is under the stream's `join_rate`, so
both sides choose the same rows without asking each other. Memory is bounded: at most CAPACITY rows wait, the oldest go
first and are counted; a row waits no longer than the horizon, in event time.

Rows lie in blocks of about BLOCK, each one blob of the store: labels mostly come in the order of their predictions, so a
checkpoint rewrites few of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.core.columns import Bools, Column, FeatureKind, Floats, Integers, Records
from daemon.core.hashes import Hashes
from daemon.monitors.journal import Journal
from daemon.monitors.packing import pack, texts, unpack
from daemon.monitors.rows import Labels

CAPACITY = 200_000
"""Most predictions of a stream that wait for labels; about 100 bytes each."""
EARLY = 50_000
"""Most labels of a stream that wait for predictions."""
BLOCK = 2048

_OPEN, _LABELLED, _LOST = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Predictions to be joined."""

    hashes: Hashes
    times: Integers
    prediction: Column | None
    score: Column | None
    windows: Integers
    """rows x slots: the numbers of the windows that each row is in, -1 for none."""
    arms: list[tuple[str, str]]
    """Model and version of each row."""
    counted: Bools
    """The row was the first of its unit on its arm."""

    def take(self, index: Bools) -> Waiting:
        """Some of the rows."""
        arms = [arm for arm, use in zip(self.arms, index.tolist(), strict=True) if use]
        prediction = self.prediction and self.prediction.take(index)
        score = self.score and self.score.take(index)
        return Waiting(
            self.hashes[index], self.times[index], prediction, score, self.windows[index], arms, self.counted[index]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Predictions that met their labels."""

    prediction: Column | None
    score: Column | None
    label: Column
    times: Integers
    windows: Integers
    arms: list[tuple[str, str]]
    counted: Bools

    def records(self) -> Records:
        """The rows as records with prediction, score and label."""
        return Records(len(self.times), {}, self.prediction, self.score, self.label)


@dataclass(slots=True, eq=False)
class _Block:
    """Neighbouring predictions. Arrays of equal length; only `state` changes in place."""

    no: int
    hashes: Hashes
    times: Integers
    state: NDArray[np.uint8]
    prediction: NDArray[Any]
    score: Floats
    windows: Integers
    arm: NDArray[np.uint16]
    """Index into `arms`."""
    counted: Bools
    arms: list[tuple[str, str]]
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Sorts `hashes`; made when needed."""

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def open(self) -> Bools:
        return np.asarray(self.state == _OPEN)

    def blob(self) -> bytes:
        """For the store."""
        names = ("hashes", "times", "state", "prediction", "score", "windows", "arm", "counted", "arms")
        return pack({"no": self.no, **{name: getattr(self, name) for name in names}})

    @classmethod
    def of(cls, blob: bytes) -> _Block:
        """From the store."""
        parts = unpack(blob)
        if not isinstance(parts["prediction"], np.ndarray):
            parts["prediction"] = texts(parts["prediction"])
        parts["arms"] = [(model, version) for model, version in parts["arms"]]
        return cls(**parts)

    def find(self, hashes: Hashes) -> tuple[Integers, Bools]:
        """For each hash the row that has it, and whether there is one."""
        if len(self.order) != len(self):
            self.order = np.argsort(self.hashes, kind="stable")
        ranked = self.hashes[self.order]
        at = np.minimum(np.searchsorted(ranked, hashes), len(ranked) - 1)
        return self.order[at], ranked[at] == hashes


@dataclass(slots=True)
class Counters:
    """What could not be joined, since the stream began."""

    repeated: int = 0
    """Labels for a prediction that had one."""
    evicted: int = 0
    """Predictions given up because too many waited."""
    unmatched: int = 0
    """Labels given up: no prediction came for them in time, or theirs was given up before."""


class LabelJoin:
    """The join of one stream."""

    def __init__(self, kind: FeatureKind, journal: Journal, capacity: int = CAPACITY, early: int = EARLY) -> None:
        self._kind: FeatureKind = kind
        self._journal = journal
        self._capacity = capacity
        self._most_early = early
        self._blocks: dict[int, _Block] = {}
        self._next = 0
        self._early_hashes: Hashes = np.empty(0, np.uint64)
        self._early_since: Integers = np.empty(0, np.int64)
        self._early_labels: NDArray[Any] = self._values(0)
        self.counters = Counters()

    @property
    def rows(self) -> int:
        """Predictions held."""
        return sum(len(block) for block in self._blocks.values())

    @property
    def early(self) -> int:
        """Labels held."""
        return len(self._early_hashes)

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Take up what was stored."""
        for key in sorted(key for key in states if key.startswith("join/")):
            block = _Block.of(states[key])
            self._blocks[block.no] = block
        self._blocks = dict(sorted(self._blocks.items()))
        if "labels" in states:
            parts = unpack(states["labels"])
            self._next = parts["next"]
            self.counters = Counters(**parts["counters"])
            self._early_hashes, self._early_since = parts["hashes"], parts["since"]
            labels = parts["labels"]
            self._early_labels = labels if isinstance(labels, np.ndarray) else texts(labels)

    def add(self, rows: Waiting, watermark: int) -> tuple[list[Match], Integers]:
        """Take predictions in; those whose labels were here already, and the windows of rows given up for lack of room."""
        if len(rows.hashes) == 0:
            return [], np.empty(0, np.int64)
        self._append(rows)
        lost = self._evict()
        at = np.isin(self._early_hashes, rows.hashes)
        if not at.any():
            return [], lost
        labels = Labels(self._early_hashes[at], self._column(self._early_labels[at]))
        self._keep_early(~at)
        return self.match(labels, watermark), lost

    def match(self, labels: Labels, watermark: int) -> list[Match]:
        """Give labels to their predictions; labels without one wait. A prediction keeps the first label that it gets."""
        hashes, first = np.unique(labels.hashes, return_index=True)
        self.counters.repeated += labels.count - len(hashes)
        label = labels.label.take(first)
        matches: list[Match] = []
        for block in list(self._blocks.values()):  # a block that is complete goes
            if len(hashes) == 0:
                break
            rows, found = block.find(hashes)
            if not found.any():
                continue
            fresh = found.copy()
            fresh[found] = block.open[rows[found]]
            self.counters.repeated += int((block.state[rows[found]] == _LABELLED).sum())
            self.counters.unmatched += int((block.state[rows[found]] == _LOST).sum())
            if fresh.any():
                matches.append(self._joined(block, rows[fresh], label.take(fresh)))
            hashes, label = hashes[~found], label.take(~found)
        self._wait(hashes, label, watermark)
        self._touch()
        return matches

    def expire(self, before: int) -> Integers:
        """Give up rows from before an event time, and labels that came when the stream stood before it; their windows."""
        lost = [np.empty(0, np.int64)]
        for block in list(self._blocks.values()):
            overdue = block.open & (block.times < before)
            if overdue.any():
                block.state[overdue] = _LOST
                lost.append(_window_numbers(block.windows[overdue]))
                self._settle(block)
        old = self._early_since < before
        if old.any():
            self.counters.unmatched += int(old.sum())
            self._keep_early(~old)
        return np.concatenate(lost)

    def _append(self, rows: Waiting) -> None:
        count = len(rows.hashes)
        last = next(reversed(self._blocks.values()), None)
        grows = last is not None and len(last) < BLOCK and last.windows.shape[1] == rows.windows.shape[1]
        arms = list(last.arms) if grows and last is not None else []
        for arm in rows.arms:
            if arm not in arms:
                arms.append(arm)
        index = {arm: number for number, arm in enumerate(arms)}
        prediction = self._values(count) if rows.prediction is None else rows.prediction.values
        block = _Block(
            no=self._next, hashes=rows.hashes, times=rows.times, state=np.zeros(count, np.uint8), prediction=prediction,
            score=np.full(count, np.nan) if rows.score is None else rows.score.values, windows=rows.windows,
            arm=np.array([index[arm] for arm in rows.arms], np.uint16), counted=rows.counted, arms=arms,
        )  # fmt: skip
        if grows and last is not None:
            names = ("hashes", "times", "state", "prediction", "score", "windows", "arm", "counted")
            joined = {name: np.concatenate([getattr(last, name), getattr(block, name)]) for name in names}
            block = _Block(no=last.no, arms=arms, **joined)
        else:
            self._next += 1
        self._blocks[block.no] = block
        self._journal.touch(f"join/{block.no:012}", block.blob)
        self._touch()

    def _evict(self) -> Integers:
        """Make room: the oldest blocks go; the windows of their rows without label."""
        lost = [np.empty(0, np.int64)]
        rows = self.rows
        while rows > self._capacity and len(self._blocks) > 1:
            block = next(iter(self._blocks.values()))
            rows -= len(block)
            self.counters.evicted += int(block.open.sum())
            lost.append(_window_numbers(block.windows[block.open]))
            self._drop(block)
        return np.concatenate(lost)

    def _joined(self, block: _Block, rows: Integers, label: Column) -> Match:
        order = np.argsort(rows, kind="stable")  # in the order of the stream, not of the hashes
        rows, label = rows[order], label.take(order)
        block.state[rows] = _LABELLED
        match = Match(
            prediction=self._column(block.prediction[rows]),
            score=Column("number", block.score[rows], np.zeros(len(rows), np.bool_)),
            label=label,
            times=block.times[rows],
            windows=block.windows[rows],
            arms=[block.arms[arm] for arm in block.arm[rows].tolist()],
            counted=block.counted[rows],
        )
        self._settle(block)
        return match

    def _settle(self, block: _Block) -> None:
        """A block none of whose rows wait any more is of no use, unless it is still being filled."""
        if not block.open.any() and len(block) >= BLOCK:
            self._drop(block)
        else:
            self._journal.touch(f"join/{block.no:012}", block.blob)
            self._touch()

    def _drop(self, block: _Block) -> None:
        del self._blocks[block.no]
        self._journal.drop(f"join/{block.no:012}")
        self._touch()

    def _wait(self, hashes: Hashes, label: Column, watermark: int) -> None:
        if len(hashes) == 0:
            return
        self._early_hashes = np.concatenate([self._early_hashes, hashes])
        self._early_since = np.concatenate([self._early_since, np.full(len(hashes), watermark, np.int64)])
        self._early_labels = np.concatenate([self._early_labels, label.values])
        over = len(self._early_hashes) - self._most_early
        if over > 0:
            self.counters.unmatched += over
            self._keep_early(np.arange(len(self._early_hashes)) >= over)

    def _keep_early(self, keep: Bools) -> None:
        self._early_hashes = self._early_hashes[keep]
        self._early_since = self._early_since[keep]
        self._early_labels = self._early_labels[keep]
        self._touch()

    def _touch(self) -> None:
        self._journal.touch("labels", self._blob)

    def _blob(self) -> bytes:
        counters = {
            "repeated": self.counters.repeated,
            "evicted": self.counters.evicted,
            "unmatched": self.counters.unmatched,
        }
        return pack({
            "next": self._next, "counters": counters, "hashes": self._early_hashes, "since": self._early_since,
            "labels": self._early_labels,
        })  # fmt: skip

    def _values(self, count: int) -> NDArray[Any]:
        return np.full(count, np.nan) if self._kind == "number" else texts([None] * count)

    def _column(self, values: NDArray[Any]) -> Column:
        return Column(self._kind, values, np.zeros(len(values), np.bool_))


def sampled(hashes: Hashes, rate: float) -> Bools:
    """Which rows are kept to be joined: those whose `unit_hash` is under the rate."""
    return np.asarray(hashes / 2.0**64 < rate) | (rate >= 1)


def _window_numbers(windows: Integers) -> Integers:
    flat = windows.ravel()
    return flat[flat >= 0]
