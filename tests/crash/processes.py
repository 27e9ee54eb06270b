"""The processes of a trial: the daemon's lives, and whatever it started; all are ended by their number."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon.control import ask
from daemon.core.errors import DaemonError
from tests.crash.scene import Scene

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
MARK = "DRIFTD_CRASH_SCENE"
"""Environment variable by which the daemon and its children are known."""


@dataclass(frozen=True, slots=True)
class Doom:
    """Where a life ends by itself: at this pass of this point."""

    point: str
    """A fault point, or the name of a verb: between a call's claim and its handler."""
    number: int
    stands_still: bool = False
    """It is stopped (SIGSTOP) and may wake up again; else it is killed."""


class Life:
    """One life of the daemon, from its start to its end."""

    def __init__(self, scene: Scene, doom: Doom | None = None) -> None:
        arguments = [str(scene.config_path)]
        if doom is not None:
            where = "--point" if doom.point.isupper() else "--verb"
            arguments += [where, doom.point, "--pass", str(doom.number), *(["--stop"] if doom.stands_still else [])]
        self.began = time.monotonic()
        self._scene = scene
        environment = {**os.environ, MARK: str(scene.folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (scene.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.victim", *arguments],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def status(self) -> int | None:
        """Its exit status, None while it lives."""
        return self._process.poll()

    @property
    def stands_still(self) -> bool:
        """Whether it is stopped."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def wake(self) -> int:
        """Let it go on, and wait for its end: its exit status."""
        self._process.send_signal(signal.SIGCONT)
        return self._process.wait(90)

    def epoch(self) -> int:
        """The epoch of whoever answers at home; 0 when nobody does."""
        with contextlib.suppress(DaemonError):
            return int(ask(self._scene.home, {"op": "status"}, 3)["status"]["epoch"])
        return 0

    def ready(self, until: float | None = None) -> float | None:
        """Wait until it answers: the seconds that took; None when it died first, or `until` (monotonic) came."""
        limit = self.began + READY_SECONDS if until is None else until
        while self.status is None:
            if time.monotonic() > limit:
                if until is not None:
                    return None
                raise AssertionError(f"the daemon did not answer within {READY_SECONDS:g} s")
            with contextlib.suppress(DaemonError):
                ask(self._scene.home, {"op": "status"}, 5)
                return time.monotonic() - self.began
            pause(0.02)
        return None

    def kill(self) -> None:
        """SIGKILL to it alone, now; gone when this returns."""
        if self.status is None:
            self._process.kill()
        self._process.wait(20)

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


def children(parent: int, module: str) -> list[int]:
    """The living children of a process that run a module."""
    found = []
    for pid in _all():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == parent and module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def kill(pid: int) -> None:
    """SIGKILL, whether it still lives or not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def left_running(scene: Scene) -> dict[int, str]:
    """Processes of a scene that live: number -> command line."""
    folder = os.fsencode(scene.folder)
    found: dict[int, str] = {}
    for pid in _all():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            known = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            mine = MARK.encode() + b"=" + folder in known or any(
                one.startswith(b"DRIFTD_CALL=" + folder + b"/") for one in known
            )
            if command and (mine or folder + b"/home" in command.split(b"\0")) and pid != os.getpid():
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def pause(seconds: float) -> None:
    """Let so much time pass."""
    threading.Event().wait(seconds)


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
