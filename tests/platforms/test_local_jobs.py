"""Jobs on this machine, run for real: what becomes of a program, its limits, and what ends with it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.core.errors import Refused
from daemon.platforms import shim
from daemon.platforms.base import JobSpec, JobState, JobStatus
from daemon.platforms.local_jobs import LocalJobs
from daemon.points import Point
from tests.disk import small_disk

T = TypeVar("T")


def eventually(read: Callable[[], T], holds: Callable[[T], bool], seconds: float = 30.0) -> T:
    """Read until it holds; the last value read, so that the assertion of the test says what is wrong."""
    end = time.monotonic() + seconds
    while not holds(value := read()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def spec_of(
    program: str, payload: Mapping[str, Any] | None = None, *, memory_mb: int = 512, seconds: float = 60
) -> JobSpec:
    """A job that runs a Python program given as text."""
    return JobSpec(
        id="job-1",
        argv=(sys.executable, "-I", "-S", "-c", program),
        payload=payload or {},
        env={"GIVEN": "yes"},
        memory_mb=memory_mb,
        seconds=seconds,
    )


def ended(jobs: LocalJobs, job: str = "job-1") -> JobStatus:
    """The job's status once it has ended."""
    return eventually(lambda: jobs.status(job), lambda status: status.state is not JobState.RUNNING)


@pytest.fixture
def jobs(tmp_path: Path) -> LocalJobs:
    """Jobs in an empty home."""
    return LocalJobs(tmp_path, grace=0.3)


def test_a_job_gets_its_payload_and_its_outputs_come_back(jobs: LocalJobs) -> None:
    """The program reads the payload at DRIFTD_CALL, and what it writes to outputs.json is the job's outputs."""
    program = (
        "import json, os, pathlib; call = pathlib.Path(os.environ['DRIFTD_CALL'])\n"
        "rows = json.loads(call.read_text())['rows']\n"
        "(call.parent / 'outputs.json').write_text(json.dumps({'version': str(rows + 1)}))"
    )
    assert JobState.RUNNING is jobs.submit(spec_of(program, {"rows": 41})).state
    status = ended(jobs)
    assert (status.state, status.why, status.outputs) == (JobState.DONE, "", {"version": "42"})


def test_a_full_disk_fails_no_job(tmp_path: Path) -> None:
    """A job whose end finds no room counts as running; when there is room again its end is what it was."""
    with small_disk(tmp_path / "home", 8) as disk:
        jobs = LocalJobs(disk.folder, grace=0.3)
        go = tmp_path / "go"
        os.mkfifo(go)
        jobs.submit(spec_of(f"open({str(go)!r}).read(); print('said', flush=True)"))
        folder = disk.folder / "jobs" / "job-1"
        program = eventually(lambda: shim.read_json(folder / "program.json"), bool)
        with go.open("w"):  # the program is at work: the disk is full before it may end
            disk.fill(folder / "shim.log", folder / "stdout.log", folder / "stderr.log")
        eventually(lambda: not shim.start_of(program["pid"]), bool)
        time.sleep(1.5)  # the shim has met the full disk, and once again
        assert JobState.RUNNING is jobs.status("job-1").state
        disk.free()
        status = ended(jobs)
        assert (status.state, status.why) == (JobState.DONE, "")


def test_a_shim_that_cannot_make_its_files_waits(tmp_path: Path) -> None:
    """It uses up no try, and runs the program when they can be made: here something is in the way for a while."""
    folder = tmp_path / "jobs" / "job-1"
    obstacle = folder / "tmp"
    jobs = LocalJobs(tmp_path, on_point=lambda point: obstacle.touch() if point is Point.JOB_MADE else None)
    jobs.submit(spec_of("pass"))
    log = folder / "shim.log"
    assert "cannot make the job's files" in eventually(log.read_text, bool)
    assert JobState.RUNNING is jobs.status("job-1").state
    assert not (folder / "program.json").exists()
    obstacle.unlink()
    assert JobState.DONE is ended(jobs).state
    assert len((folder / "spawns").read_bytes()) == 1


def test_a_program_that_cannot_be_written_down_waits(tmp_path: Path) -> None:
    """There is room for the job's files and for none more: no try is used up, and the program runs when there is room."""
    with small_disk(tmp_path / "home", 8) as disk:
        folder = disk.folder / "jobs" / "job-1"
        obstacle = folder / "tmp"
        jobs = LocalJobs(disk.folder, on_point=lambda point: obstacle.touch() if point is Point.JOB_MADE else None)
        jobs.submit(spec_of("pass"))
        assert eventually((folder / "shim.log").read_text, bool)
        disk.fill_names(but=2)  # and one that the obstacle has: for `tmp` and two logs
        obstacle.unlink()
        log = eventually(lambda: (folder / "stderr.log").exists() and (folder / "stderr.log").read_text(), bool)
        assert "cannot write down who the program is" in log
        disk.free()
        assert JobState.DONE is ended(jobs).state
        assert len((folder / "spawns").read_bytes()) == 1


def test_an_unknown_job_is_unknown_and_a_bad_name_is_refused(jobs: LocalJobs) -> None:
    """A job that nobody submitted is UNKNOWN; an id that could leave the folder is Refused."""
    assert JobState.UNKNOWN is jobs.status("nobody").state
    with pytest.raises(Refused):
        jobs.status("../elsewhere")


@pytest.mark.parametrize(
    ("program", "state", "why"),
    [
        ("raise SystemExit(75)", JobState.AGAIN, "exit status 75"),
        ("raise SystemExit(3)", JobState.FAILED, "exit status 3"),
        ("import sys; sys.exit('too few rows')", JobState.FAILED, "exit status 1: too few rows"),
        ("import os; os.kill(os.getpid(), 11)", JobState.FAILED, "killed by SIGSEGV"),
        ("open('outputs.json', 'w').write('[1]')", JobState.FAILED, "its outputs.json is no JSON object"),
        ("open('outputs.json', 'w').write('{')", JobState.FAILED, "its outputs.json is no JSON object"),
    ],
)
def test_the_way_a_program_ends_is_told(jobs: LocalJobs, program: str, state: JobState, why: str) -> None:
    """Exit 75 is AGAIN, everything else but 0 with readable outputs is FAILED, and `why` quotes its last words."""
    jobs.submit(spec_of(program))
    status = ended(jobs)
    assert state is status.state
    assert why in status.why


def test_a_program_that_does_not_exist_fails_with_its_name(jobs: LocalJobs) -> None:
    """A program that cannot be started is a FAILED job that names it, not an exception in the daemon."""
    jobs.submit(JobSpec("job-1", ("/no/such/program",), {}, {}, 100, 10))
    status = ended(jobs)
    assert (status.state, "/no/such/program" in status.why) == (JobState.FAILED, True)


def test_a_job_sees_a_clean_environment(jobs: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the daemon's environment reaches a job; TMPDIR is the job's own and is gone after it."""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "1")
    program = "import json, os, tempfile; tempfile.mkstemp(); json.dump(dict(os.environ), open('outputs.json', 'w'))"
    jobs.submit(spec_of(program))
    status = ended(jobs)
    expected = {"PATH", "HOME", "LANG", "TMPDIR", "GIVEN", "DRIFTD_CALL", "DRIFTD_OUTPUTS"}
    assert expected == set(status.outputs) - {"LC_CTYPE"}
    assert not eventually(Path(status.outputs["TMPDIR"]).exists, lambda there: not there)


def test_submitting_again_adopts_the_first_job_whatever_became_of_it(jobs: LocalJobs, tmp_path: Path) -> None:
    """The same id again is the same job: while it runs, after it ended, and in another daemon."""
    note = tmp_path / "note"
    spec = spec_of(f"import time; open({str(note)!r}, 'a').write('x'); time.sleep(0.5)")
    jobs.submit(spec)
    assert JobState.RUNNING is LocalJobs(tmp_path).submit(spec).state
    assert JobState.DONE is ended(jobs).state
    assert JobState.DONE is LocalJobs(tmp_path).submit(spec).state
    assert note.read_text() == "x"


def test_a_job_lives_in_a_session_of_its_own_with_no_input(jobs: LocalJobs) -> None:
    """A job is not in the daemon's session (a signal to the daemon's group misses it) and reads end of file."""
    program = (
        "import json, os, sys; json.dump({'sid': os.getsid(0), 'pid': os.getpid(), 'input': sys.stdin.read()},"
        " open('outputs.json', 'w'))"
    )
    jobs.submit(spec_of(program))
    outputs = ended(jobs).outputs
    assert (outputs["pid"], "") == (outputs["sid"], outputs["input"])


def test_the_time_limit_ends_a_program_that_ignores_term(jobs: LocalJobs, tmp_path: Path) -> None:
    """A job over its time gets TERM, after the grace KILL, and says so."""
    program = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\nwhile True: time.sleep(1)"
    jobs.submit(spec_of(program, seconds=0.5))
    status = ended(jobs)
    assert (status.state, status.why) == (JobState.FAILED, "ran longer than its limit of 0.5 s")
    assert (tmp_path / "jobs/job-1/stdout.log").read_text() == "asked\n"


def test_a_program_over_its_memory_gets_a_memory_error(jobs: LocalJobs) -> None:
    """One process cannot allocate more than the limit: it fails itself, with words."""
    jobs.submit(spec_of("x = bytearray(300_000_000)", memory_mb=100))
    status = ended(jobs)
    assert (status.state, status.why) == (JobState.FAILED, "exit status 1: MemoryError")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory of all processes is read from /proc")
def test_the_memory_limit_counts_all_processes_of_the_job(jobs: LocalJobs) -> None:
    """Several processes that stay under the limit one by one are ended when they pass it together."""
    program = "import os, time\nfor _ in range(4): os.fork()\nx = bytearray(b'x' * 40_000_000); time.sleep(30)"
    jobs.submit(spec_of(program, memory_mb=200))
    status = ended(jobs)
    assert JobState.FAILED is status.state
    assert status.why.endswith("MB, its limit is 200 MB")


def test_what_a_job_started_ends_with_it(jobs: LocalJobs) -> None:
    """Children that outlive the program, even in a session of their own, are gone when the job has ended."""
    program = (
        "import json, os, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid(); time.sleep(600)\n"
        "json.dump({'child': pid}, open('outputs.json', 'w')); time.sleep(0.2)"
    )
    jobs.submit(spec_of(program))
    status = ended(jobs)
    assert (status.state, shim.start_of(status.outputs["child"])) == (JobState.DONE, "")


def test_cancel_ends_the_job_and_is_harmless_afterwards(jobs: LocalJobs) -> None:
    """A cancelled job becomes FAILED with the reason; a job that has ended keeps its ending."""
    jobs.submit(spec_of("import time; time.sleep(600)"))
    jobs.cancel("job-1", "the run was rolled back")
    assert (ended(jobs).state, ended(jobs).why) == (JobState.FAILED, "cancelled: the run was rolled back")
    jobs.cancel("job-1", "again")
    assert jobs.status("job-1").why == "cancelled: the run was rolled back"


def test_a_cancel_before_the_submit_prevents_the_start(jobs: LocalJobs, tmp_path: Path) -> None:
    """A worker that comes late with its submit does not start a job that was called off."""
    jobs.cancel("job-1", "too late")
    status = jobs.submit(spec_of(f"open({str(tmp_path / 'note')!r}, 'w')"))
    assert (status.state, status.why, (tmp_path / "note").exists()) == (JobState.FAILED, "cancelled: too late", False)


def test_only_a_job_that_has_ended_is_removed(jobs: LocalJobs, tmp_path: Path) -> None:
    """One that runs is left alone; what is left of a removal that a crash cut short is swept, and is no job."""
    jobs.submit(spec_of("import time; time.sleep(60)"))
    assert not jobs.remove("job-1")
    assert not jobs.remove("nobody")
    jobs.cancel("job-1", "enough")
    assert ended(jobs).state is JobState.FAILED
    eventually(lambda: jobs.remove("job-1"), bool)
    assert jobs.names() == ()
    assert jobs.status("job-1").state is JobState.UNKNOWN
    rest = tmp_path / "jobs" / ".old-job-2"
    rest.mkdir()
    os.utime(rest, (1, 1))
    jobs.cancel("job-3", "makes a folder")
    assert not rest.exists()
    assert jobs.names() == ("job-3",)


def test_the_logs_of_a_chatty_program_stay_bounded(jobs: LocalJobs, tmp_path: Path) -> None:
    """However much a program prints, two files of bounded size are kept, the newest output among them."""
    jobs.submit(spec_of("import sys\nfor _ in range(300): sys.stdout.write('x' * 100_000)\nprint('the end')"))
    assert JobState.DONE is ended(jobs).state
    folder = tmp_path / "jobs/job-1"
    sizes = {path.name: path.stat().st_size for path in folder.glob("stdout.log*")}
    assert {"stdout.log", "stdout.log.1"} == set(sizes)
    assert max(sizes.values()) <= shim.LOG_BYTES
    assert (folder / "stdout.log").read_text().endswith("xthe end\n")


def test_a_job_that_died_with_its_machine_is_failed_and_nobody_else_is_killed(jobs: LocalJobs, tmp_path: Path) -> None:
    """After a reboot the program's number may be another process's: its start time differs, so it is left alone."""
    folder = tmp_path / "jobs/job-1"
    folder.mkdir(parents=True)
    for name, value in {
        "call.json": {}, "spec.json": {}, "program.json": {"pid": os.getpid(), "start": "another boot"},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(value))
    (folder / "lock").touch()
    status = jobs.status("job-1")
    assert JobState.FAILED is status.state
    assert "its shim died" in status.why


def test_a_start_time_names_a_process_for_good() -> None:
    """The start time of a living process stays the same, and a process that is gone or a zombie has none."""
    assert shim.start_of(os.getpid()) != ""
    assert shim.start_of(os.getpid()) == shim.start_of(os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert eventually(lambda: shim.start_of(pid), lambda start: start == "") == ""
    os.waitpid(pid, 0)
    assert shim.start_of(pid) == ""
