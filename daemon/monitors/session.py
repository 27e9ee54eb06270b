"""One stream in a worker: reads it, measures it, and asks the daemon to store what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import orjson

from daemon.clients.marks import Marks
from daemon.core.errors import BadInput
from daemon.intake import FileMark
from daemon.monitors.batches import batch_frame
from daemon.monitors.frames import Frame
from daemon.monitors.held import FAULTS
from daemon.monitors.measure import SampleScores
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.reader import FilesReader, Reader
from daemon.monitors.stream import StreamMonitor

CHECKPOINT_S = 2.0
"""While there is much to read, progress is stored so often."""
CHECKPOINT_EVENTS = 500
"""And at the latest with so many events."""


class Unmeasurable(Exception):
    """Measuring a block failed in the middle: the session is of no use any more, and the file is to be given up."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class Times:
    """The two clocks of a worker."""

    now: Callable[[], int]
    """µs since 1970."""
    monotonic: Callable[[], float]
    """Seconds; it never goes back."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store has of a stream."""

    position: int
    states: Mapping[str, bytes]
    marks: Marks


class Session:
    """A stream that this worker measures. At most one batch is under way; meanwhile it measures on, up to the next one."""

    def __init__(
        self, plan: StreamPlan, stored: Stored, samples: SampleScores, times: Times, stop: threading.Event
    ) -> None:
        self.plan = plan
        self.monitor = StreamMonitor(plan, stored.states, stored.position, samples)
        self._reader: Reader = FilesReader(plan, stored.marks, self.monitor.resume, times.now, stop)
        self._times = times
        self._under_way = False
        self._rows = 0
        self._rows_at = self._stored_at = times.monotonic()

    @property
    def problem(self) -> str:
        """Why nothing can be read now."""
        return self._reader.problem or self._reader.letters.problem or self.monitor.letters.problem

    def skip(self, where: str, why: str) -> None:
        """Give up a file that cannot be measured."""
        self._reader.skip(where, why)

    def champion(self, model: str, champion: Champion) -> None:
        """See StreamMonitor.champion."""
        self.monitor.champion(model, champion)

    def step(self) -> tuple[bool, Frame | None]:
        """Measure the next block, if there is room; whether there was one, and a batch to be stored, if one is due.

        Raises Unmeasurable when the block cannot be measured.
        """
        passed = self._times.monotonic() - self._stored_at
        full = self.monitor.events >= CHECKPOINT_EVENTS or passed >= CHECKPOINT_S
        if self._under_way and full and self.monitor.changed:
            return False, None  # the daemon is slower than the stream, or its disk is full: wait
        if not (self.monitor.letters.kept() and self._reader.letters.kept()):
            return False, None
        block = self._reader.next()
        if block is not None:
            rows = block.raw.count if block.raw is not None and block.content == "predictions" else 0
            if rows:
                self._rows_at = self._times.monotonic()
                self._rows += rows
            try:
                self.monitor.process(block, self._times.now())
            except FAULTS as error:
                raise Unmeasurable(block.where, f"it cannot be measured ({type(error).__name__}: {error})") from error
        elif self.monitor.is_open and self._times.monotonic() - self._rows_at >= self.plan.idle:
            self.monitor.idle()
        changed = self.monitor.changed or self._reader.has_lost
        due = changed and not self._under_way and (full or block is None)
        due = due and self.monitor.letters.kept() and self._reader.letters.kept()
        return block is not None, self._checkpoint() if due else None

    def stored(self) -> None:
        """The batch under way is durable."""
        self._under_way = False

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        return self.monitor.take_notes()

    def figures(self) -> dict[str, int]:
        """How much it keeps."""
        return self.monitor.figures()

    def close(self) -> None:
        """Let go of the folders; what is not stored is forgotten."""
        self._reader.close()

    def _checkpoint(self) -> Frame:
        self._under_way = True
        self._stored_at = self._times.monotonic()
        rows, self._rows = self._rows, 0
        frame = batch_frame(self.plan.name, rows, self._reader.noted(self.monitor.checkpoint()))
        return replace(frame, body={**frame.body, "role": "files"})


def open_session(frame: Frame, samples: SampleScores, times: Times, stop: threading.Event) -> Session:
    """The session that an `open` frame asks for. BadInput when its stored state cannot be read."""
    body = frame.body
    count = len(body["states"])
    states = dict(zip(body["states"], frame.blobs[:count], strict=True))
    gone, *pages = frame.blobs[count:]
    try:
        plan = StreamPlan.from_json(body["plan"])
        marks = Marks(f"stream:{plan.name}", (), plan.remember, gone)
        for page in pages:
            for mark in orjson.loads(page):
                marks.add(FileMark(marks.owner, *mark))
        session = Session(plan, Stored(body["position"], states, marks), samples, times, stop)
    except (KeyError, TypeError) as error:
        raise BadInput(f"the stored state of stream {body['plan']['name']} cannot be read: {error!r}") from error
    for where, why in body["skip"].items():
        session.skip(where, why)
    for model, champion in body["champions"].items():
        session.champion(model, Champion(**champion))
    return session
