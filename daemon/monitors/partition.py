"""One partition of a topic: its records in the order of its log -> sums per slice, and where the partition stands.

A function of the log, the champions and the closures. It knows nothing of other partitions, and does no I/O except for dead
letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import orjson

from daemon.clients.kafka_places import Place
from daemon.core.columns import Bools, Integers, coded
from daemon.core.panes import empty, observe
from daemon.core.problems import Problem
from daemon.core.reference import Reference
from daemon.intake import Progress, StateWrite
from daemon.monitors.archive import Archive
from daemon.monitors.arrow import NO_TIME
from daemon.monitors.dead_letters import DeadLetters, SendLetters
from daemon.monitors.decoding import Format
from daemon.monitors.held import FAULTS, Held, hold
from daemon.monitors.join import sampled
from daemon.monitors.partials import LabelRows, PaneKey, Partial, WaitingRows
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.records import Malformed, Raw
from daemon.monitors.rows import Predictions, labels, predictions
from daemon.monitors.slices import Frontier, Head, Judged, Slicing
from daemon.monitors.statekeys import halves_key, head_key, slice_key, slice_prefix
from daemon.monitors.stream import groups, predicted
from daemon.monitors.traffic import Seen
from daemon.monitors.windows import sample_rows

SEGMENT_VALUES = 100
"""Most values of a segment column in one slice of a partition; rows of later ones count only among all rows."""
_PARTITION_BITS = 16
_DAY = 86_400_000_000
_AHEAD = 30 * _DAY


LONGEST = 8 << 20
"""Longest value in bytes; a longer one is a malformed record."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Some records of a partition, as one poll brought them; tombstones are left out. Sequences of equal length."""

    values: Sequence[bytes]
    offsets: Sequence[int]
    """Ascending."""
    timestamps: Sequence[int]
    """When each was written, as its record says, in ms since 1970."""
    next: int
    """The offset behind all that the poll brought."""
    epoch: int = -1
    """Of the leader who took the record before it; -1: not known."""

    def records(self, which: Sequence[Malformed]) -> dict[int, tuple[bytes, int]]:
        """Value and timestamp of the records that are meant, by offset."""
        offsets = np.asarray(self.offsets, dtype=np.int64)
        at = np.searchsorted(offsets, [one.where for one in which]).tolist()
        return {self.offsets[row]: (self.values[row], self.timestamps[row]) for row in at if row < len(self.offsets)}


_NOTHING = Portion((), (), (), 0)


@dataclass(frozen=True, slots=True)
class LogClock:
    """The times that rows of a log are held against: those of the log, not of whoever reads it (µs)."""

    landed: Integers
    """When each record was written."""
    frontier: Frontier

    def limit(self, times: Integers) -> Integers:
        """A day after the record was written, or a month after where the partition stands before it."""
        limit = self.landed + _DAY
        if (times <= limit).all():
            return limit
        stands = self.frontier.watermark
        for row, time in enumerate(times.tolist()):
            limit[row] = max(limit[row], stands + _AHEAD)
            if NO_TIME < time <= limit[row]:
                stands = max(stands, time)
        return limit


class Champions:
    """The champions of a stream's models and their references, for all partitions that a worker has."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._champions: dict[str, Champion] = {}
        self._held: dict[str, Held] = {}

    def set(self, model: str, champion: Champion) -> bool:
        """From now on this is the champion; whether it was another."""
        if self._champions.get(model) == champion:
            return False
        self._champions[model] = champion
        self._held.pop(model, None)
        return True

    def of(self, model: ModelPlan) -> tuple[str, Held]:
        """The champion's version (empty when nobody knows) and its reference."""
        champion = self._champions.get(model.name, Champion())
        if model.name not in self._held:
            self._held[model.name] = hold(self._plan, model.task, champion)
        return champion.version, self._held[model.name]


class PartitionMonitor:
    """Sums one partition. `stored`: the blobs of its open slices, by their state keys."""

    def __init__(
        self,
        plan: StreamPlan,
        champions: Champions,
        head: Head,
        stored: Mapping[str, bytes],
        made: Format,
        send: SendLetters | None = None,
    ) -> None:
        self._plan = plan
        self._content: Literal["predictions", "labels"] = "labels" if head.topic == plan.labels else "predictions"
        self._champions = champions
        self._format = made
        self._slicing = Slicing(plan.slice_us, plan.lateness_us if self._content == "predictions" else 0)
        self.letters = DeadLetters(plan, send)
        """No progress may be stored while some of them wait for room."""
        self.archive = Archive(plan, head)
        """No progress may be stored before it has kept its rows."""
        self.head = head
        self._stored = head.position
        self._is_new = not stored
        self._open: dict[tuple[int, int], Partial] = {}
        for key, blob in stored.items():
            if key.startswith(slice_prefix(head)):
                partial = Partial.of(blob)
                if partial.end > head.complete:
                    self._open[partial.start, partial.end] = partial
        self._changed: dict[tuple[int, int], Partial] = {}
        self._problems: dict[tuple[str, str, str], Problem] = {}
        self._portion = _NOTHING
        """What is being summed."""
        self.refresh()

    @property
    def changed(self) -> bool:
        """Something is to be stored."""
        return self._is_new or self.head.position != self._stored

    @property
    def open_slices(self) -> int:
        """Slices that are not complete."""
        return len(self._open)

    def add(self, portion: Portion) -> None:
        """Sum the next records."""
        self._portion = portion
        written = portion.timestamps[-1] if portion.timestamps else self.head.written
        portion = self._short(portion)
        offsets = np.asarray(portion.offsets, dtype=np.int64)
        times = np.asarray(portion.timestamps, dtype=np.int64) * 1000
        pieces = self._format.decode(portion.values, portion.offsets, times) if portion.values else []
        for raw in pieces:
            landed = times[np.searchsorted(offsets, np.asarray(raw.lines, dtype=np.int64))]
            if self._content == "labels":
                self._label(raw, landed)
            else:
                self._predict(raw, landed)
            self.archive.add(raw, self.head.base)
        frontier = self.head.frontier
        complete = max(self.head.complete, frontier.complete(self._slicing))
        idle = self.head.idle and not self._portion.values  # marks of transactions and tombstones end no lull
        self.head = replace(
            self.head, offset=portion.next, epoch=self._portion.epoch, complete=complete, idle=idle, written=written
        )
        self._note_format()
        self._portion = _NOTHING
        self._forget_complete()

    def add_carefully(self, portion: Portion) -> None:
        """Sum records one by one; one that cannot be measured is set aside."""
        for value, offset, timestamp in zip(portion.values, portion.offsets, portion.timestamps, strict=True):
            try:
                self.add(Portion((value,), (offset,), (timestamp,), offset + 1))
            except FAULTS as error:
                self.reject(value, offset, f"it cannot be measured ({type(error).__name__}: {error})")
        self.add(Portion((), (), (), portion.next, portion.epoch))

    def move(self, place: Place, of: int) -> None:
        """Go on at this place of a topic which has `of` partitions: what lies before it is gone, or was read."""
        self.head = replace(self.head.move(place.offset, place.topic_id), epoch=place.epoch, of=of)

    def reject(self, value: bytes, offset: int, reason: str) -> None:
        """The next record cannot be measured."""
        self._portion = Portion((value,), (offset,), (self.head.written,), offset + 1)
        self._letter((Malformed(offset, reason, value),))
        self.head = replace(self.head, offset=offset + 1, epoch=-1, idle=False)
        self._portion = _NOTHING

    def close(self, time: int) -> None:
        """Nothing came for a while: close the slices up to `time`, and those that have rows."""
        self._format.idle()
        self._note_format()
        last = max((end for _, end in self._open), default=time)
        self.head = self.head.close(max(time, last))
        self._forget_complete()

    def refresh(self) -> None:
        """Another champion may have come: sums that were held against the old one's reference begin anew."""
        for model in self._plan.models:
            version, held = self._champions.of(model)
            for key, partial in self._open.items():
                if partial.tags.get(model.name, (version, held.reference.panes)) != (version, held.reference.panes):
                    partial.forget(model.name)
                    self._changed[key] = partial

    def checkpoint(self) -> tuple[Progress, list[StateWrite], list[Problem]]:
        """What is to be stored, since the last time."""
        plan, head = self._plan.name, self.head
        progress = Progress(plan, head.name, self._stored, head.position)
        writes = [StateWrite(plan, slice_key(head, key), partial.to_bytes()) for key, partial in self._changed.items()]
        writes.append(StateWrite(plan, head_key(head), orjson.dumps(head.to_json())))
        remembered = self._format.state()
        if remembered:
            writes.append(StateWrite(plan, halves_key(head), remembered))
        problems = list(self._problems.values())
        self._stored, self._is_new = head.position, False
        self._changed, self._problems = {}, {}
        return progress, writes, problems

    # -- rows

    def _short(self, portion: Portion) -> Portion:
        """The portion without the values that are too long; each of them is malformed, however the log is portioned."""
        if not portion.values or max(map(len, portion.values)) <= LONGEST:
            return portion
        reason = f"the value is longer than {LONGEST >> 20} MiB"
        fit: list[tuple[bytes, int, int]] = []
        for value, offset, timestamp in zip(portion.values, portion.offsets, portion.timestamps, strict=True):
            if len(value) <= LONGEST:
                fit.append((value, offset, timestamp))
            else:
                self._letter((Malformed(offset, reason, value),))
        values, offsets, timestamps = zip(*fit, strict=True) if fit else ((), (), ())
        return Portion(values, offsets, timestamps, portion.next, portion.epoch)

    def _predict(self, raw: Raw, landed: Integers) -> None:
        rows, malformed = predictions(raw, self._plan, LogClock(landed, self.head.frontier))
        self._letter((*raw.malformed, *malformed))
        times = rows.batch.times
        judged, frontier = self.head.frontier.judge(times, self._slicing)
        positions = (self._places(rows) << _PARTITION_BITS) | self.head.partition
        rows = replace(rows, batch=replace(rows.batch, positions=positions))
        late = int(judged.late.sum())
        self.head = replace(self.head, frontier=frontier, rows=self.head.rows + rows.count, late=self.head.late + late)
        for start in np.unique(judged.starts).tolist():
            mine = judged.starts == start
            partial = self._partial(start)
            if late:
                self._count_late(rows, mine & judged.late, partial)
            self._sum(rows, mine & ~judged.late if late else mine, partial)
        if self._plan.labelled and rows.batch.records.label is not None:
            label = rows.batch.records.label
            self._keep_labels(LabelRows(rows.hashes, label), label.usable, judged)

    def _places(self, rows: Predictions) -> Integers:
        """Where each row lies among all of the partition: at its record, or, where one may have several rows, by number."""
        if self._plan.format == "kserve":
            return np.arange(self.head.rows, self.head.rows + rows.count, dtype=np.int64)
        return rows.lines + self.head.base

    def _note_format(self) -> None:
        """What the format has given up."""
        if self._format.unpaired != self.head.unpaired:
            self.head = replace(self.head, unpaired=self._format.unpaired)
        for why in self._format.complaints():
            self._problem(Problem("record", self.head.name, why))

    def _label(self, raw: Raw, landed: Integers) -> None:
        came, malformed = labels(raw, self._plan)
        self._letter((*raw.malformed, *malformed))
        times = landed[np.searchsorted(np.asarray(raw.lines, dtype=np.int64), came.lines)]
        judged, frontier = self.head.frontier.judge(times, self._slicing)
        self.head = replace(self.head, frontier=frontier, rows=self.head.rows + came.count)
        self._keep_labels(LabelRows(came.hashes, came.label), np.ones(came.count, np.bool_), judged)

    def _keep_labels(self, rows: LabelRows, usable: Bools, judged: Judged) -> None:
        """Let sampled labels go along with their slice; one that is late with the first that is still open."""
        kept = usable & sampled(rows.hashes, self._plan.join_rate)
        for start in np.unique(judged.starts[kept]).tolist():
            self._drop(self._partial(start).label(rows.take(kept & (judged.starts == start))))

    def _sum(self, rows: Predictions, chosen: Bools, partial: Partial) -> None:
        partial.rows += int(chosen.sum())
        for model in self._plan.models:
            mine = chosen & self._of_model(model, rows)
            if mine.any():
                self._sum_model(model, rows, mine, partial)

    def _sum_model(self, model: ModelPlan, rows: Predictions, mine: Bools, partial: Partial) -> None:
        version, held = self._champions.of(model)
        partial.tags[model.name] = (version, held.reference.panes)
        measured = mine
        if rows.versions is not None:
            self._see(model, rows, mine, partial)
            measured = mine & rows.versions.equals(version) if version else mine
        if measured.any():
            for column, most in pane_kinds(model):
                parts = {"": measured} if not column else groups(column, rows.segments[column], measured)
                for segment, at in parts.items():
                    if not segment or self._has_room(partial, model.name, column, segment):
                        self._observe(partial, (model.name, segment, most), (rows, at), held.reference)
        if self._plan.labelled:
            self._wait(model, rows, (mine, measured), partial)

    def _observe(self, partial: Partial, key: PaneKey, which: tuple[Predictions, Bools], reference: Reference) -> None:
        rows, at = which
        pane = partial.panes.get(key) or empty(reference, key[2])
        partial.panes[key] = observe(pane, reference, rows.batch if at.all() else rows.batch.take(at))

    def _has_room(self, partial: Partial, model: str, column: str, segment: str) -> bool:
        known = {name for of, name, _ in partial.panes if of == model and name.startswith(f"{column}=")}
        return segment in known or len(known) < SEGMENT_VALUES

    def _see(self, model: ModelPlan, rows: Predictions, mine: Bools, partial: Partial) -> None:
        assert rows.versions is not None
        _, held = self._champions.of(model)
        versions = groups("", rows.versions, mine)
        unsaid = mine & ~rows.versions.usable
        parts = {name.removeprefix("="): at for name, at in versions.items()}
        if unsaid.any():
            parts[""] = unsaid
        for version, at in sorted(parts.items(), key=lambda part: int(np.argmax(part[1]))):
            with_units = self._plan.fields.unit is not None
            seen = Seen.of(rows, np.flatnonzero(at), held.reference, with_units)
            if with_units and seen.units is not None:
                units = seen.units
                seen = replace(seen, units=replace(units, firsts=rows.batch.positions[units.firsts]))
            partial.see(model.name, version, seen)

    def _wait(self, model: ModelPlan, rows: Predictions, which: tuple[Bools, Bools], partial: Partial) -> None:
        mine, measured = which
        records = rows.batch.records
        kept = mine & predicted(records, rows.count) & sampled(rows.hashes, self._plan.join_rate)
        if not kept.any():
            return
        unsaid = coded(np.full(rows.count, -1), ())
        models = coded(np.zeros(rows.count, np.int64), (model.name,))
        waiting = WaitingRows(
            rows.hashes, rows.batch.times, rows.batch.positions, measured, models, rows.versions or unsaid,
            records.prediction, records.score, rows.segments,
        )  # fmt: skip
        self._drop(partial.wait(waiting.take(kept)))

    def _of_model(self, model: ModelPlan, rows: Predictions) -> Bools:
        if rows.models is None:
            return np.ones(rows.count, np.bool_)
        return rows.models.equals(model.name) | rows.models.equals(model.registered)

    def _count_late(self, rows: Predictions, late: Bools, partial: Partial) -> None:
        for model in self._plan.models:
            count = int((late & self._of_model(model, rows)).sum())
            if count:
                partial.late[model.name] = partial.late.get(model.name, 0) + count

    def _partial(self, start: int) -> Partial:
        key = (start, start + self._slicing.size)
        partial = self._open.setdefault(key, Partial(*key))
        self._changed[key] = partial
        return partial

    def _forget_complete(self) -> None:
        self._open = {key: partial for key, partial in self._open.items() if key[1] > self.head.complete}

    def _drop(self, count: int) -> None:
        if count:
            self.head = replace(self.head, dropped=self.head.dropped + count)
            why = "more sampled predictions or labels came in a slice than can be kept: lower join_rate"
            self._problem(Problem("record", f"stream:{self._plan.name}", why))

    def _letter(self, malformed: Iterable[Malformed]) -> None:
        bad = sorted(malformed, key=lambda one: one.where)
        if not bad:
            return
        self.head = replace(self.head, malformed=self.head.malformed + len(bad))
        for problem in self.letters.positions((self.head.topic, self.head.partition), bad, self._portion.records(bad)):
            self._problem(problem)

    def _problem(self, problem: Problem) -> None:
        self._problems[problem.kind, problem.where, problem.reason] = problem


def pane_kinds(model: ModelPlan) -> tuple[tuple[str, int], ...]:
    """Which panes the model's monitors need: segment column (empty: all rows) and size of the sample."""
    wanted = (
        (column, sample_rows(monitor, bool(column))) for monitor in model.monitors for column in ("", *monitor.segments)
    )
    return tuple(dict.fromkeys(wanted))
