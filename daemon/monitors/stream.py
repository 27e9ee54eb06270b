"""One stream: its blocks in order -> windows, joined labels, traffic, and the batch that makes all of it durable.

A function of the blocks, the champions and the moments of idleness: given the same, it makes the same events and state,
whenever it was stopped and restored in between. It does no I/O except for dead letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import orjson

from daemon.core.canonical import content_id
from daemon.core.columns import Batch as Rows
from daemon.core.columns import Bools, Column, Integers
from daemon.core.errors import BadInput
from daemon.core.events import Event
from daemon.core.performance import sum_losses
from daemon.core.problems import Problem
from daemon.intake import Batch, FileMark, Progress
from daemon.monitors.dead_letters import DeadLetters
from daemon.monitors.held import Held, hold
from daemon.monitors.join import LabelJoin, Match, Waiting, sampled
from daemon.monitors.journal import Journal
from daemon.monitors.measure import SampleScores, Subject
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.reader import Block
from daemon.monitors.rows import Clock, Labels, Predictions, labels, predictions
from daemon.monitors.traffic import Traffic, match_losses
from daemon.monitors.values import instant
from daemon.monitors.windows import Track

PARTITION = "0"
"""Folders have one partition."""
SEGMENTS = 50
"""Most segments of a monitor; rows of later ones count only among all rows."""
FORMAT = 1
_NO_TIME = -(2**62)
"""Where a stream stands that has no rows yet (µs)."""


class StreamMonitor:
    """Measures one stream. `states` and `position` are what the store has; `samples` runs tests on samples."""

    def __init__(self, plan: StreamPlan, states: Mapping[str, bytes], position: int, samples: SampleScores) -> None:
        self.plan = plan
        self._samples = samples
        self._journal = Journal()
        self._letters = DeadLetters(plan)
        head = orjson.loads(states["head"]) if "head" in states else {}
        if head.get("format", FORMAT) != FORMAT:
            raise BadInput(
                f"the state of stream {plan.name} is of format {head['format']}; this driftd writes {FORMAT}"
            )
        self._stored = self._step = position
        self._rows: int = head.get("rows", 0)
        self._watermark: int = head.get("watermark", _NO_TIME)
        self._windows: int = head.get("windows", 0)
        self._resume: Mapping[str, Any] | None = head.get("resume")
        self._champions = {name: Champion(**champion) for name, champion in head.get("champions", {}).items()}
        self._join = LabelJoin(plan.output, self._journal)
        self._join.restore(states)
        f = plan.fields
        self._traffic = {
            m.name: Traffic(m.name, f.unit is not None, f.latency_ms is not None, self._journal) for m in plan.models
        }
        for traffic in self._traffic.values():
            traffic.restore(states)
        self._held = {model.name: self._hold(model) for model in plan.models}
        self._tracks: dict[str, dict[tuple[str, str], Track]] = {model.name: {} for model in plan.models}
        self._owners: dict[int, Track] = {}
        self._reported = replace(self._join.counters)
        self._restore(states)
        self._events: list[Event] = []
        self._problems: dict[tuple[str, str, str], Problem] = {}
        self._marks: list[FileMark] = []
        self._notes: list[str] = []

    @property
    def resume(self) -> Mapping[str, Any] | None:
        """Where its reader should go on."""
        return self._resume

    @property
    def changed(self) -> bool:
        """Something is to be stored."""
        return self._step != self._stored

    @property
    def events(self) -> int:
        """Events to be stored."""
        return len(self._events)

    @property
    def is_open(self) -> bool:
        """Some window has rows and is not closed."""
        return any(track.is_open for tracks in self._tracks.values() for track in tracks.values())

    def champion(self, model: str, champion: Champion) -> None:
        """From now on rows of this version are measured, against this reference. The same one again changes nothing."""
        before = self._champions.get(model, Champion())
        if before == champion:
            return
        tracks = self._tracks[model]
        left = sum(track.open_rows for (_, segment), track in tracks.items() if not segment)
        waiting = sum(track.waiting for (_, segment), track in tracks.items() if not segment)
        if left or waiting:
            self._notes.append(
                f"model {model}: champion {before.version or 'unknown'} -> {champion.version or 'unknown'}: {left} rows of "
                f"open windows and {waiting} windows that wait for labels are not measured any more"
            )
        for track in tracks.values():
            self._retire(track)
        self._tracks[model] = {}
        self._champions[model] = champion
        self._held[model] = self._hold(next(plan for plan in self.plan.models if plan.name == model))
        self._moved(1)

    def process(self, block: Block, now: int) -> None:
        """Measure the next block; `now` in µs since 1970."""
        for problem in block.problems:
            self._problem(problem)
        self._marks.extend(block.marks)
        if block.raw is not None and block.content == "predictions":
            clock = Clock(block.landed, now, None if self._watermark == _NO_TIME else self._watermark)
            rows, malformed = predictions(block.raw, self.plan, clock)
            self._letter(block, malformed)
            self._predicted(rows)
        elif block.raw is not None and self.plan.labelled:
            came, malformed = labels(block.raw, self.plan)
            self._letter(block, malformed)
            self._labelled(came)
        self._account()
        self._resume = block.resume
        self._moved((block.raw.read if block.raw else 0) + 1)

    def idle(self) -> None:
        """Nothing came for a while: close the open windows."""
        for model in self._tracks:
            for track in self._in_order(model):
                self._events += track.close("idle", self._samples)
        self._measured()
        self._moved(1)

    def track(self, monitor: str, segment: str) -> Track | None:
        """The windows of a monitor and segment."""
        found = (tracks.get((monitor, segment)) for tracks in self._tracks.values())
        return next((track for track in found if track is not None), None)

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def checkpoint(self) -> Batch:
        """Everything since the last checkpoint, to be stored in one transaction."""
        self._journal.touch("head", self._head)
        batch = Batch(
            events=tuple(self._events),
            files=tuple(self._marks),
            progress=(Progress(self.plan.name, PARTITION, self._stored, self._step),),
            states=self._journal.writes(self.plan.name),
            problems=tuple(self._problems.values()),
        )
        self._stored = self._step
        self._events, self._marks, self._problems = [], [], {}
        return batch

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
        if self._watermark > before:
            self._lost(self._join.expire(self._overdue))
        self._measured()

    def _of_model(self, model: ModelPlan, rows: Predictions, batch: Rows) -> None:
        chosen = self._chosen(model, rows)
        versions = list(rows.versions) if rows.versions is not None else [""] * rows.count
        counted = np.zeros(rows.count, np.bool_)
        if rows.versions is not None:
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
                waiting.take(chosen & _predicted(records.prediction, records.score, rows.count) & self._sampled(rows))
            )

    def _into(
        self, model: ModelPlan, measured: Bools, batch: Rows, rows: Predictions, monitor: str, column: str
    ) -> Integers:
        """Put the measured rows into the windows of a monitor, all or by a column; the window of each row, -1 for none."""
        windows = np.full(rows.count, -1, np.int64)
        groups = {"": measured} if not column else _groups(column, rows.segments[column], measured)
        for segment, chosen in groups.items():
            track = self._track(model, monitor, segment)
            if track is None:
                continue
            numbers, events = track.add(batch.take(chosen), self._samples)
            windows[chosen] = numbers
            self._events += events
            if self.plan.labelled:
                self._owners.update(dict.fromkeys(np.unique(numbers[numbers >= 0]).tolist(), track))
        return windows

    def _wait(self, rows: Waiting) -> None:
        """Let predictions wait for their labels."""
        for no, count in _counted(rows.windows).items():
            if no in self._owners:
                self._owners[no].eligible(no, count)
        matches, lost = self._join.add(rows, self._watermark)
        self._lost(lost)
        for match in matches:
            self._matched(match)

    def _labelled(self, came: Labels) -> None:
        kept = sampled(came.hashes, self.plan.join_rate)
        for match in self._join.match(Labels(came.hashes[kept], came.label.take(kept)), self._watermark):
            self._matched(match)
        self._measured()

    def _matched(self, match: Match) -> None:
        """Give the losses of joined rows to their windows, and their labels to the traffic."""
        for model in dict.fromkeys(name for name, _ in match.arms):
            if model not in self._held:
                continue  # a model that is no longer on this stream
            reference = self._held[model].reference
            if self.plan.fields.version is not None:
                self._traffic[model].labelled(match, reference)
            mine = np.array([name == model for name, _ in match.arms], np.bool_)
            losses = match_losses(match, reference)
            late = np.zeros(len(losses), np.bool_)
            for no in _counted(match.windows[mine]):
                at = mine & (match.windows == no).any(axis=1)
                track = self._owners.get(no)
                if track is None:
                    late |= at
                else:
                    track.labelled(no, sum_losses(reference, losses[at]), int(np.isnan(losses[at]).sum()))
            if late.any():
                self._complain("labels came after the performance of their window had been measured")

    def _lost(self, windows: Integers) -> None:
        for no, count in _counted(windows).items():
            if no in self._owners:
                self._owners[no].lost(no, count)

    def _measured(self) -> None:
        """Measure the performance of windows whose labels have come."""
        if not self.plan.labelled:
            return
        for model in self._tracks:
            version = self._champions.get(model, Champion()).version if self.plan.fields.version else ""
            for track in self._in_order(model):
                before = track.awaited()
                self._events += track.measured(self._overdue, version)
                for no in set(before) - set(track.awaited()):
                    self._owners.pop(no, None)

    def _account(self) -> None:
        """The block's traffic, and what was counted as lost in it."""
        for model, traffic in self._traffic.items():
            data = traffic.measured(self.plan.name)
            if data is not None:
                identity = content_id("traffic.measured", self.plan.name, model, self._step)
                source = f"stream:{self.plan.name}"
                self._events.append(Event(identity, source, "traffic.measured", model, instant(self._watermark), data))
        counters = self._join.counters
        if counters.evicted > self._reported.evicted:
            self._complain(
                "more predictions wait for labels than can be kept; the oldest were given up: lower join_rate"
            )
        if counters.unmatched > self._reported.unmatched:
            self._complain("labels were given up: no prediction of their id came, or it had waited too long")
        self._reported = replace(counters)

    def _in_order(self, model: str) -> list[Track]:
        """A model's windows by monitor and segment: the order in which they came to be is not known after a restart."""
        tracks = self._tracks[model]
        return [tracks[key] for key in sorted(tracks)]

    def _track(self, model: ModelPlan, monitor: str, segment: str) -> Track | None:
        tracks = self._tracks[model.name]
        track = tracks.get((monitor, segment))
        if track is None:
            if segment and sum(name == monitor and part != "" for name, part in tracks) >= SEGMENTS:
                column = segment.partition("=")[0]
                why = f"{column} has more than {SEGMENTS} values; rows of the others are measured only among all rows"
                self._problem(Problem("record", f"monitor:{monitor}", why))
                return None
            track = tracks[monitor, segment] = self._new_track(model, monitor, segment)
        return track

    def _new_track(self, model: ModelPlan, monitor: str, segment: str) -> Track:
        found = next(m for m in model.monitors if m.name == monitor)
        subject = Subject(self.plan.name, found, segment, self._held[model.name])
        return Track(subject, self._journal, self._number, self.plan.labelled)

    def _number(self) -> int:
        self._windows += 1
        return self._windows

    def _restore(self, states: Mapping[str, bytes]) -> None:
        """Take up the stored windows; those of monitors or references that are gone are dropped."""
        claimed: set[str] = set()
        for model in self.plan.models:
            for monitor in model.monitors:
                prefix = f"track/{monitor.name}/"
                for key in sorted(key for key in states if key.startswith(prefix)):
                    segment = key.removeprefix(prefix)
                    column = segment.partition("=")[0]
                    track = self._new_track(model, monitor.name, segment)
                    if (not segment or column in monitor.segments) and track.restore(states):
                        self._tracks[model.name][monitor.name, segment] = track
                        self._owners.update(dict.fromkeys(track.awaited(), track))
                        claimed.update((key, f"open/{monitor.name}/{segment}"))
                        claimed.update(track.kept())
        for key in states:
            if key.startswith(("track/", "open/", "ring/")) and key not in claimed:
                self._journal.drop(key)

    def _retire(self, track: Track) -> None:
        for no in track.awaited():
            self._owners.pop(no, None)
        track.forget()

    def _hold(self, model: ModelPlan) -> Held:
        return hold(self.plan, model.task, self._champions.get(model.name, Champion()))

    def _chosen(self, model: ModelPlan, rows: Predictions) -> Bools:
        """The rows of the model."""
        if rows.models is None:
            return np.ones(rows.count, np.bool_)
        return np.array([name in {model.name, model.registered} for name in rows.models], np.bool_)

    def _of_champion(self, model: ModelPlan, rows: Predictions) -> Bools:
        """The rows that the champion predicted: all, where nobody can tell."""
        version = self._champions.get(model.name, Champion()).version
        if rows.versions is None or not version:
            return np.ones(rows.count, np.bool_)
        return np.array([name == version for name in rows.versions], np.bool_)

    def _sampled(self, rows: Predictions) -> Bools:
        return sampled(rows.hashes, self.plan.join_rate)

    @property
    def _overdue(self) -> int:
        return self._watermark - round(self.plan.horizon * 1e6)

    def _letter(self, block: Block, malformed: Iterable[Any]) -> None:
        assert block.raw is not None
        for problem in self._letters.records(block.where, block.raw.start, (*block.raw.malformed, *malformed)):
            self._problem(problem)

    def _complain(self, why: str) -> None:
        self._problem(Problem("record", f"stream:{self.plan.name}", why))

    def _problem(self, problem: Problem) -> None:
        self._problems[problem.kind, problem.where, problem.reason] = problem

    def _moved(self, steps: int) -> None:
        self._step += steps

    def _head(self) -> bytes:
        return orjson.dumps({
            "format": FORMAT,
            "rows": self._rows,
            "watermark": self._watermark,
            "windows": self._windows,
            "resume": self._resume,
            "champions": {name: asdict(champion) for name, champion in sorted(self._champions.items())},
        })  # fmt: skip


def _groups(column: str, values: Column, measured: Bools) -> dict[str, Bools]:
    """The rows of each segment; rows without a value are in none."""
    names = dict.fromkeys(
        value for value, use in zip(values.values, measured, strict=True) if use and value is not None
    )
    return {f"{column}={name}": measured & np.asarray(values.values == name, np.bool_) for name in names}


def _predicted(prediction: Column | None, score: Column | None, rows: int) -> Bools:
    """The rows with something that a label can prove right or wrong."""
    output = prediction or score
    return np.zeros(rows, np.bool_) if output is None else output.usable


def _counted(windows: Integers) -> dict[int, int]:
    """How many rows each window has."""
    numbers, counts = np.unique(windows[windows >= 0], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
