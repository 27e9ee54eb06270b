"""Records of a topic -> events: pure functions, and how the places where reading stands are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.clients.kafka import Record
from daemon.clients.kafka_errors import Partition
from daemon.clients.kafka_places import Place
from daemon.core.errors import BadInput
from daemon.core.events import Event
from daemon.intake import Cursor
from daemon.sources.cloudevents import message_of, read_record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that is no event, and why."""

    partition: Partition
    record: Record
    reason: str

    @property
    def where(self) -> str:
        """`topic/partition@offset`."""
        return f"{self.partition}@{self.record.offset}"


def written_at(record: Record, otherwise: datetime) -> datetime:
    """When the record was written, by its producer or its broker; `otherwise` when it does not say, or no calendar has it."""
    if record.timestamp < 0:
        return otherwise
    try:
        return _EPOCH + timedelta(milliseconds=record.timestamp)
    except OverflowError:
        return otherwise


def read(
    name: str, partition: Partition, records: Sequence[Record], max_bytes: int, now: datetime
) -> tuple[list[Event], list[Poison]]:
    """The events of records of a topic of the source `name`, and the records that are none. Tombstones are neither."""
    events: list[Event] = []
    poison: list[Poison] = []
    for record in records:
        size = len(record.value or b"")
        if size > max_bytes:
            reason = f"it has {size} bytes; the source takes {max_bytes} (max_bytes)"
            poison.append(Poison(partition, record, reason))
            continue
        try:
            told = read_record(record.headers, record.value)
            if told is not None:
                events.append(message_of(name, partition.topic, told, written_at(record, now)))
        except BadInput as error:
            poison.append(Poison(partition, record, str(error)[:500]))
    return events, poison


def cursor_name(source: str, partition: Partition) -> str:
    """The key of a partition's cursor; `source` as `kafka:NAME`."""
    return f"{source}/{partition}"


def cursor_of(source: str, partition: Partition, place: Place) -> Cursor:
    """A place as it is stored."""
    return Cursor(cursor_name(source, partition), {"topic": place.topic_id, "next": place.offset, "epoch": place.epoch})


def place_of(stored: Mapping[str, Any] | None) -> Place | None:
    """The place that was stored."""
    return None if stored is None else Place(stored["topic"], stored["next"], stored.get("epoch", -1))
