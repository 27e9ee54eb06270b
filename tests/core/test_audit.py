"""The audit chain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.audit import GENESIS, AuditRecord, hash_of, link, verify
from daemon.core.errors import AuditBroken


def chain(length: int) -> list[AuditRecord]:
    """A good chain."""
    records: list[AuditRecord] = []
    for seq in range(1, length + 1):
        records.append(link(seq, {"seq": seq, "did": "x"}, records[-1].hash if records else GENESIS))
    return records


def edited(record: AuditRecord, **fields: object) -> AuditRecord:
    """A record with fields changed."""
    said = {"seq": record.seq, "body": record.body, "previous": record.previous, "hash": record.hash, **fields}
    return AuditRecord(**said)  # type: ignore[arg-type]


def rehashed(record: AuditRecord, body: bytes) -> AuditRecord:
    """An edit by somebody who knows how hashes are made."""
    return edited(record, body=body, hash=hash_of(body, record.previous))


def test_a_good_chain_verifies_to_its_head() -> None:
    """The hash of the last record; of no records, the genesis."""
    records = chain(5)
    assert records[-1].hash == verify(records)
    assert records[-1].hash == verify(records, records[2].hash)
    assert verify([]) == GENESIS
    assert verify([], GENESIS) == GENESIS


TAMPERING: dict[str, tuple[Callable[[list[AuditRecord]], list[AuditRecord]], int]] = {
    "edit": (lambda r: [*r[:2], edited(r[2], body=b"{}"), *r[3:]], 3),
    "edit and rehash": (lambda r: [*r[:2], rehashed(r[2], b"{}"), *r[3:]], 4),
    "removal": (lambda r: [*r[:2], *r[3:]], 4),
    "removal of the first": (lambda r: r[1:], 2),
    "reordering": (lambda r: [r[0], r[2], r[1], *r[3:]], 3),
    "addition": (lambda r: [*r[:3], r[2], *r[3:]], 3),
    "removal, renumbered": (lambda r: [*r[:2], *(edited(x, seq=x.seq - 1) for x in r[3:])], 3),
    "reordering, renumbered": (lambda r: [r[0], edited(r[2], seq=2), edited(r[1], seq=3), *r[3:]], 2),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_where_it_was_done(how: str) -> None:
    """An edit, a removal, a reordering or an addition breaks the chain at the record that no longer follows."""
    tamper, found = TAMPERING[how]
    with pytest.raises(AuditBroken) as broken:
        verify(tamper(chain(6)))
    assert found == broken.value.seq


def test_a_cut_tail_is_found_by_an_exported_head() -> None:
    """A chain whose end was cut off verifies in itself, but not against a head that was written down before."""
    records = chain(6)
    verify(records[:4])
    with pytest.raises(AuditBroken, match="cut off"):
        verify(records[:4], records[5].hash)


@given(st.integers(2, 8), st.data())
def test_no_single_change_goes_unseen(length: int, data: st.DataObject) -> None:
    """Any one record with any one changed byte is found."""
    records = chain(length)
    where = data.draw(st.integers(0, length - 1))
    body = bytearray(records[where].body)
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AuditBroken):
        verify([*records[:where], edited(records[where], body=bytes(body)), *records[where + 1 :]])
