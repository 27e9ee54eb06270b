"""Lines that are on the disk before their sender is answered, in files that a stream of files reads.

A file is written to as `TIME.jsonl.part` and loses the `.part` when it is whole; TIME is when it was opened, so names sort
by time. Senders that come at once share one fsync. What a killed daemon left open is closed at the next start: a line that
was cut off had not been answered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

SEGMENT_S = 2.0
"""A file is closed when it is so old ..."""
SEGMENT_BYTES = 32 << 20
"""... or so large."""
_STAMP = "%Y%m%dT%H%M%S%fZ"
_OPEN = ".jsonl.part"


class Full(OSError):
    """The spool has as many bytes as it may have."""


@dataclass(slots=True)
class _Open:
    """The file that is written to."""

    path: Path
    handle: int
    since: datetime
    size: int = 0


class Spool:
    """The files of one folder; `limit` in bytes. `append` may be called by many threads at once, all else by one."""

    def __init__(self, folder: Path, limit: int, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._limit = limit
        self._clock = clock
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        """Held around a sync, and while a file is closed. Taken before the other lock."""
        self._file: _Open | None = None
        self._last = ""
        self._written = self._settled = self._failed = 0
        """Numbers of lines: the last that was written, that was synced or could not be, that could not be."""
        self.bytes = 0
        """What all its files have, as far as is known."""

    def recover(self) -> int:
        """Close what was left open, and count what is there; how many files were closed. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        left = sorted(self._folder.glob(f"*{_OPEN}"))
        for path in left:
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if not whole:
                path.unlink()
                continue
            with path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
            path.rename(path.with_suffix(""))
        _sync_folder(self._folder)
        self._last = max((path.name for path in self._folder.glob("*.jsonl")), default="")
        self.bytes = sum(path.stat().st_size for path in self.files())
        return len(left)

    def append(self, line: bytes) -> None:
        """When it returns, the line is on the disk. Raises Full, and OSError when the disk does not take it."""
        block = line + b"\n"
        with self._writing:
            if self.bytes + len(block) > self._limit:
                raise Full(errno.ENOSPC, f"the spool has its {self._limit >> 20} MiB")
            self._write(block)
            self._written += 1
            mine = self._written
        with self._syncing:
            if mine > self._settled:
                self._sync()
            if mine <= self._failed:
                raise OSError(errno.EIO, "the file could not be synced")

    def turn(self, at_once: bool = False) -> None:
        """Close the file that is written to when it is old or large enough, or `at_once`. Raises OSError."""
        with self._syncing:
            file = self._file
            if file is None:
                return
            age = abs((self._clock() - file.since).total_seconds())
            if not at_once and age < SEGMENT_S and file.size < SEGMENT_BYTES:
                return
            with self._writing:
                self._sync(locked=True)
                self._file = None
            os.close(file.handle)
            if file.size:
                file.path.rename(file.path.with_suffix(""))
                _sync_folder(self._folder)
            else:
                file.path.unlink()

    def files(self) -> list[Path]:
        """Its closed files, oldest first."""
        return sorted(self._folder.glob("*.jsonl"))

    def remove(self, measured: Collection[Path], keep: timedelta) -> int:
        """Remove those of the measured files that are older than `keep`, and all of them while half of the room is used.

        How many; what is there is counted anew. Raises OSError.
        """
        border = (self._clock() - keep).timestamp()
        sizes: dict[Path, int] = {}
        removed = 0
        pressed = self.bytes * 2 > self._limit
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path in measured and (pressed or status.st_mtime < border):
                    path.unlink()
                    removed += 1
                else:
                    sizes[path] = status.st_size
        with self._writing:
            self.bytes = sum(sizes.values()) + (self._file.size if self._file is not None else 0)
        return removed

    def _write(self, block: bytes) -> None:
        file = self._file or self._begin()
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[os.write(file.handle, rest) :]
        except OSError:
            os.ftruncate(file.handle, file.size)  # no half lines
            raise
        file.size += len(block)
        self.bytes += len(block)

    def _sync(self, locked: bool = False) -> None:
        """Make what is written durable, or know that it is not. The caller holds `_syncing`, and `_writing` if `locked`."""
        with contextlib.nullcontext() if locked else self._writing:
            until, file = self._written, self._file
        try:
            if file is not None:
                os.fsync(file.handle)
        except OSError:
            self._failed = until
            if file is not None:
                file.since = datetime.min.replace(tzinfo=UTC)  # another one is to be begun
        self._settled = until

    def _begin(self) -> _Open:
        self._folder.mkdir(parents=True, exist_ok=True)
        now = self._clock().astimezone(UTC)
        name = now.strftime(_STAMP)
        if name <= self._last[: len(name)]:  # the clock went back: order matters more than the exact time
            last = datetime.strptime(self._last[: len(name)], _STAMP).replace(tzinfo=UTC)
            name = (last + timedelta(microseconds=1)).strftime(_STAMP)
        path = self._folder / f"{name}{_OPEN}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._last = path.name
        self._file = _Open(path, handle, self._clock())
        _sync_folder(self._folder)
        return self._file


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
