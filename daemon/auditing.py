"""Is the audit log what it was? The chain in the store, held against the heads that were exported as runs ended.

A chain that was rewritten as a whole verifies in itself; what gives it away is a head that was written down elsewhere:
in `home/audit/heads.jsonl`, in the log (`audit.head`), or with whoever keeps it outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from daemon.core.audit import AuditRecord, verify
from daemon.core.errors import AuditBroken
from daemon.reading import Readable, audit_chain


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
