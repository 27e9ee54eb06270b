"""The closer of a stream in a worker: takes what the partitions' owners have stored, and asks to store windows."""

from __future__ import annotations

from dataclasses import replace

from daemon.core.errors import BadInput
from daemon.monitors.batches import batch_frame
from daemon.monitors.closer import SliceMonitor
from daemon.monitors.frames import Frame
from daemon.monitors.held import FAULTS
from daemon.monitors.measure import SampleScores
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.session import CHECKPOINT_EVENTS, CHECKPOINT_S, Times, Unmeasurable

SLICES = 20
"""Most slices that are taken at once: between two of its turns the others of the worker may wait for their brokers."""


class ClosingSession:
    """A stream whose slices this worker puts together. At most one batch is under way."""

    problem = ""

    def __init__(self, monitor: SliceMonitor, times: Times) -> None:
        self.plan = monitor.plan
        self.monitor = monitor
        self._times = times
        self._under_way = False
        self._stored_at = times.monotonic()

    def champion(self, model: str, champion: Champion) -> None:
        """See StreamMeasures.champion."""
        self.monitor.champion(model, champion)

    def parts(self, frame: Frame) -> None:
        """Owners of partitions have stored these."""
        kept = dict(zip(frame.body["kept"], frame.blobs, strict=True))
        self.monitor.take({**kept, **dict.fromkeys(frame.body["dropped"])})

    def step(self) -> tuple[bool, Frame | None]:
        """Take the next slices; whether there were any, and a batch to be stored, if one is due. Raises Unmeasurable."""
        passed = self._times.monotonic() - self._stored_at
        full = self.monitor.events >= CHECKPOINT_EVENTS or passed >= CHECKPOINT_S
        if self._under_way and full and self.monitor.changed:
            return False, None
        took = False
        try:
            for _ in range(SLICES):
                if self.monitor.events >= CHECKPOINT_EVENTS or not self.monitor.step():
                    break
                took = True
        except FAULTS as error:
            where = f"stream:{self.plan.name}"
            raise Unmeasurable(where, f"a slice cannot be measured ({type(error).__name__}: {error})") from error
        due = self.monitor.changed and not self._under_way and (full or not took)
        return took, self._checkpoint() if due else None

    def stored(self) -> None:
        """The batch under way is durable."""
        self._under_way = False

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        return self.monitor.take_notes()

    def figures(self) -> dict[str, int]:
        """What it keeps."""
        return self.monitor.figures()

    def close(self) -> None:
        """Nothing to let go of."""

    def _checkpoint(self) -> Frame:
        self._under_way = True
        self._stored_at = self._times.monotonic()
        frame = batch_frame(self.plan.name, 0, self.monitor.checkpoint())
        return replace(frame, body={**frame.body, "role": "windows"})


def open_closing(frame: Frame, samples: SampleScores, times: Times) -> ClosingSession:
    """The session that an `open` frame of the role `windows` asks for. BadInput when its stored state cannot be read."""
    body = frame.body
    plan = StreamPlan.from_json(body["plan"])
    try:
        monitor = SliceMonitor(plan, dict(zip(body["states"], frame.blobs, strict=True)), body["position"], samples)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the stored state of stream {plan.name} cannot be read: {error!r}") from error
    for model, champion in body["champions"].items():
        monitor.champion(model, Champion(**champion))
    return ClosingSession(monitor, times)
