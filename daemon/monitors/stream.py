"""One stream: its blocks in order -> windows, joined labels, traffic, and the batch that makes all of it durable.

A function of the blocks, the champions and the moments of idleness: given the same, it makes the same events and state,
whenever it was stopped and restored in between. It does no I/O except for dead letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from daemon.core.columns import Batch as Rows
from daemon.core.columns import Bools, Column, Integers, Records
from daemon.monitors.dead_letters import DeadLetters
from daemon.monitors.join import Waiting, sampled
from daemon.monitors.measure import SampleScores
from daemon.monitors.measures import UNBEGUN, StreamMeasures
from daemon.monitors.payloads.format import KServeFormat
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.reader import Block
from daemon.monitors.records import LINE, Malformed, Raw
from daemon.monitors.rows import Clock, Labels, Predictions, labels, predictions

HALVES = "halves"
"""Under which key the store has the requests and responses that wait for each other (format kserve)."""


class StreamMonitor(StreamMeasures):
    """Measures one stream of files."""

    def __init__(self, plan: StreamPlan, states: Mapping[str, bytes], position: int, samples: SampleScores) -> None:
        super().__init__(plan, states, position, samples)
        head = orjson.loads(states["head"]) if "head" in states else {}
        self._letters = DeadLetters(plan)
        self._rows: int = head.get("rows", 0)
        self._resume: Mapping[str, Any] | None = head.get("resume")
        self._halves = KServeFormat(plan, states.get(HALVES, b"")) if plan.format == "kserve" else None

    @property
    def resume(self) -> Mapping[str, Any] | None:
        """Where its reader should go on."""
        return self._resume

    @property
    def letters(self) -> DeadLetters:
        """Its dead letters: no progress may be stored while some of them wait for room."""
        return self._letters

    @property
    def is_open(self) -> bool:
        """Some window has rows and is not closed, or some half of a prediction waits for the other one."""
        return super().is_open or (self._halves is not None and self._halves.waiting > 0)

    def figures(self) -> dict[str, int]:
        """See StreamMeasures; and of halves."""
        if self._halves is None:
            return super().figures()
        return {**super().figures(), "halves": self._halves.waiting, "unpaired": self._halves.unpaired}

    def process(self, block: Block, now: int) -> None:
        """Measure the next block; `now` in µs since 1970."""
        for problem in block.problems:
            self._problem(problem)
        self._marks.extend(block.marks)
        if block.raw is not None and block.content == "predictions":
            clock = Clock(block.landed, now, None if self._watermark == UNBEGUN else self._watermark)
            raw = self._decoded(block.raw, now)
            rows, malformed = predictions(raw, self.plan, clock)
            self._letter(block, (*(raw.malformed if raw is not block.raw else ()), *malformed))
            self._predicted(rows)
        elif block.raw is not None and self.plan.labelled:
            came, malformed = labels(block.raw, self.plan)
            self._letter(block, malformed)
            self._labelled(came)
            self._measured()
        self._account(self._watermark, self._step)
        self._resume = block.resume
        self._moved((block.raw.read if block.raw else 0) + 1)

    def idle(self) -> None:
        """Nothing came for a while: close the open windows."""
        if self._halves is not None:
            self._halves.idle()
            self._remember(self._halves)
        self._close_windows("idle")
        self._measured()
        self._moved(1)

    def _decoded(self, raw: Raw, now: int) -> Raw:
        """The rows of a block; lines of a format of its own are decoded."""
        if self._halves is None:
            return raw
        (made,) = self._halves.decode(raw.columns[LINE], raw.lines, np.full(raw.count, now, np.int64))
        self._remember(self._halves)
        return made

    def _remember(self, halves: KServeFormat) -> None:
        self._journal.touch(HALVES, halves.state)
        for why in halves.complaints():
            self._complain(why)

    def _predicted(self, rows: Predictions) -> None:
        if rows.count == 0:
            return
        batch = replace(rows.batch, positions=rows.batch.positions + self._rows)
        self._rows += rows.count
        before, self._watermark = self._watermark, max(self._watermark, int(batch.times.max()))
        for model in self.plan.models:
            self._of_model(model, rows, batch)
        if self.plan.labelled and rows.batch.records.label is not None:
            label = rows.batch.records.label
            self._labelled(Labels(rows.hashes[label.usable], label.take(label.usable)))
            self._measured()
        if self._watermark > before:
            self._lost(self._join.expire(self._overdue))
        self._measured()

    def _of_model(self, model: ModelPlan, rows: Predictions, batch: Rows) -> None:
        chosen = self._chosen(model, rows)
        versions = [""] * rows.count
        counted = np.zeros(rows.count, np.bool_)
        if rows.versions is not None:
            versions = [version or "" for version in rows.versions.values.tolist()]
            counted = self._traffic[model.name].observe(rows, versions, chosen, self._held[model.name].reference)
        measured = chosen & self._of_champion(model, rows)
        windows = [
            self._into(model, measured, batch, rows, m.name, column)
            for m in model.monitors
            for column in ("", *m.segments)
        ]
        if self.plan.labelled:
            stacked = np.stack(windows, axis=1) if windows else np.full((rows.count, 1), -1, np.int64)
            arms = [(model.name, version) for version in versions]
            records = batch.records
            waiting = Waiting(rows.hashes, batch.times, records.prediction, records.score, stacked, arms, counted)
            self._wait(
                waiting.take(chosen & predicted(records, rows.count) & sampled(rows.hashes, self.plan.join_rate))
            )

    def _into(
        self, model: ModelPlan, measured: Bools, batch: Rows, rows: Predictions, monitor: str, column: str
    ) -> Integers:
        """Put the measured rows into the windows of a monitor, all or by a column; the window of each row, -1 for none."""
        windows = np.full(rows.count, -1, np.int64)
        parts = {"": measured} if not column else groups(column, rows.segments[column], measured)
        for segment, chosen in parts.items():
            track = self._track(model, monitor, segment)
            if track is None:
                continue
            numbers, events = track.add(batch.take(chosen), self._samples)
            windows[chosen] = numbers
            self._events += events
            if self.plan.labelled:
                self._owners.update(dict.fromkeys(np.unique(numbers[numbers >= 0]).tolist(), track))
        return windows

    def _chosen(self, model: ModelPlan, rows: Predictions) -> Bools:
        """The rows of the model."""
        if rows.models is None:
            return np.ones(rows.count, np.bool_)
        return rows.models.equals(model.name) | rows.models.equals(model.registered)

    def _of_champion(self, model: ModelPlan, rows: Predictions) -> Bools:
        """The rows that the champion predicted: all, where nobody can tell."""
        version = self._champions.get(model.name, Champion()).version
        if rows.versions is None or not version:
            return np.ones(rows.count, np.bool_)
        return rows.versions.equals(version)

    def _letter(self, block: Block, malformed: Iterable[Malformed]) -> None:
        assert block.raw is not None
        for problem in self._letters.records(block.where, block.raw.start, (*block.raw.malformed, *malformed)):
            self._problem(problem)

    def _head(self) -> dict[str, Any]:
        return {**super()._head(), "rows": self._rows, "resume": self._resume}


def groups(column: str, values: Column, measured: Bools) -> dict[str, Bools]:
    """The rows of each segment, in order of appearance; rows without a value are in none."""
    if values.coded is None:
        names = dict.fromkeys(
            value for value, use in zip(values.values, measured, strict=True) if use and value is not None
        )
    else:
        used, first = np.unique(values.coded.codes[measured & values.usable], return_index=True)
        names = dict.fromkeys(values.coded.levels[code] for code in used[np.argsort(first)].tolist())
    return {f"{column}={name}": measured & values.equals(name) for name in names}


def predicted(records: Records, rows: int) -> Bools:
    """The rows with something that a label can prove right or wrong."""
    output = records.prediction or records.score
    return np.zeros(rows, np.bool_) if output is None else output.usable
