"""The slices of a stream's partitions, put together in order: windows, joined labels and traffic of the whole stream.

A slice is taken once all partitions have completed it; then everything in it is final, and in which order the partitions
came is forgotten. Labels on a topic of their own are joined in the order of their slices too, behind the predictions of the
same slice: the join follows from the logs, however far one topic is read before the other.

So all events of predictions have one order, and all of labels too; between the two there is none, as predictions do not wait
for labels. A window is looked at with the labels of the slice that closed it, never of an earlier one: whether it was closed
when those were joined depends on how far the predictions had been read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import orjson

from daemon.core.columns import Column, Integers
from daemon.core.panes import Pane, merge
from daemon.core.problems import Problem
from daemon.monitors.join import Waiting
from daemon.monitors.measure import SampleScores
from daemon.monitors.measures import StreamMeasures
from daemon.monitors.packing import pack, texts, unpack
from daemon.monitors.partials import LabelRows, Partial, WaitingRows, as_coded
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.rows import Labels
from daemon.monitors.slices import BEFORE, Head
from daemon.monitors.statekeys import is_part
from daemon.monitors.traffic import Seen, few
from daemon.monitors.windows import PaneSlice, sample_rows

_COUNTS = ("rows", "late", "malformed", "dropped", "unpaired")
"""Of the partitions' heads."""
SliceTimes = tuple[int, int]
"""Event time [start, end), µs."""


@dataclass(slots=True)
class _Parts:
    """What the store has of one partition."""

    head: Head | None
    slices: dict[SliceTimes, tuple[str, bytes]]
    """Complete or not, with their state keys."""


class SliceMonitor(StreamMeasures):
    """Measures one stream of topics. `states` holds the partitions' states as well."""

    PARTITION: ClassVar[str] = "windows"

    def __init__(self, plan: StreamPlan, states: Mapping[str, bytes], position: int, samples: SampleScores) -> None:
        super().__init__(plan, states, position, samples)
        head = orjson.loads(states["head"]) if "head" in states else {}
        self._last: SliceTimes = tuple(head.get("last", (BEFORE, BEFORE)))
        """The slice that was taken last."""
        self._joined_to: int = head.get("joined", BEFORE)
        """Up to which event time labels are joined."""
        self._held_rows = {_times_of(key): _waiting_of(blob) for key, blob in states.items() if key.startswith("held/")}
        """Predictions of slices whose labels are not complete yet."""
        self._parts: dict[tuple[str, int], _Parts] = {}
        self.take({key: blob for key, blob in states.items() if is_part(key)})

    def take(self, states: Mapping[str, bytes | None]) -> None:
        """The owners of partitions have stored these; None: it is gone."""
        for key, blob in states.items():
            _, topic, partition, what, *times = key.split("/")
            parts = self._parts.setdefault((topic, int(partition)), _Parts(None, {}))
            if what == "halves":
                continue  # that is its owner's
            if what == "head":
                parts.head = None if blob is None else Head.from_json(orjson.loads(blob))
            elif blob is None:
                parts.slices.pop(_times_of(key), None)
            elif times:
                parts.slices[_times_of(key)] = (key, blob)

    def step(self) -> bool:
        """Take the next slice that is complete, or join the labels of one; False when there is none now."""
        times = self._next(self._of(self.plan.predictions), self._complete(self.plan.predictions))
        if times is not None:
            self._take_slice(times)
        elif self.is_open and self._is_idle(self.plan.predictions):
            self._end_windows()
        elif (times := self._next_labels()) is not None:
            self._join_slice(times)
        elif not self._rest():
            return False
        self._moved(1)
        return True

    def figures(self) -> dict[str, int]:
        """How much it keeps, and what had to be given up since the stream began."""
        heads = [parts.head for parts in self._parts.values() if parts.head is not None]
        return {
            **super().figures(),
            "slices": sum(len(parts.slices) for parts in self._parts.values()),
            "held": sum(len(rows.hashes) for rows in self._held_rows.values()),
            **{name: sum(getattr(head, name) for head in heads) for name in _COUNTS},
        }

    # -- which slice is next

    def _of(self, topic: str) -> list[_Parts]:
        """The partitions of a topic that are known, in order."""
        return [parts for (name, _), parts in sorted(self._parts.items()) if name == topic]

    def _complete(self, topic: str) -> int:
        """Up to which time all partitions of a topic are complete."""
        heads = self._heads(topic)
        if not heads or len(heads) < max(head.of for head in heads):
            return BEFORE
        return min(head.complete for head in heads)

    def _heads(self, topic: str) -> list[Head]:
        """Of the partitions that the topic has: one that was made anew may have fewer than the one before."""
        heads = [parts.head for parts in self._of(topic) if parts.head is not None]
        first = next((head for head in heads if head.partition == 0), None)
        return [] if first is None else [head for head in heads if first.is_of(head.topic_id)]

    def _next(self, of: Iterable[_Parts], complete: int) -> SliceTimes | None:
        found = (times for parts in of for times in parts.slices if times[1] <= complete)
        return min(found, key=lambda times: (times[1], times[0]), default=None)

    def _next_labels(self) -> SliceTimes | None:
        if not self.plan.labelled or not self.plan.labels:
            return None
        complete = self._joinable()
        held = [times for times in self._held_rows if times[1] <= complete]
        came = self._next(self._of(self.plan.labels), complete)
        return min([*held, *([came] if came else [])], key=lambda times: (times[1], times[0]), default=None)

    def _joinable(self) -> int:
        """Up to which time labels can be joined: behind the predictions, unless none come any more."""
        complete = self._complete(self.plan.predictions)
        if not self.plan.labels:
            return complete
        labels = self._complete(self.plan.labels)
        return labels if self._is_idle(self.plan.predictions) else min(labels, complete)

    def _partials(self, topic: str, times: SliceTimes) -> list[Partial]:
        """The slice's sums in order of partitions; from now on they are not needed any more."""
        found: list[Partial] = []
        for parts in self._of(topic):
            key, blob = parts.slices.pop(times, ("", b""))
            if key:
                found.append(Partial.of(blob))
                self._journal.drop(key)
        return found

    # -- predictions

    def _take_slice(self, times: SliceTimes) -> None:
        partials = self._partials(self.plan.predictions, times)
        if (times[1], times[0]) <= (self._last[1], self._last[0]):
            self._missed(partials)
            return
        self._last = times
        self._watermark = max(self._watermark, times[1])
        slots: list[dict[tuple[str, str], int]] = []
        firsts: list[Integers] = []
        for model in self.plan.models:
            if self.plan.fields.version is not None:
                firsts += self._traffic[model.name].add(few(_seen(model.name, partials)))
            slots.append(self._take_model(model, times, partials))
        if self.plan.labelled:
            waiting = self._waiting(partials, slots, firsts)
            if self.plan.labels:
                self._hold_rows(times, waiting)
            else:
                self._join_rows(times, waiting, partials)
        self._account(times[1], "slice", *times)

    def _take_model(
        self, model: ModelPlan, times: SliceTimes, partials: Sequence[Partial]
    ) -> dict[tuple[str, str], int]:
        """Put the model's rows into its windows; the window of each monitor and segment."""
        champion, held = self._champions.get(model.name, Champion()), self._held[model.name]
        fit = [p for p in partials if p.tags.get(model.name) == (champion.version, held.reference.panes)]
        windows: dict[tuple[str, str], int] = {}
        self._reach(model, times[0], times[1])
        for monitor in model.monitors:
            for column in ("", *monitor.segments):
                most = sample_rows(monitor, bool(column))
                for segment, pane in _panes(fit, model.name, column, most).items():
                    track = self._track(model, monitor.name, segment)
                    if track is not None:
                        no = track.add_slice(PaneSlice(*times, pane))
                        windows[monitor.name, segment] = no
                        if self.plan.labelled:
                            self._owners[no] = track
        self._reach(model, times[1], times[1])
        late = sum(partial.late.get(model.name, 0) for partial in partials)
        for (_, segment), track in self._tracks[model.name].items():
            if late and not segment:
                track.late(late)
        return windows

    def _reach(self, model: ModelPlan, time: int, until: int) -> None:
        for track in self._in_order(model.name):
            self._events += track.reach(time, self._samples, until)

    def _missed(self, partials: Sequence[Partial]) -> None:
        """Rows of a slice that is closed: their partition was not known when it was."""
        rows = sum(partial.rows for partial in partials)
        if rows:
            self._complain("a partition that had not been there brought rows of closed slices; they are not measured")

    def _waiting(
        self, partials: Sequence[Partial], slots: Sequence[Mapping[tuple[str, str], int]], firsts: Sequence[Integers]
    ) -> Waiting:
        """The sampled predictions of the slice with the windows that they are in."""
        parts = [_with_windows(self.plan, rows, self._fits(partial), slots)
                 for partial in partials for rows in partial.waiting]  # fmt: skip
        if not parts:
            return _NO_ROWS
        rows = WaitingRows.joined([part for part, _ in parts])
        counted = np.full(len(rows), self.plan.fields.version is not None and self.plan.fields.unit is None)
        if firsts and self.plan.fields.unit is not None:
            counted = np.isin(rows.positions, np.concatenate(firsts))
        arms = list(zip(rows.models.values.tolist(), [v or "" for v in rows.versions.values.tolist()], strict=True))
        stacked = np.concatenate([windows for _, windows in parts])
        return Waiting(rows.hashes, rows.times, rows.prediction, rows.score, stacked, arms, counted)

    def _fits(self, partial: Partial) -> frozenset[str]:
        """The models whose rows of the partial were held against the champion that is champion now."""
        now = {
            model.name: (self._champions.get(model.name, Champion()).version, self._held[model.name].reference.panes)
            for model in self.plan.models
        }
        return frozenset(name for name, tag in partial.tags.items() if now.get(name) == tag)

    # -- labels

    def _hold_rows(self, times: SliceTimes, waiting: Waiting) -> None:
        if len(waiting.hashes):
            self._held_rows[times] = waiting
            self._journal.touch(_held_key(times), lambda: _waiting_blob(waiting))

    def _join_slice(self, times: SliceTimes) -> None:
        """Join the labels of a slice, behind its predictions."""
        waiting = self._held_rows.pop(times, None)
        if waiting is not None:
            self._journal.drop(_held_key(times))
        self._join_rows(times, waiting, self._partials(self.plan.labels, times))
        self._account(times[1], "labels", *times)

    def _join_rows(self, times: SliceTimes, waiting: Waiting | None, partials: Sequence[Partial]) -> None:
        self._joined_to = max(self._joined_to, times[1])
        if waiting is not None and len(waiting.hashes):
            self._wait(waiting)
        came = [rows for partial in partials for rows in partial.labels]
        if came:
            rows = LabelRows.joined(came)
            self._labelled(Labels(rows.hashes, rows.label))
        self._lost(self._join.expire(self._overdue))
        self._measured(self._joined_to)

    @property
    def _labelled_at(self) -> int:
        return self._joined_to

    # -- when nothing comes

    def _end_windows(self) -> None:
        """No predictions come any more: close the windows, before labels of later slices are joined.

        They are looked at with those: labels of the last slice may have been joined before it was known to be the last.
        """
        complete = self._complete(self.plan.predictions)
        for model in self.plan.models:
            self._reach(model, complete, complete + 1)
        self._close_windows("idle", complete + 1)

    def _rest(self) -> bool:
        """All has been taken: when nothing comes any more, measure what waits; whether that changed anything."""
        topics = [self.plan.predictions, *([self.plan.labels] if self.plan.labels else [])]
        if not self.plan.labelled or not all(self._is_idle(topic) for topic in topics):
            return False
        before = (len(self._events), self._joined_to)
        self._joined_to = max(self._joined_to, self._joinable())
        self._measured()
        return (len(self._events), self._joined_to) != before

    def _is_idle(self, topic: str) -> bool:
        """Whether nothing comes any more, and all partitions are closed up to where the furthest is.

        Before that some have slices that the others do not have yet, and windows that were closed would lack their rows.
        """
        heads = self._heads(topic)
        complete = self._complete(topic)
        return complete > BEFORE and all(head.idle and head.complete == complete for head in heads)

    def _head(self) -> dict[str, Any]:
        return {**super()._head(), "last": self._last, "joined": self._joined_to}

    def gap(self, where: str, why: str) -> None:
        """Records are gone before they were read."""
        self._problem(Problem("record", where, why))
        self._moved(1)


def _panes(partials: Sequence[Partial], model: str, column: str, most: int) -> dict[str, Pane]:
    """The slice's panes by segment, all partitions merged, in order of names."""
    found: dict[str, list[Pane]] = {}
    for partial in partials:
        for (of, segment, rows), pane in partial.panes.items():
            if of == model and rows == most and segment.partition("=")[0] == column:
                found.setdefault(segment, []).append(pane)
    return {segment: reduce(merge, found[segment]) for segment in sorted(found)}


def _seen(model: str, partials: Sequence[Partial]) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    for partial in partials:
        for version, one in partial.seen.get(model, {}).items():
            seen[version] = seen[version].joined(one) if version in seen else one
    return seen


def _with_windows(
    plan: StreamPlan, rows: WaitingRows, fit: frozenset[str], slots: Sequence[Mapping[tuple[str, str], int]]
) -> tuple[WaitingRows, Integers]:
    """The rows, and per row and slot the window that it is in, -1 for none."""
    width = max([1, *(sum(1 + len(m.segments) for m in model.monitors) for model in plan.models)])
    windows = np.full((len(rows), width), -1, np.int64)
    for model, found in zip(plan.models, slots, strict=True):
        if model.name not in fit:
            continue
        mine = rows.measured & rows.models.equals(model.name)
        slot = 0
        for monitor in model.monitors:
            for column in ("", *monitor.segments):
                if not column:
                    windows[mine, slot] = found.get((monitor.name, ""), -1)
                else:
                    numbers = as_coded(rows.segments[column])
                    table = [found.get((monitor.name, f"{column}={level}"), -1) for level in numbers.levels]
                    windows[mine, slot] = np.array([*table, -1])[numbers.codes][mine]
                slot += 1
    return rows, windows


_NO_ROWS = Waiting(
    np.empty(0, np.uint64), np.empty(0, np.int64), None, None, np.empty((0, 1), np.int64), [], np.empty(0, np.bool_)
)


def _times_of(key: str) -> SliceTimes:
    start, _, end = key.rpartition("/")[2].partition(":")
    return int(start), int(end)


def _held_key(times: SliceTimes) -> str:
    return f"held/{times[0]}:{times[1]}"


def _waiting_blob(rows: Waiting) -> bytes:
    prediction = None if rows.prediction is None else rows.prediction.values
    score = None if rows.score is None else rows.score.values
    kinds = {name: (column := getattr(rows, name)) and column.kind for name in ("prediction", "score")}
    return pack({
        "hashes": rows.hashes, "times": rows.times, "windows": rows.windows, "counted": rows.counted,
        "arms": rows.arms, "prediction": prediction, "score": score, "kinds": kinds,
    })  # fmt: skip


def _waiting_of(blob: bytes) -> Waiting:
    parts = unpack(blob)

    def column(name: str) -> Column | None:
        kind, values = parts["kinds"][name], parts[name]
        if kind is None:
            return None
        values = values if isinstance(values, np.ndarray) else texts(values)
        return Column(kind, values, np.zeros(len(values), np.bool_))

    arms = [(model, version) for model, version in parts["arms"]]
    return Waiting(
        parts["hashes"], parts["times"], column("prediction"), column("score"), parts["windows"], arms, parts["counted"]
    )
