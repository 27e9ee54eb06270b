"""What is measured of one stream, however its rows come: windows, the label join, traffic, and the batch that stores them.

`stream.StreamMonitor` feeds it with the rows of files, `closer.SliceMonitor` with slices that were summed by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import orjson

from daemon.core.canonical import content_id
from daemon.core.columns import Integers
from daemon.core.errors import BadInput
from daemon.core.events import Event
from daemon.core.performance import sum_losses
from daemon.core.problems import Problem
from daemon.intake import Batch, FileMark, Progress
from daemon.monitors.held import Held, hold
from daemon.monitors.join import LabelJoin, Match, Waiting, sampled
from daemon.monitors.journal import Journal
from daemon.monitors.measure import SampleScores, Subject
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.rows import Labels
from daemon.monitors.traffic import Traffic, match_losses
from daemon.monitors.values import instant
from daemon.monitors.windows import Track

SEGMENTS = 50
"""Most segments of a monitor; rows of later ones count only among all rows."""
FORMAT = 1
UNBEGUN = -(2**62)
"""Where a stream stands that has no rows yet (µs)."""


class StreamMeasures:
    """The measures of one stream. `states` and `position` are what the store has; `samples` runs tests on samples."""

    PARTITION: ClassVar[str] = "0"
    """Under which name its progress is stored; folders have one partition."""

    def __init__(self, plan: StreamPlan, states: Mapping[str, bytes], position: int, samples: SampleScores) -> None:
        self.plan = plan
        self._samples = samples
        self._journal = Journal()
        head = orjson.loads(states["head"]) if "head" in states else {}
        if head.get("format", FORMAT) != FORMAT:
            raise BadInput(
                f"the state of stream {plan.name} is of format {head['format']}; this driftd writes {FORMAT}"
            )
        self._stored = self._step = position
        self._watermark: int = head.get("watermark", UNBEGUN)
        self._windows: int = head.get("windows", 0)
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

    def track(self, monitor: str, segment: str) -> Track | None:
        """The windows of a monitor and segment."""
        found = (tracks.get((monitor, segment)) for tracks in self._tracks.values())
        return next((track for track in found if track is not None), None)

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def figures(self) -> dict[str, int]:
        """How much waits for labels, and what had to be given up since the stream began."""
        counters = self._join.counters
        return {
            "waiting": self._join.rows, "early": self._join.early, "evicted": counters.evicted,
            "unmatched": counters.unmatched, "repeated": counters.repeated,
        }  # fmt: skip

    def checkpoint(self) -> Batch:
        """Everything since the last checkpoint, to be stored in one transaction."""
        self._journal.touch("head", lambda: orjson.dumps(self._head()))
        batch = Batch(
            events=tuple(self._events),
            files=tuple(self._marks),
            progress=(Progress(self.plan.name, self.PARTITION, self._stored, self._step),),
            states=self._journal.writes(self.plan.name),
            problems=tuple(self._problems.values()),
        )
        self._stored = self._step
        self._events, self._marks, self._problems = [], [], {}
        return batch

    def _close_windows(self, why: str, until: int = 0) -> None:
        """Close all open windows. `until`: see Track.close."""
        for model in self._tracks:
            for track in self._in_order(model):
                self._events += track.close(why, self._samples, until)

    def _wait(self, rows: Waiting) -> None:
        """Let predictions wait for their labels."""
        for no, count in _counted(rows.windows).items():
            if no in self._owners:
                self._owners[no].eligible(no, count)
        matches, lost = self._join.add(rows, self._labelled_at)
        self._lost(lost)
        for match in matches:
            self._matched(match)

    def _labelled(self, came: Labels) -> None:
        kept = sampled(came.hashes, self.plan.join_rate)
        for match in self._join.match(Labels(came.hashes[kept], came.label.take(kept)), self._labelled_at):
            self._matched(match)

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

    def _measured(self, reached: int | None = None) -> None:
        """Measure the performance of windows whose labels have come. `reached`: see Track.measured."""
        if not self.plan.labelled:
            return
        for model in self._tracks:
            version = self._champions.get(model, Champion()).version if self.plan.fields.version else ""
            for track in self._in_order(model):
                before = track.awaited()
                self._events += track.measured(self._overdue, version, reached)
                for no in set(before) - set(track.awaited()):
                    self._owners.pop(no, None)

    def _account(self, time: int, *what: Any) -> None:
        """The traffic of the block or slice that `what` identifies, at `time` (µs), and what was counted as lost in it."""
        for model, traffic in self._traffic.items():
            data = traffic.measured(self.plan.name)
            if data is not None:
                identity = content_id("traffic.measured", self.plan.name, model, *what)
                source = f"stream:{self.plan.name}"
                self._events.append(Event(identity, source, "traffic.measured", model, instant(time), data))
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

    @property
    def _labelled_at(self) -> int:
        """The event time up to which labels are joined."""
        return self._watermark

    @property
    def _overdue(self) -> int:
        return self._labelled_at - round(self.plan.horizon * 1e6)

    def _complain(self, why: str) -> None:
        self._problem(Problem("record", f"stream:{self.plan.name}", why))

    def _problem(self, problem: Problem) -> None:
        self._problems[problem.kind, problem.where, problem.reason] = problem

    def _moved(self, steps: int) -> None:
        self._step += steps

    def _head(self) -> dict[str, Any]:
        """What else is to be known after a restart."""
        return {
            "format": FORMAT,
            "watermark": self._watermark,
            "windows": self._windows,
            "champions": {name: asdict(champion) for name, champion in sorted(self._champions.items())},
        }


def _counted(windows: Integers) -> dict[int, int]:
    """How many rows each window has."""
    numbers, counts = np.unique(windows[windows >= 0], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
