"""Records of a topic -> events: pure functions, and where in a topic reading stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.clients.kafka import Record
from daemon.clients.kafka_errors import Partition
from daemon.core.canonical import content_id
from daemon.core.errors import BadInput
from daemon.core.events import Event
from daemon.intake import Cursor
from daemon.sources.cloudevents import message_of, read_record

DELETED = "records were deleted before they were read: their retention ran out, or somebody deleted them"
ANEW = (
    "the topic was deleted and made anew: what of the old one was not read is gone, the new one is read from its start"
)
CUT = "the log ends before what was read: its brokers have lost records; it is read again from where it is known"
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading stands in a partition, as it is stored: the value of its cursor."""

    topic_id: str
    """Tells the topic from another one of its name; empty where the broker does not say."""
    offset: int
    """The next one to be read."""

    def is_of(self, topic_id: str) -> bool:
        """Whether it is a place in this topic, as far as that is known."""
        return not self.topic_id or not topic_id or self.topic_id == topic_id


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
    return Cursor(cursor_name(source, partition), {"topic": place.topic_id, "next": place.offset})


def place_of(stored: Mapping[str, Any] | None) -> Place | None:
    """The place that was stored."""
    return None if stored is None else Place(stored["topic"], stored["next"])


@dataclass(frozen=True, slots=True)
class Gap:
    """What cannot be read any more: from where, where reading goes on, and why."""

    partition: Partition
    before: Place
    after: Place
    why: str

    def event(self, name: str, now: datetime) -> Event:
        """`source.gap`; the same gap is the same event."""
        known = self.before.is_of(self.after.topic_id) and self.before.offset <= self.after.offset
        before, after = self.before, self.after
        data: dict[str, Any] = {
            "source": name,
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "from_offset": before.offset,
            "to_offset": after.offset,
            "why": self.why,
        }
        if known:
            data["lost"] = after.offset - before.offset
        number = content_id("gap", *self.partition, before.topic_id, before.offset, after.topic_id, after.offset)
        return Event(number, f"kafka:{name}", "source.gap", name, now, data)


def gap_of(partition: Partition, before: Place, topic_id: str, start: int, end: int) -> Gap | None:
    """What was lost when `before` is sought in a topic whose log goes from `start` to `end`; None when nothing was.

    A log that ends before the place has lost records that were read already: what comes now in their place is new. It is
    read from its start, because what was read before is known by its id and not taken twice.
    """
    if not before.is_of(topic_id):
        return Gap(partition, before, Place(topic_id, start), ANEW)
    if before.offset < start:
        return Gap(partition, before, Place(topic_id, start), DELETED)
    if before.offset > end:
        return Gap(partition, before, Place(topic_id, start), CUT)
    return None
