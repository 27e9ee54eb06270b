"""The process itself: it is stopped in order, halted and let go on, and its words are not what stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.disk import small_disk
from tests.faults.stage import Stage

ROOT = Path(__file__).parents[2]

_HELD = """
import os, signal, threading, time
from daemon.app import stop_at_signals
stop = threading.Event()
stop_at_signals(stop)
with stop._cond:
    os.kill(os.getpid(), signal.SIGNAL)
    time.sleep(0.2)
raise SystemExit(0 if stop.wait(20) else 1)
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_that_comes_while_the_event_is_being_touched_stops_the_daemon(number: str) -> None:
    """It waits for nothing that the interrupted thread holds."""
    program = _HELD.replace("SIGNAL", number)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


_TALKS = """
import logging, structlog, sys
from daemon.logs import start_logging
start_logging()
for number in range(3000):
    structlog.get_logger("a").info("line", number=number, much="x" * 100)
    logging.getLogger("b").warning("line %d", number)
print("done")
"""


def test_log_lines_that_find_no_room_are_lost_and_stop_nothing(tmp_path: Path) -> None:
    """A log file on a full disk raises nothing into whoever writes to it, and does not change the exit code."""
    with small_disk(tmp_path / "disk", 1) as disk:
        log = disk.folder / "log"
        with log.open("wb") as file:
            disk.fill()
            done = subprocess.run(
                [sys.executable, "-c", _TALKS], cwd=ROOT, stdout=subprocess.PIPE, stderr=file, timeout=60, check=False
            )
        assert (done.returncode, done.stdout, log.stat().st_size) == (0, b"done\n", 0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_daemon_that_is_halted_goes_on_and_one_that_is_told_to_stop_stops(played: Stage) -> None:
    """SIGSTOP for a few seconds, then SIGCONT: nothing is lost. SIGTERM in the middle of it all: exit code 0, soon."""
    played.senders.land_rest()
    played.here.start()
    with played.traffic():
        played.here.wait("some acks", lambda: played.senders.acks > 10)
        pid = played.here.pid("daemon")
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(5)
        os.kill(pid, signal.SIGCONT)
        acks = played.senders.acks
        played.here.wait("acks after the halt", lambda: played.senders.acks > acks + 10)
        played.senders.allow()
        played.here.wait("a run", lambda: played.store.one("SELECT count(*) FROM runs WHERE live = 1"))
        assert played.here.end("daemon", 30) == 0
    played.here.start()
    played.settled()
