"""What a story has running, noted in its home, so that also the next story can end what a killed one has left.

Noted is a process by its number and its start, so a number that belongs to somebody else by now is left alone. Beside the
noted programs there is what outlives the daemon by design: the gateway, and training jobs under their shims.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from daemon.core.errors import ClientError
from daemon.platforms.base import JobState
from daemon.platforms.local_jobs import LocalJobs
from daemon.platforms.shim import read_json, start_of, write_atomically
from daemon.story.broker import NOTE

PATIENCE_S = 20.0
"""How long a program may take to end by itself."""
WHY = "the story is over"


def note(home: Path, name: str, pid: int) -> None:
    """Note that the story in this home has started a program."""
    folder = _notes(home)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", {"pid": pid, "start": start_of(pid)})


def end(home: Path) -> None:
    """End what is left of the story in this home; when this returns nothing of it runs. Its broker is ended last."""
    notes = sorted(_notes(home).glob("*.json"), key=lambda path: path.stem != "daemon")
    for path in notes:  # the daemon first: it would start anew what ends under it
        _end_noted(path)
    _end_jobs(home)
    _end_noted(home / "gateway" / "gateway.json")
    _end_noted(home / "kafka" / NOTE)


def _notes(home: Path) -> Path:
    return home / "story" / "programs"


def _end_noted(path: Path) -> None:
    """SIGTERM, and SIGKILL when that is not enough."""
    noted: Any = read_json(path)
    if not isinstance(noted, dict):
        return
    pid, start = int(noted.get("pid", 0)), noted.get("start")
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not start or start_of(pid) != start:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that stands still would not notice
        _wait(lambda: start_of(pid) != start)


def _end_jobs(home: Path) -> None:
    """A training that is under way is of no use any more."""
    jobs = LocalJobs(home)
    for job in jobs.names():
        with contextlib.suppress(ClientError):  # what cannot be written down now is told by nobody later
            jobs.cancel(job, WHY)  # not asked first: that would start one that a crash has kept from starting
            _wait(partial(_has_ended, jobs, job))


def _has_ended(jobs: LocalJobs, job: str) -> bool:
    return jobs.status(job).state is not JobState.RUNNING


def _wait(over: Callable[[], bool]) -> None:
    until, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not over() and time.monotonic() < until:
        pause.wait(0.1)
