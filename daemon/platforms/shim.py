"""The shim: runs one job's program to its end, in a session of its own, and writes down how it ended.

A program by itself (`python -I -S shim.py FOLDER LOCK_FD`) with nothing but the standard library, so that it starts in
milliseconds and outlives the daemon that started it. It gets the folder's lock as an open file and holds it all its life;
the program does not inherit it. `local_jobs` says what each file means and why a job never starts twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOG_BYTES = 8_000_000
"""Most that one log file holds; the one before it is kept as `NAME.1`."""
EX_TEMPFAIL = 75
_TICK = 0.1
_MEMORY_EVERY = 1.0
_STREAMS = ("stdout.log", "stderr.log")


def write_atomically(path: Path, value: Any) -> None:
    """Write `value` as JSON so that `path` holds all of it or what it held before, whatever happens; durable on return."""
    write_bytes_atomically(path, json.dumps(value).encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write bytes as `write_atomically` does. The file is for its owner's eyes only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None when there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def start_of(pid: int) -> str:
    """When the living process `pid` started; empty when there is none (a zombie is none).

    In words that no other process of this number shares, also not after a reboot.
    """
    if not Path("/proc/self/stat").exists():
        answer = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
        )
        state, _, started = answer.stdout.strip().partition(" ")
        return "" if state.startswith("Z") else started.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The program's name, in parentheses, may hold anything: count from the last one.
    state, *fields = stat.rpartition(")")[2].split()
    if state in "ZX":
        return ""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{fields[18]}"


def members(call: Path) -> tuple[int, ...]:
    """The living processes of a job: those that were given this call, whatever session they moved to.

    Linux only; elsewhere empty, and the process group has to do.
    """
    mark = b"DRIFTD_CALL=" + os.fsencode(call)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return tuple(found)


def end_all(folder: Path, group: int | None) -> bool:
    """Kill what is left of a job: its process group, then every member that moved away. True when nothing is left."""
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    left: tuple[int, ...] = ()
    for _ in range(100):
        left = members(folder / "call.json")
        if not left:
            return True
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return False


def _memory_mb(call: Path) -> float:
    """Memory of all the job's processes together, pages they share counted once."""
    total = 0
    for pid in members(call):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


class _Log:
    """One output stream of the program, kept in at most two files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Keep a piece of output. A full disk costs the piece, not the job."""
        with contextlib.suppress(OSError):
            if self._size + len(chunk) > LOG_BYTES:
                self._path.replace(self._path.with_suffix(".log.1"))
                os.close(self._handle)
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = 0
            self._size += os.write(self._handle, chunk)


def _become_program(folder: Path, spec: dict[str, Any], outputs: tuple[int, int]) -> None:
    """In the forked child: say who it is, then become the program. Never returns."""
    status = EX_TEMPFAIL  # until the program itself is asked for, a fault here is a passing one
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        os.nice(5)  # the daemon and the gateway answer first
        who = {"pid": os.getpid(), "start": start_of(os.getpid())}
        _when_there_is_room(lambda: write_atomically(folder / "program.json", who), "write down who the program is")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = int(spec["memory_mb"]) * 1024 * 1024
        # RLIMIT_DATA counts what the program can write to; RLIMIT_AS would also count what libraries merely reserve.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        status = 127
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - by list, as Popen would
    except (OSError, ValueError) as error:
        os.write(2, f"{spec['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(status)  # whatever happened, the child must not run on as a second shim


class _Limits:
    """What may end a job before its program does."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self._folder = folder
        self._seconds = float(spec["seconds"])
        self._memory_mb = float(spec["memory_mb"])
        self._deadline = time.monotonic() + self._seconds
        self._next_memory = time.monotonic() + _MEMORY_EVERY

    def passed(self, now: float) -> str:
        """Why the job has to end at `now` (monotonic); empty when it may go on."""
        if (cancel := read_json(self._folder / "cancel.json")) is not None:
            return f"cancelled: {cancel['why']}"
        if now >= self._deadline:
            return f"ran longer than its limit of {self._seconds:g} s"
        if now < self._next_memory:
            return ""
        self._next_memory = now + _MEMORY_EVERY
        used = _memory_mb(self._folder / "call.json")
        return f"used {used:.0f} MB, its limit is {self._memory_mb:g} MB" if used > self._memory_mb else ""


def _watch(folder: Path, spec: dict[str, Any], pid: int, logs: dict[int, _Log], wake: int) -> tuple[int, str]:
    """Pump the program's output and hold it to its limits until it has ended: its wait status, and why it was ended."""
    limits = _Limits(folder, spec)
    kill_at = 0.0
    why = ""
    while True:
        _pump(logs, wake, _TICK)
        ended, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if ended:
            break
        if why and now >= kill_at:
            end_all(folder, pid)
        elif not why and (why := limits.passed(now)):
            kill_at = now + float(spec["grace"])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
    # The program is gone, what it started goes too; its number is free only now, no one else can lead that group yet.
    end_all(folder, pid)
    while logs and time.monotonic() < now + 1:
        _pump(logs, wake, 0.05)
    return status, why


def _pump(logs: dict[int, _Log], wake: int, seconds: float) -> None:
    """Move what the program wrote to its logs; wait at most `seconds` for something."""
    ready, _, _ = select.select([*logs, wake], [], [], seconds)
    for pipe in ready:
        chunk = os.read(pipe, 65536)
        if pipe == wake:
            continue
        if chunk:
            logs[pipe].write(chunk)
        else:
            del logs[pipe]


def _last_words(folder: Path) -> str:
    """The last line the program wrote to its error output."""
    with contextlib.suppress(OSError), (folder / "stderr.log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
        lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
    return ""


def _files(folder: Path) -> list[_Log]:
    (folder / "tmp").mkdir(exist_ok=True)
    return [_Log(folder / name) for name in _STREAMS]


def _when_there_is_room(write: Callable[[], T], what: str) -> T:
    """Do what a full disk keeps from being done, as often as it takes; only a folder that is gone is given up."""
    while True:
        try:
            return write()
        except FileNotFoundError:
            raise
        except OSError as error:
            with contextlib.suppress(OSError):  # the shim's own log lies on the same disk
                os.write(2, f"cannot {what}: {error}\n".encode())
            time.sleep(1)


def _run(folder: Path, lock: int) -> None:
    """Run the job of `folder`, unless it was run or called off before."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(lock, False)
    if (folder / "status.json").exists() or (folder / "program.json").exists() or (folder / "cancel.json").exists():
        return
    spec = json.loads((folder / "spec.json").read_bytes())
    # Before there is a program: afterwards nothing may stop the shim from looking after it.
    files = _when_there_is_room(lambda: _files(folder), "make the job's files")
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pipes, ends = zip(os.pipe(), os.pipe(), strict=True)
    pid = os.fork()
    if pid == 0:
        _become_program(folder, spec, ends)
    for end in ends:
        os.close(end)
    status, why = _watch(folder, spec, pid, dict(zip(pipes, files, strict=True)), wake)
    code = os.waitstatus_to_exitcode(status)
    words = _last_words(folder)
    said = f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    ending = {"exit": None if why else code, "why": why or (f"{said}: {words}" if words else said)}
    # The job counts as running until its end is written down.
    _when_there_is_room(
        lambda: write_atomically(folder / "status.json", ending | {"ended_at": time.time()}),
        "write how the job ended",
    )
    shutil.rmtree(folder / "tmp", ignore_errors=True)


def main() -> None:
    """Leave the daemon's family, then run the job."""
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    if os.fork():
        os._exit(0)  # the daemon waits for this one only, and init reaps the other
    os.chdir(folder)
    _run(folder, lock)


if __name__ == "__main__":
    main()
