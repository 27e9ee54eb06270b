"""The audit chain: canonical JSON records, each holding the hash of the one before.

A record's hash is SHA-256 over the hash before it and its own canonical body, so an edit, a removal or a reordering
breaks the chain at that record, and a cut tail no longer reaches a head that was exported earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from daemon.core.canonical import canonical
from daemon.core.errors import AuditBroken

GENESIS = "0" * 64
"""What the first record holds as the hash before it."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record of the chain."""

    seq: int
    """Counts from 1 without gaps."""
    body: bytes
    """Canonical JSON."""
    previous: str
    hash: str


def link(seq: int, body: dict[str, Any], previous: str) -> AuditRecord:
    """The record that follows the one with hash `previous`."""
    raw = canonical(body)
    return AuditRecord(seq, raw, previous, hash_of(raw, previous))


def hash_of(body: bytes, previous: str) -> str:
    """The hash of a body after the hash before it."""
    return hashlib.sha256(previous.encode() + body).hexdigest()


def verify(records: Iterable[AuditRecord], head: str = "") -> str:
    """Check the whole chain, in order; the hash of its last record.

    Raises AuditBroken at the first record that does not follow. With `head` (a hash exported earlier) the chain must also
    contain that record: a chain whose tail was cut off verifies in itself, but no longer reaches it.
    """
    expected, previous, found = 1, GENESIS, head in {"", GENESIS}
    for record in records:
        if record.seq != expected:
            raise AuditBroken(record.seq, f"expected record {expected}: one was removed, added or moved")
        if record.previous != previous:
            raise AuditBroken(
                record.seq, f"it follows {record.previous[:12]}…, but the record before is {previous[:12]}…"
            )
        actual = hash_of(record.body, previous)
        if actual != record.hash:
            raise AuditBroken(record.seq, f"its body was changed: hash {actual[:12]}…, recorded {record.hash[:12]}…")
        found = found or record.hash == head
        previous, expected = record.hash, expected + 1
    if not found:
        raise AuditBroken(expected, f"the exported head {head[:12]}… is not in the chain: its tail was cut off")
    return previous
