"""One program of a test cluster: started in a session of its own, its words in a file, ended by its pid."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import places
from tests.cluster.places import NoCluster

HOST = "127.0.0.1"
STOP_S = 20.0


class Part:
    """A program of the cluster. `command` stays the same over restarts; it appends to `log`."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self.log = folder / f"{self.name}.log"
        self._command = command
        self._folder = folder
        self._variables = variables or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """It was started and has not ended, by itself or otherwise."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it unless it runs; whether it is ready is asked with `wait`."""
        if self.running:
            return
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=places.environment(**self._variables), start_new_session=True,
            )  # fmt: skip

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Until `ready()`; NoCluster with its last words when it ends before that, or when it takes too long."""
        until = time.monotonic() + seconds
        pause = threading.Event()
        while not ready():
            if not self.running:
                raise NoCluster(f"{self.name} ended while it was starting; see {self.log}: {self.last_words()}")
            if time.monotonic() > until:
                raise NoCluster(f"{self.name} was not ready within {seconds:g} s; see {self.log}: {self.last_words()}")
            pause.wait(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough; gone when this returns."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stands still: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " / ".join(lines[-5:])[-2000:]

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} is not running"
        self._process.send_signal(number)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
