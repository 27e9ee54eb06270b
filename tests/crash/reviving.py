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

LONGEST = 7.0
"""A life lasts up to so many seconds; it takes one to two until it answers."""


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
                    return life.wait(random.uniform(0.0, LONGEST))
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
