"""A worker process as the daemon holds it: starts it, speaks frames with it, ends it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from daemon.core.errors import BadInput
from daemon.monitors.frames import Frame, read_frame, write_frame

ROOT = Path(__file__).parents[2]
"""The folder that holds the package `daemon`."""
LEAVE_S = 5.0
"""How long a worker may take to leave by itself before it is killed."""


class WorkerProcess:
    """One worker. Its frames go to `heard(worker, frame)`, called from a thread of its own; None says that it has ended."""

    def __init__(self, on_frame: Callable[[WorkerProcess, Frame | None], object]) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "daemon.monitors"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the daemon, which ends it in order
        )
        self.pid = self._process.pid
        self._heard = time.monotonic()
        self._on_frame = on_frame
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stdout,), name=f"worker-{self.pid}", daemon=True
        )
        self._listener.start()

    def tell(self, frame: Frame) -> bool:
        """Send a frame; False when the worker does not listen any more."""
        try:
            write_frame(self._to, frame)
        except (OSError, ValueError):
            return False
        return True

    def heard(self) -> None:
        """It gave a sign of life, or could not because we kept it waiting."""
        self._heard = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        return time.monotonic() - self._heard

    def why(self) -> str:
        """How it ended."""
        try:
            status = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def end(self) -> None:
        """Let it leave, or kill it; it has ended when this returns."""
        with contextlib.suppress(OSError):
            self._to.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            try:
                while True:
                    frame = read_frame(pipe)
                    self.heard()
                    self._on_frame(self, frame)
            except (EOFError, OSError, BadInput):
                self._on_frame(self, None)
