"""The prediction log of one target: one JSON line per record, in files that are closed every few moments.

A file is written to as `TIME-TARGET.jsonl.part` and loses the `.part` when it is closed, synced and whole; TIME is when
it was opened, so names sort by time. A line is in the file before its request is answered, so a killed gateway loses no
line; a machine that loses power loses what was not closed yet.

Answering matters more than logging, but a hole in the log is never hidden: lines that find no room (a full disk) wait in
memory up to a bound and are written when there is room again; what is over the bound is counted as lost, with the time,
and whoever counts requests since before that time is told that the log does not know.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from daemon.gateway.state import replace_file, sync_folder
from daemon.gateway.targets import dig

WAITING_BYTES = 8_000_000
"""Most bytes of lines that wait for room on the disk."""
SERVED_AT = "served_at"
"""The field with the gateway's own time of each record; `time` may be the record's own."""
SENT = "gateway-log:"
"""The cursor of what has been sent from a log to a topic is called so, and by the target."""
_STAMP = "%Y%m%dT%H%M%S%fZ"


def stamp(moment: datetime) -> str:
    """A time as part of a file name: sorts as text."""
    return moment.astimezone(UTC).strftime(_STAMP)


@dataclass(slots=True)
class Segment:
    """One file while it is written to."""

    path: Path
    handle: int
    size: int = 0


@dataclass(slots=True)
class PredictionLog:
    """Writes the log of one target. `write` and `detach` are for the event loop, `close` may run in a thread."""

    target: str
    folder: Path
    lost: int = 0
    """Records that could not be logged."""
    lost_at: str = ""
    """ISO time of the last of them."""
    problem: str = ""
    """Why lines are waiting or lost; empty when all is well."""
    _segment: Segment | None = None
    _last_name: str = ""
    _waiting: deque[tuple[bytes, int]] = field(default_factory=deque)
    _waiting_bytes: int = 0

    def write(self, lines: list[bytes], now: datetime) -> None:
        """Log the records of one request. Never raises: without room they wait, or are lost and counted."""
        block = b"".join(lines)
        self.retry(now)
        if not self._waiting and self._append(block, now):
            return
        if self._waiting_bytes + len(block) > WAITING_BYTES:
            self.lost += len(lines)
            self.lost_at = now.isoformat()
            return
        self._waiting.append((block, len(lines)))
        self._waiting_bytes += len(block)

    def retry(self, now: datetime) -> None:
        """Write what waits, as far as there is room."""
        while self._waiting and self._append(self._waiting[0][0], now):
            self._waiting_bytes -= len(self._waiting.popleft()[0])

    @property
    def waiting(self) -> int:
        """Records that wait for room."""
        return sum(count for _, count in self._waiting)

    def detach(self) -> Segment | None:
        """Take the open file out, to be closed; the next line opens another. None when nothing was written."""
        segment = self._segment
        if segment is None or segment.size == 0:
            return None
        self._segment = None
        return segment

    def close(self, segment: Segment) -> bool:
        """Sync the file and give it its final name. False when that failed: call again later."""
        try:
            os.fsync(segment.handle)
            segment.path.rename(segment.path.with_suffix(""))
            sync_folder(segment.path.parent)
        except OSError as error:
            self.problem = f"cannot close {segment.path.name}: {error}"
            return False
        os.close(segment.handle)
        return True

    def move(self, folder: Path) -> None:
        """Write the next file elsewhere; the open one is finished where it is."""
        if folder != self.folder:
            self.folder = folder
            self._last_name = ""

    def give_up(self, now: datetime) -> None:
        """At the end of the process: what still waits is lost."""
        if self._waiting:
            self.lost += self.waiting
            self.lost_at = now.isoformat()

    def _append(self, block: bytes, now: datetime) -> bool:
        try:
            segment = self._segment or self._open(now)
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[os.write(segment.handle, rest) :]
            except OSError:
                os.ftruncate(segment.handle, segment.size)  # no half lines
                raise
        except OSError as error:
            self.problem = f"cannot write to {self.folder}: {error.strerror}"
            return False
        segment.size += len(block)
        self.problem = ""
        return True

    def _open(self, now: datetime) -> Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._last_name:
            self._last_name = max((path.name[:22] for path, _ in _files(self.folder, self.target)), default="")
        name = stamp(now)
        if name <= self._last_name:  # the clock went back: order matters more than the exact time
            last = datetime.strptime(self._last_name, _STAMP).replace(tzinfo=UTC)
            name = stamp(last + timedelta(microseconds=1))
        path = self.folder / f"{name}-{self.target}.jsonl.part"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._last_name = name
        self._segment = Segment(path, handle)
        return self._segment


def _files(folder: Path, target: str) -> Iterator[tuple[Path, bool]]:
    """The target's files in time order, each with whether it is still open."""
    pattern = re.compile(rf"\d{{8}}T\d{{12}}Z-{re.escape(target)}\.jsonl(\.part)?")
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - a folder of many files: names only
            if pattern.fullmatch(name):
                yield folder / name, name.endswith(".part")


def closed_before(folder: Path, target: str, moment: datetime) -> Iterator[Path]:
    """The target's closed files that were opened before a moment and are not its newest, oldest first."""
    border = stamp(moment)
    files = list(_files(folder, target))
    for path, is_open in files[:-1]:
        if not is_open and path.name[:22] < border:
            yield path


def closed_after(folder: Path, target: str, name: str, included: bool = False) -> Iterator[Path]:
    """The target's closed files behind the file `name` (or with it), oldest first, up to the first one that is open."""
    for path, is_open in _files(folder, target):
        if is_open:
            return
        if path.name > name or (included and path.name == name):
            yield path


def recover(folder: Path, target: str, dead_letters: Path) -> tuple[str, ...]:
    """Close what a killed gateway left open: the names of the files.

    A last line that was cut off goes to a file of `dead_letters`, with its place and the reason.
    """
    recovered = []
    for path, is_open in _files(folder, target):
        if not is_open:
            continue
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            dead_letters.mkdir(parents=True, exist_ok=True)
            letter = {
                "file": str(path), "position": len(whole), "raw": content[len(whole) :].decode(errors="replace"),
                "reason": "the gateway was killed while it wrote this line",
            }  # fmt: skip
            replace_file(dead_letters / f"{path.name}.json", orjson.dumps(letter))
        if not whole:
            path.unlink()
            continue
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
        path.rename(path.with_suffix(""))
        sync_folder(folder)
        recovered.append(path.with_suffix("").name)
    return tuple(recovered)


def count_served(folder: Path, target: str, since: datetime, version_field: str) -> dict[str, int]:
    """Records since a moment by version, counted from the lines of the log, closed and open files alike."""
    counts: dict[str, int] = {}
    files = [path for path, _ in _files(folder, target)]
    border = stamp(since)
    for place, path in enumerate(files):
        if place + 1 < len(files) and files[place + 1].name[:22] <= border:
            continue  # it was closed before
        for record in _records(path):
            if datetime.fromisoformat(record[SERVED_AT]) >= since:
                version = str(dig(record, version_field))
                counts[version] = counts.get(version, 0) + 1
    return counts


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, which may be closed and renamed meanwhile."""
    for candidate in (path, path.with_suffix("")) if path.suffix == ".part" else (path,):
        with contextlib.suppress(FileNotFoundError):
            content = candidate.read_bytes()
            for line in content[: content.rfind(b"\n") + 1].splitlines():
                yield orjson.loads(line)
            return
