"""Jobs on this machine: each runs under a shim of its own, and its folder is all there is to know about it.

The folder `jobs/ID`, by the order in which its files appear:

    call.json  spec.json  lock    made under another name and renamed in: the folder is whole or not there
    spawns                        one byte for each shim that was started
    program.json                  pid and start time, written by the process that is about to become the program
    stdout.log  stderr.log  tmp/  the program's output, bounded, and its TMPDIR
    outputs.json                  the program's own
    cancel.json                   why somebody wants it ended
    status.json                   how it ended; the last word

**Never twice.** A program is started only by a process that holds the folder's lock and saw neither program.json nor
status.json, and program.json is durable before the program runs. The lock (flock) belongs to the open file: `submit`
takes it and hands it to the shim as an open descriptor, the shim's child holds it until the moment it becomes the
program. So it is never free while anybody could still start the program, and the kernel frees it when the last holder
dies. No process numbers are trusted for this.

**Whatever the moment of a crash**, the next `submit` or `status` finds one of these:

| what died, and when | what is found | what is done |
|---|---|---|
| daemon, before the folder was renamed in | nothing (a `.new-…` folder that is swept later) | submit starts it |
| daemon, before the shim had the lock | lock free, no program.json | a shim is started |
| daemon, after that | lock held | it runs: adopted |
| shim, before its child wrote program.json | lock free, no program.json: the program never ran | a shim is started, three times at most |
| shim's child, before it became the program | the shim lives and writes status.json | FAILED, by its wait status |
| shim and child, between program.json and the program | lock free, program.json | FAILED: it may have run |
| shim, while the program runs | lock free, program.json, the program lives on without limits | its group is killed, FAILED |
| shim, after the program ended, before status.json | lock free, program.json | FAILED: its exit status is lost |
| both, by a reboot | lock free, program.json whose start time names another boot | FAILED, nobody is killed |
| anything, after status.json | status.json | that |

The last word is written under the lock by exactly one of shim and daemon. `cancel` of a job that nobody submitted leaves
a folder that says so: a late `submit` (a worker whose lease ran out) does not start it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.core.canonical import canonical
from daemon.core.errors import Refused, Unavailable
from daemon.platforms import shim
from daemon.platforms.base import JobSpec, JobState, JobStatus
from daemon.points import OnPoint, Point, no_point

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NEW, _OLD = ".new-", ".old-"
_SPAWNS = 3
_OUTPUT_BYTES = 4_000_000
_STALE_SECONDS = 3600.0


class LocalJobs:
    """The Jobs protocol on this machine. Safe to use from any thread and from several processes on one `home`."""

    def __init__(
        self,
        home: Path,
        grace: float = 5.0,
        program: Path = Path(shim.__file__),
        on_point: OnPoint = no_point,
    ) -> None:
        """`grace`: seconds between TERM and KILL when a job is ended; `program`: the shim."""
        self._folder = home.absolute() / "jobs"
        self._grace = grace
        self._shim = program
        self._on_point = on_point

    def submit(self, spec: JobSpec) -> JobStatus:
        """Start the job, or adopt the one of this id, whatever became of it.

        Refused for an id that is no file name and for an object of a cluster, Unavailable when the folder cannot be written.
        """
        if spec.manifest:
            what = f"its template is a {spec.manifest.get('kind')} of a cluster, and there is none"
            raise Refused("jobs", "submit", what, "set platform.kind to kubernetes in config.yaml")
        folder = self._of(spec.id)
        if not folder.exists():
            self._make(
                folder,
                dict(spec.payload),
                {
                    "argv": list(spec.argv),
                    "env": clean_environment(folder / "tmp")
                    | dict(spec.env)
                    | {"DRIFTD_CALL": str(folder / "call.json"), "DRIFTD_OUTPUTS": str(folder / "outputs.json")},
                    "memory_mb": spec.memory_mb,
                    "seconds": spec.seconds,
                    "grace": self._grace,
                },
            )
            self._on_point(Point.JOB_MADE)
        return self._advance(folder)

    def status(self, job: str) -> JobStatus:
        """Where the job stands.

        Starts it when a crash came between its submission and its start, and ends what a dead shim left running.
        """
        folder = self._of(job)
        if not folder.exists():
            return JobStatus(JobState.UNKNOWN, "no such job was submitted", {}, str(folder))
        return self._advance(folder)

    def cancel(self, job: str, why: str) -> None:
        """Ask for the job's end and return; its state becomes FAILED with `why`, unless it has ended before."""
        folder = self._of(job)
        if not folder.exists():
            self._make(folder, {}, {})
        with _trouble("cancel"):
            if not (folder / "status.json").exists():
                shim.write_atomically(folder / "cancel.json", {"why": why})
        self._advance(folder)

    def names(self) -> tuple[str, ...]:
        """The jobs that there are."""
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name)))

    def remove(self, job: str) -> bool:
        """Remove what is left of a job that has ended; whether there was such a one.

        Only for one that nobody submits any more: submitted again, it would start again.
        """
        folder = self._of(job)
        with _trouble("remove"):
            if not (folder / "status.json").exists():
                return False
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                if not _taken(lock):  # its shim is just ending
                    return False
                # In one step: half a folder would look like a job that is to be started.
                old = self._folder / f"{_OLD}{job}"
                folder.rename(old)
            finally:
                os.close(lock)
            shutil.rmtree(old, ignore_errors=True)
            return True

    def _of(self, job: str) -> Path:
        if not _ID.fullmatch(job):
            raise Refused("jobs", "submit", f"{job!r} cannot name a job", "letters, digits, dot, dash and underscore")
        return self._folder / job

    def _make(self, folder: Path, payload: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        with _trouble("submit"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            draft = Path(tempfile.mkdtemp(prefix=_NEW, dir=self._folder))
            shim.write_bytes_atomically(draft / "call.json", canonical(payload))
            shim.write_atomically(draft / "spec.json", spec)
            (draft / "lock").touch()
            try:
                draft.rename(folder)
            except OSError:
                shutil.rmtree(draft)
                if not folder.exists():
                    raise
            shim.fsync_folder(self._folder)

    def _sweep(self) -> None:
        """Remove drafts, and rests of what was to be removed, that a crash left."""
        for draft in [*self._folder.glob(f"{_NEW}*"), *self._folder.glob(f"{_OLD}*")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)

    def _advance(self, folder: Path) -> JobStatus:
        """Look where the job stands and, when nobody looks after it, do what the table above says."""
        with _trouble("status"):
            if (ending := shim.read_json(folder / "status.json")) is not None:
                return _final(folder, ending)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                if not _taken(lock):
                    return _running(folder)
                return self._abandoned(folder, lock)
            finally:
                # Never LOCK_UN: that would take it from the shim as well. Closing leaves the shim's descriptor its lock.
                os.close(lock)

    def _abandoned(self, folder: Path, lock: int) -> JobStatus:
        """Nobody but us holds the lock, so nobody but us can start the job or write its last word."""
        if (ending := shim.read_json(folder / "status.json")) is not None:
            return _final(folder, ending)
        program = shim.read_json(folder / "program.json")
        if program is not None:
            group = program["pid"] if shim.start_of(program["pid"]) == program["start"] else None
            if not shim.end_all(folder, group):
                return JobStatus(JobState.RUNNING, "its shim died; what it started is being ended", {}, str(folder))
            return _close(folder, "its shim died; how the program ended is unknown, and what was left of it was ended")
        if (cancel := shim.read_json(folder / "cancel.json")) is not None:
            return _close(folder, f"cancelled: {cancel['why']}")
        spawns = folder / "spawns"
        if spawns.exists() and spawns.stat().st_size >= _SPAWNS:
            return _close(folder, f"its shim did not come up in {_SPAWNS} attempts, see {folder / 'shim.log'}")
        with spawns.open("ab") as count:
            count.write(b".")
        with (folder / "shim.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-I", "-S", str(self._shim), str(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=clean_environment(folder),
                pass_fds=(lock,),
                start_new_session=True,
            ).wait(timeout=60)
        self._on_point(Point.JOB_STARTED)
        return JobStatus(JobState.RUNNING, "starting", {}, str(folder))


def clean_environment(temporary: Path) -> dict[str, str]:
    """The small environment that programs start with: nothing of the daemon's own leaks into them."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container's arbitrary user
        home = str(temporary)
    path = os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"))
    return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "TMPDIR": str(temporary)}


@contextlib.contextmanager
def _trouble(operation: str) -> Iterator[None]:
    """A disk or a process table that is full is a passing fault."""
    try:
        yield
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("jobs", operation, str(error)) from error


def _taken(lock: int) -> bool:
    """Whether this open file could take its lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _running(folder: Path) -> JobStatus:
    program = shim.read_json(folder / "program.json")
    why = f"running as process {program['pid']}" if program else "starting"
    return JobStatus(JobState.RUNNING, why, {}, str(folder))


def _close(folder: Path, why: str) -> JobStatus:
    ending = {"exit": None, "why": why, "ended_at": time.time()}
    shim.write_atomically(folder / "status.json", ending)
    return _final(folder, ending)


def _final(folder: Path, ending: Mapping[str, Any]) -> JobStatus:
    """The state that a written ending means."""
    if ending["exit"] == shim.EX_TEMPFAIL:
        return JobStatus(JobState.AGAIN, ending["why"], _outputs(folder) or {}, str(folder))
    if ending["exit"] != 0:
        return JobStatus(JobState.FAILED, ending["why"], _outputs(folder) or {}, str(folder))
    outputs = _outputs(folder)
    if outputs is None:
        return JobStatus(JobState.FAILED, "it ended well, but its outputs.json is no JSON object", {}, str(folder))
    return JobStatus(JobState.DONE, "", outputs, str(folder))


def _outputs(folder: Path) -> dict[str, Any] | None:
    """What the program wrote; empty when it wrote nothing, None when it cannot be read."""
    path = folder / "outputs.json"
    if not path.exists():
        return {}
    if path.stat().st_size > _OUTPUT_BYTES:
        return None
    outputs = shim.read_json(path)
    return outputs if isinstance(outputs, dict) else None
