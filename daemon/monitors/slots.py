"""The places that worker processes have: each keeps one up, replaces it when it died or hangs, and knows what it has open."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from daemon.monitors.frames import Frame
from daemon.monitors.process import WorkerProcess

HUNG_S = 180.0
"""A worker that has given no sign of life for so long is replaced; the largest reports take a quarter of that."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a dead worker is replaced; doubled each time that one died before anything of its was stored."""


class Slot:
    """The place of one worker. `on_frame` gets its frames, from a thread of its own."""

    def __init__(self, number: int, on_frame: Callable[[WorkerProcess, Frame | None], object]) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.open: set[tuple[str, str]] = set()
        """Stream and role of what the worker has open."""
        self.problem = ""
        """How the last worker ended."""
        self._on_frame = on_frame
        self._start_at = 0.0
        self._pause = FIRST_PAUSE_S
        self._log = structlog.get_logger("monitors")

    def keep_up(self) -> None:
        """Start a worker when there is none; replace one that hangs."""
        if self.worker is not None:
            if self.worker.silent_s() > HUNG_S:
                self.replace(f"it gave no sign of life for {HUNG_S:.0f} s")
        elif time.monotonic() >= self._start_at:
            self.worker = WorkerProcess(self._on_frame)
            self._log.info("worker_started", pid=self.worker.pid, slot=self.number)

    def replace(self, why: str) -> None:
        """The worker is of no use any more; another one follows after a pause."""
        if self.worker is None:
            return
        self._log.warning("worker_ended", pid=self.worker.pid, why=why, again_in_s=self._pause)
        self.problem = f"the worker ended: {why}"
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
        self.end(why)

    def end(self, why: str) -> None:
        """End the worker."""
        worker, self.worker = self.worker, None
        self.open.clear()
        if worker is not None:
            worker.end()
            self._log.info("worker_gone", pid=worker.pid, why=why)

    def tell(self, kind: str, body: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        """Send a frame; a worker that does not listen is replaced."""
        if self.worker is not None and not self.worker.tell(Frame(kind, body, blobs)):
            self.replace("its pipe is closed")

    def lives(self) -> None:
        """Something of the worker's was stored: it is of use."""
        self._pause = FIRST_PAUSE_S
        self.problem = ""
        if self.worker is not None:
            self.worker.heard()  # it had to wait for us
