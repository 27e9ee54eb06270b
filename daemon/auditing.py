"""Is the audit log what it was? The chain in the store, held against the heads that were exported as runs ended.

A chain that was rewritten as a whole verifies in itself; what gives it away is a head that was written down elsewhere:
in `home/audit/heads.jsonl`, in the log (`audit.head`), or with whoever keeps it outside.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from daemon.core.audit import AuditRecord, verify
from daemon.core.errors import AuditBroken
from daemon.reading import Readable, audit_chain

AGAIN = timedelta(seconds=5)
"""When a head that could not be exported is tried again."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stood when a run had ended."""

    seq: int
    hash: str
    at: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """The chain holds."""

    records: int
    head: str
    """Hash of the last record."""
    heads: int
    """Exported heads that it goes through."""


class HeadFile:
    """The file that heads are exported to, for one thread. A head that finds no room there is due again some seconds
    later, with those that have come meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: tuple[str, ...] = ()
        self.due: datetime | None = None
        """When to try again; None: every head is in the file."""

    def export(self, head: Head, now: datetime) -> str:
        """Add a head; why it could not be added, or nothing."""
        head = replace(head, runs=self._runs + head.runs)
        try:
            _append(self._path, orjson.dumps(asdict(head)) + b"\n")
        except OSError as error:
            self._runs, self.due = head.runs, now + AGAIN
            return str(error)
        self._runs, self.due = (), None
        return ""


def _append(path: Path, line: bytes) -> None:
    """Add a line, the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # a crash cut the last line off
            line = b"\n" + line
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def exported_heads(path: Path) -> tuple[tuple[Head, ...], tuple[int, ...]]:
    """The heads in a file, and the numbers of the lines that cannot be read (a crash can cut one off)."""
    heads: list[Head] = []
    unreadable: list[int] = []
    if not path.is_file():
        return (), ()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                told = orjson.loads(line)
                heads.append(Head(int(told["seq"]), str(told["hash"]), str(told["at"]), tuple(told["runs"])))
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                unreadable.append(number)
    return tuple(heads), tuple(unreadable)


def verify_store(store: Readable, heads: Iterable[Head] = (), head: str = "") -> Verified:
    """Verify all records, a few thousand at a time. Raises AuditBroken with the first place that does not hold.

    `heads` are exported ones that it must go through; `head` is the hash of another.
    """
    wanted: dict[int, Head] = {}
    for one in heads:
        if wanted.setdefault(one.seq, one).hash != one.hash:
            raise AuditBroken(one.seq, "two different heads were exported for it: the file of heads was changed")
    walk = _Walk(store, wanted)
    last = verify(walk.records(), head)
    if wanted and (newest := max(wanted)) > walk.seq:
        raise AuditBroken(
            walk.seq + 1, f"head {wanted[newest].hash[:12]}… was exported for record {newest}: the tail was cut off"
        )
    return Verified(walk.seq, last, len(wanted))


@dataclass(slots=True)
class _Walk:
    """The chain, as it goes by the heads."""

    store: Readable
    wanted: dict[int, Head]
    seq: int = 0

    def records(self) -> Iterator[AuditRecord]:
        previous: AuditRecord | None = None
        for record in audit_chain(self.store):
            # A record's own hash is checked before its head: an edit is reported where it was made.
            if previous is not None:
                self._pass(previous)
            yield record
            previous = record
        if previous is not None:
            self._pass(previous)

    def _pass(self, record: AuditRecord) -> None:
        self.seq = record.seq
        head = self.wanted.get(record.seq)
        if head is not None and head.hash != record.hash:
            raise AuditBroken(
                record.seq,
                f"head {head.hash[:12]}… was exported for it at {head.at}, it has {record.hash[:12]}… now: "
                "it, or a record before it, was rewritten with all that follow",
            )
