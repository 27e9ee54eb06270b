"""The daemon, made to die: `python -m tests.crash.victim CONFIG [--point NAME | --verb NAME] [--pass N] [--stop]`.

It is the daemon as `driftd start` runs it, with two differences: it kills itself (SIGKILL) when a fault point is passed
for the N-th time (or it stops itself, SIGSTOP, with all its threads), or when the N-th call of a verb is claimed and its
handler not begun; and the process behind the registry reads a small file instead of holding MLflow, which would cost five
seconds of each of several hundred starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import app
from daemon.claims import Claimed
from daemon.clients.registry import RegistryProcess
from daemon.config import load_config
from daemon.core.calls import Outcome
from daemon.dispatcher import Dispatcher
from daemon.points import OnPoint, Point, no_point


def ends() -> None:
    """This process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # never goes on, however late the signal is delivered


def stands_still() -> None:
    """This process is stopped until somebody wakes it."""
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait(0.2)  # the signal may reach another thread first


def at_verb(name: str, number: int, meets: Callable[[], None]) -> None:
    """Let a worker meet its doom with the `number`-th call of a verb, before the handler begins."""
    calls = itertools.count(1)
    timed = Dispatcher._timed

    def doomed(self: Dispatcher, claimed: Claimed) -> Outcome:
        if claimed.call.verb == name and not claimed.ending and next(calls) == number:
            meets()
        return timed(self, claimed)

    setattr(Dispatcher, "_timed", doomed)  # noqa: B010 - points know of no verbs


def dies_at(point: Point, number: int, meets: Callable[[], None] = ends) -> OnPoint:
    """Ends this process at the `number`-th pass of a point, whichever thread passes it."""
    passes = itertools.count(1)
    lock = threading.Lock()

    def on_point(passed: Point) -> None:
        if passed is not point:
            return
        with lock:
            if next(passes) == number:
                meets()

    return on_point


class FileRegistry(RegistryProcess):
    """The registry's process with a file behind it: `uri` is the path."""

    def __init__(self, uri: str, artifacts: str, timeout: float = 30.0, on_point: OnPoint = no_point) -> None:
        super().__init__(uri, artifacts, timeout, on_point)
        self._command: tuple[Any, ...] = (sys.executable, "-m", "tests.crash.registry", uri)


def main(arguments: list[str]) -> int:
    """Run until killed, or told to stop; the daemon's exit code."""
    parser = argparse.ArgumentParser(prog="tests.crash.victim")
    parser.add_argument("config", type=Path)
    parser.add_argument("--point", choices=[point.name for point in Point])
    parser.add_argument("--pass", dest="number", type=int, default=1)
    parser.add_argument("--verb", default="")
    parser.add_argument("--stop", action="store_true")
    asked = parser.parse_args(arguments)
    meets = stands_still if asked.stop else ends
    if asked.verb:
        at_verb(asked.verb, asked.number, meets)
    setattr(app, "RegistryProcess", FileRegistry)  # noqa: B010 - the composition root has no seam for it, and needs none
    on_point = dies_at(Point[asked.point], asked.number, meets) if asked.point else no_point
    return app.run(load_config(asked.config, {}), on_point)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
