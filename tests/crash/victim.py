"""The daemon, made to die: `python -m tests.crash.victim CONFIG [--point NAME --pass N]`.

It is the daemon as `driftd start` runs it, with two differences: it kills itself (SIGKILL) when a fault point is passed
for the N-th time, and the process behind the registry reads a small file instead of holding MLflow, which would cost five
seconds of each of several hundred starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from daemon import app
from daemon.clients.registry import RegistryProcess
from daemon.config import load_config
from daemon.points import OnPoint, Point, no_point


def dies_at(point: Point, number: int) -> OnPoint:
    """Ends this process at the `number`-th pass of a point, whichever thread passes it."""
    passes = itertools.count(1)
    lock = threading.Lock()

    def on_point(passed: Point) -> None:
        if passed is not point:
            return
        with lock:
            if next(passes) == number:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()  # never goes on, however late the signal is delivered

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
    asked = parser.parse_args(arguments)
    setattr(app, "RegistryProcess", FileRegistry)  # noqa: B010 - the composition root has no seam for it, and needs none
    on_point = dies_at(Point[asked.point], asked.number) if asked.point else no_point
    return app.run(load_config(asked.config, {}), on_point)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
