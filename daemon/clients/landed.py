"""What became of a file that is complete: taken, a duplicate, empty or unreadable.

`look` reads the content once and compares it with the marks of the files seen before. It changes nothing: its caller
submits the mark, the problem and the events in one batch and calls `Marks.add` after the receipt.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from daemon.clients.marks import Marks
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
    device: int = 0
    """The file system of its folder; 0: not known."""

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


class Changed(Exception):
    """The file changed, or went away, while it was read: look again later."""


def look(candidate: Candidate, marks: Marks, stop: threading.Event) -> Found | None:
    """Read the candidate and judge it against `marks`.

    None: there is nothing to store: the file is gone or changed while it was read (it comes again when it stands still),
    it is as unreadable as before, or `stop` was set.
    """
    before = marks.get(candidate.path)
    if candidate.size == 0 and _is_regular(candidate.path):
        return _unusable(marks.owner, candidate, before, "empty", "the file is empty; write it again with content")
    try:
        digest = content_digest(candidate, stop)
    except Changed:
        return None
    except OSError as error:
        why = f"the file cannot be read ({error.strerror or error}); it is tried again at every listing"
        return _unusable(marks.owner, candidate, before, "unreadable", why)
    return None if digest is None else _judged(candidate, digest, marks)


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


def _judged(candidate: Candidate, digest: str, marks: Marks) -> Found:
    before = marks.get(candidate.path)
    if before is not None and before.digest == digest and before.status in {"taken", "duplicate"}:
        # Touched or copied over with the same content: remember its new time, say nothing.
        return Found(_mark(marks.owner, candidate, digest, before.status), None, fresh=False)
    was_here = marks.was_at(candidate.path, digest)
    if was_here and before is None:
        # It was away for a while: a folder that was moved away and back, a listing that missed it.
        return Found(_mark(marks.owner, candidate, digest, "taken"), None, fresh=False)
    holder = marks.holder(digest)
    if holder is None and was_here is None:
        return Found(_mark(marks.owner, candidate, digest, "taken"), None, fresh=True)
    name = f"as {holder}" if holder else "under this name" if was_here else "as a file that is gone"
    problem = Problem("file", candidate.path, f"the same content was taken before {name}; nothing is done for it again")
    return Found(_mark(marks.owner, candidate, digest, "duplicate"), problem, fresh=False)


def _unusable(owner: str, candidate: Candidate, before: FileMark | None, status: str, why: str) -> Found | None:
    mark = _mark(owner, candidate, "", status)
    if mark == before:
        return None
    return Found(mark, Problem("file", candidate.path, why), fresh=False)


def _mark(owner: str, candidate: Candidate, digest: str, status: str) -> FileMark:
    return FileMark(owner, candidate.path, candidate.size, candidate.mtime_ns, digest, status, candidate.device)
