"""What became of a file that is complete: taken, a duplicate, empty or unreadable.

`look` reads the content once and compares it with the marks of the files seen before. It changes nothing: its caller
submits the mark, the problem and the events in one batch and calls `Marks.add` after the receipt.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.core.problems import Problem
from daemon.intake import FileMark

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A complete file that is new, changed, or could not be read before. Candidates sort by age, then path."""

    mtime_ns: int
    path: str
    folder: str
    """Its folder, relative to the watched one, with `/` between names; empty for the watched folder itself."""
    size: int

    @property
    def name(self) -> str:
        """Its file name."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class Found:
    """What to store about a candidate."""

    mark: FileMark
    problem: Problem | None
    fresh: bool
    """The content is to be used: it was not taken before, under this name or another."""


class Marks(Mapping[str, FileMark]):
    """The last mark of every file of one owner, by path, with an index of the contents that were taken."""

    def __init__(self, marks: Iterable[FileMark] = ()) -> None:
        self._by_path: dict[str, FileMark] = {}
        self._taken: dict[str, str] = {}
        for mark in marks:
            self.add(mark)

    def __getitem__(self, path: str) -> FileMark:
        return self._by_path[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_path)

    def __len__(self) -> int:
        return len(self._by_path)

    def add(self, mark: FileMark) -> None:
        """Remember `mark` as the last one of its path."""
        before = self._by_path.get(mark.path)
        if before is not None and self._taken.get(before.digest) == mark.path:
            del self._taken[before.digest]
        self._by_path[mark.path] = mark
        if mark.status == "taken":
            self._taken.setdefault(mark.digest, mark.path)

    def holder(self, digest: str) -> str | None:
        """The path under which this content was taken, or None."""
        return self._taken.get(digest)


class Changed(Exception):
    """The file changed, or went away, while it was read: look again later."""


def look(owner: str, candidate: Candidate, marks: Marks, stop: threading.Event) -> Found | None:
    """Read the candidate and judge it against `marks`.

    None: there is nothing to store: the file is gone or changed while it was read (it comes again when it stands still),
    it is as unreadable as before, or `stop` was set.
    """
    before = marks.get(candidate.path)
    if candidate.size == 0 and _is_regular(candidate.path):
        return _unusable(owner, candidate, before, "empty", "the file is empty; write it again with content")
    try:
        digest = content_digest(candidate, stop)
    except Changed:
        return None
    except OSError as error:
        why = f"the file cannot be read ({error.strerror or error}); it is tried again at every listing"
        return _unusable(owner, candidate, before, "unreadable", why)
    return None if digest is None else _judged(owner, candidate, digest, marks)


def content_digest(candidate: Candidate, stop: threading.Event) -> str | None:
    """SHA-256 of the content, in hex, read in pieces; None when `stop` was set meanwhile.

    Raises Changed when the file is not (or no longer) as the candidate says, and OSError when it cannot be read.
    """
    sha = hashlib.sha256()
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would hang for ever.
        handle = os.open(candidate.path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        if Path(candidate.path).is_symlink():
            raise
        raise Changed from None
    with os.fdopen(handle, "rb", buffering=0) as file:
        _require_unchanged(candidate, os.fstat(handle))
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            if stop.is_set():
                return None
        _require_unchanged(candidate, os.fstat(handle))
    return sha.hexdigest()


def _require_unchanged(candidate: Candidate, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is not a regular file")
    if (status.st_size, status.st_mtime_ns) != (candidate.size, candidate.mtime_ns):
        raise Changed


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


def _judged(owner: str, candidate: Candidate, digest: str, marks: Marks) -> Found:
    before = marks.get(candidate.path)
    if before is not None and before.digest == digest and before.status in {"taken", "duplicate"}:
        # Touched or copied over with the same content: remember its new time, say nothing.
        return Found(_mark(owner, candidate, digest, before.status), None, fresh=False)
    holder = marks.holder(digest)
    if holder is not None and holder != candidate.path:
        reason = f"the same content was taken before as {holder}; nothing is done for it again"
        return Found(_mark(owner, candidate, digest, "duplicate"), Problem("file", candidate.path, reason), fresh=False)
    return Found(_mark(owner, candidate, digest, "taken"), None, fresh=True)


def _unusable(owner: str, candidate: Candidate, before: FileMark | None, status: str, why: str) -> Found | None:
    mark = _mark(owner, candidate, "", status)
    if mark == before:
        return None
    return Found(mark, Problem("file", candidate.path, why), fresh=False)


def _mark(owner: str, candidate: Candidate, digest: str, status: str) -> FileMark:
    return FileMark(owner, candidate.path, candidate.size, candidate.mtime_ns, digest, status)
