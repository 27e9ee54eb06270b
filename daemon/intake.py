"""The one way in: what sources and workers hand to the writer, and what they get back.

A `Batch` is stored in one transaction, whole or not at all. Its receipt comes after COMMIT; only then may a source tell
its own system that the thing was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from daemon.core.events import Event
from daemon.core.problems import Problem

ALL = 2**62
"""No limit."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a source has read its system; `value` is JSON of the source's own."""

    source: str
    value: Any


@dataclass(frozen=True, slots=True)
class FileMark:
    """One file of a watched folder, and what became of it."""

    owner: str
    """The storage source (`storage:NAME`) or stream (`stream:NAME`) that looks after it."""
    path: str
    size: int
    mtime_ns: int
    digest: str
    """SHA-256 of the content; empty when it could not be read."""
    status: str
    """`taken`, `duplicate`, `empty`, `unreadable`."""
    device: int = 0
    """The file system that its folder lay on; 0: not known."""


@dataclass(frozen=True, slots=True)
class GoneFile:
    """A file that its folder no longer holds. Its mark goes; its content is known until it is forgotten."""

    owner: str
    path: str
    digest: str
    """Empty when there is no content to know: it had none, or another file that is still there has it."""
    at: int
    """When it was found to be gone, µs since 1970."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The contents of `owner` whose files were found to be gone at `until` (µs since 1970) or before are known no more."""

    owner: str
    until: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A compare-and-set of how far a stream's partition was measured: refused (Fenced) unless it stands at `expected`."""

    stream: str
    partition: str
    expected: int
    position: int


@dataclass(frozen=True, slots=True)
class StateWrite:
    """One blob of a monitor's state; None deletes it. Written with the progress it belongs to, or not at all."""

    stream: str
    key: str
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one source or worker wants stored in one transaction."""

    events: tuple[Event, ...] = ()
    cursors: tuple[Cursor, ...] = ()
    files: tuple[FileMark, ...] = ()
    gone: tuple[GoneFile, ...] = ()
    """Taken before `files`: a file that came back has its mark."""
    forgotten: tuple[Forgotten, ...] = ()
    progress: tuple[Progress, ...] = ()
    states: tuple[StateWrite, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """The batch is durable. `seqs` are the events' places, in order; `fresh` says which were not known before.

    Place 0: this one cannot be stored (its name is no text that UTF-8 holds), and is a problem instead.
    """

    seqs: tuple[int, ...]
    fresh: tuple[bool, ...]


class Intake(Protocol):
    """The writer, as sources and monitors see it. Safe to call from any thread."""

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """Store `batch` and wait until it is durable.

        Raises StoreBusy when that did not happen in `timeout` seconds (a full queue, a locked or full disk; nothing is
        lost: submit it again), and Fenced when a progress was not where it was expected.
        """
        ...

    def cursor(self, source: str) -> Any:
        """The last stored cursor value of `source`, or None."""
        ...

    def files(self, owner: str, after: str = "", limit: int = ALL) -> dict[str, FileMark]:
        """The last marks of the files of `owner`, by path and in its order: at most `limit` behind the path `after`."""
        ...

    def gone(self, owner: str) -> bytes:
        """What is known of the files of `owner` that are gone, oldest first, as `clients.gone` packs it."""
        ...

    def progress(self, stream: str, partition: str) -> int:
        """How far `partition` of `stream` was measured; 0 at first."""
        ...

    def states(self, stream: str) -> dict[str, bytes]:
        """All state blobs of `stream`, by key."""
        ...
