"""SIGKILL at every system call of submit, of the shim and of its child: a job never starts twice, and is never lost.

An audit hook counts what the interpreter does to files and processes and kills the process at the n-th of them, for
n = 1, 2, 3 … until nothing is left to be killed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.platforms import shim
from daemon.platforms.base import JobSpec, JobState, JobStatus
from daemon.platforms.local_jobs import LocalJobs

T = TypeVar("T")

KILLED_SHIM = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import shim
role, count, known = 0, 0, os.getpid()

def hook(event, args):
    global role, count, known
    if not event.startswith(("os.", "open", "fcntl.")) or str(args[:1]).startswith(("('/proc", "(b'/proc")):
        return
    if os.getpid() != known:
        role, count, known = role + 1, 0, os.getpid()
    if role == {role}:
        count += 1
        if count == {at}:
            open({mark!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
shim.main()
"""
SHIM, CHILD = 1, 2


def eventually(read: Callable[[], T], holds: Callable[[T], bool], seconds: float = 30.0) -> T:
    """Read until it holds; the last value read."""
    end = time.monotonic() + seconds
    while not holds(value := read()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def noting(folder: Path) -> JobSpec:
    """A job that notes each of its starts."""
    program = (
        "import json, os; os.write(os.open('../../note', os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'x')\n"
        "json.dump({'version': '1'}, open('outputs.json', 'w'))"
    )
    return JobSpec("job-1", (sys.executable, "-I", "-S", "-c", program), {}, {}, 512, 30)


def starts(home: Path) -> int:
    """How often the job's program started."""
    note = home / "note"
    return len(note.read_text()) if note.exists() else 0


def ended(jobs: LocalJobs) -> JobStatus:
    """The job's status once it has ended."""
    return eventually(lambda: jobs.status("job-1"), lambda status: status.state is not JobState.RUNNING)


def unlocked(folder: Path) -> bool:
    """Whether nobody looks after the job."""
    with (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def submit_killed_at(home: Path, at: int) -> bool:
    """Submit in a process that is killed at its `at`-th step; whether it was."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def hook(event: str, _args: Any) -> None:
            nonlocal count
            if event.startswith(("os.", "open", "fcntl.", "subprocess.")):
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        with contextlib.suppress(BaseException):
            sys.addaudithook(hook)
            LocalJobs(home).submit(noting(home))
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.slow
def test_a_daemon_killed_anywhere_in_submit_leaves_a_job_that_runs_exactly_once(tmp_path: Path) -> None:
    """Whichever step of submit is the daemon's last, the repeated submit ends with the job run once."""
    for at in itertools.count(1):
        home = tmp_path / str(at)
        home.mkdir()
        killed = submit_killed_at(home, at)
        jobs = LocalJobs(home)
        jobs.submit(noting(home))
        status = ended(jobs)
        assert (status.state, status.outputs, starts(home)) == (JobState.DONE, {"version": "1"}, 1), f"at step {at}"
        if not killed:
            break
    assert at > 15  # it did go through the steps


@pytest.mark.slow
@pytest.mark.parametrize("role", [SHIM, CHILD])
def test_a_shim_killed_anywhere_never_makes_a_job_start_twice(tmp_path: Path, role: int) -> None:
    """A job that was not begun is started anew and runs once; one that was is FAILED, or DONE when its end was told."""
    seen = set()
    for at in itertools.count(1):
        home = tmp_path / str(at)
        home.mkdir()
        mark = home / "killed"
        killer = home / "killer.py"
        killer.write_text(KILLED_SHIM.format(folder=str(Path(shim.__file__).parent), role=role, at=at, mark=str(mark)))
        folder = home / "jobs/job-1"
        LocalJobs(home, program=killer).submit(noting(home))
        assert eventually(lambda: (folder / "status.json").exists() or unlocked(folder), bool)  # noqa: B023
        told, began = (folder / "status.json").exists(), (folder / "program.json").exists()
        jobs = LocalJobs(home)
        jobs.submit(noting(home))
        status = ended(jobs)
        assert starts(home) <= 1, f"at step {at}"
        if not began and not told:
            assert (status.state, starts(home)) == (JobState.DONE, 1), f"at step {at}"
        elif mark.exists() and (role == CHILD or not told):
            assert JobState.FAILED is status.state, f"at step {at}"
        assert shim.members(folder / "call.json") == ()
        seen.add((began, told, status.state))
        if not mark.exists():
            break
    assert at > 5
    assert {(True, True, JobState.DONE)} < seen


def test_a_program_whose_shim_died_is_ended(tmp_path: Path) -> None:
    """Without its shim nobody holds the program to its limits or learns its exit: it is ended, with all it started."""
    jobs = LocalJobs(tmp_path)
    program = "import os, time\nos.fork() == 0 and os.setsid()\ntime.sleep(600)"
    jobs.submit(JobSpec("job-1", (sys.executable, "-I", "-S", "-c", program), {}, {}, 512, 600))
    folder = tmp_path / "jobs/job-1"
    assert len(eventually(lambda: shim.members(folder / "call.json"), lambda pids: len(pids) == 2)) == 2
    program_pid = shim.read_json(folder / "program.json")["pid"]
    parent = int(Path(f"/proc/{program_pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    status = ended(jobs)
    assert JobState.FAILED is status.state
    assert "its shim died" in status.why
    assert shim.members(folder / "call.json") == ()


def test_a_shim_that_never_comes_up_is_given_up(tmp_path: Path) -> None:
    """A shim that dies before the program's start is started three times, then the job is FAILED and says where to look."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no shim today')")
    jobs = LocalJobs(tmp_path, program=broken)
    jobs.submit(noting(tmp_path))
    status = ended(jobs)
    assert (status.state, starts(tmp_path)) == (JobState.FAILED, 0)
    assert "shim.log" in status.why
    assert (tmp_path / "jobs/job-1/shim.log").read_text() == "no shim today\n" * 3
