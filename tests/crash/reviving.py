"""`python -m tests.crash.reviving SEED FILE MODULE…`: runs a daemon, kills it at random moments, and starts it again.

A line in FILE per kill. Told to stop (SIGTERM), it lets the life under way end in good order and answers with its exit code;
a daemon that ends by itself is not revived.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from daemon.config import load_config
from daemon.control import ask
from daemon.core.errors import Unavailable

STARTING = 0.3
"""Share of the lives that end before they can have answered."""
LIFE = 7.0
"""Mean seconds that other lives go on after they have answered, exponentially distributed: however slow the machine is,
some last long enough for a worker to start and to do something."""
READY_SECONDS = 60.0


class _Told(Exception):
    """It was told to stop."""


def main(seed: str, told: str, *module: str) -> int:
    """Kill and revive; the exit code of the last life."""

    def stop(_number: int, _frame: object) -> None:
        raise _Told

    signal.signal(signal.SIGTERM, stop)
    random = Random(seed)
    began = time.monotonic()
    with contextlib.ExitStack() as lives, Path(told).open("a") as kills:
        life = None
        try:
            while True:
                life = lives.enter_context(subprocess.Popen([sys.executable, "-m", *module], start_new_session=True))
                try:
                    if random.random() < STARTING:
                        return life.wait(random.uniform(0.0, 1.5))
                    _await_answer(life)
                    return life.wait(random.expovariate(1 / LIFE))
                except subprocess.TimeoutExpired:
                    life.kill()
                    life.wait()
                    kills.write(f"{time.monotonic() - began:.3f}\n")
                    kills.flush()
        except _Told:
            if life is None:
                return 0
            life.terminate()
            return life.wait(60)


def _await_answer(life: subprocess.Popen[bytes]) -> None:
    home, until = load_config(with_secrets=False).home, time.monotonic() + READY_SECONDS
    while life.poll() is None and time.monotonic() < until:
        try:
            ask(home, {"op": "status"}, 5.0)
        except Unavailable:
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
