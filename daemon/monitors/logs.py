"""Topics as a worker reads them: the consumer group of a stream, by `clients.kafka`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from daemon.clients.kafka import Consumer, Position, Reading, Record
from daemon.clients.kafka_errors import OffsetsGone, Partition
from daemon.clients.kafka_letters import Letter, LetterTopic
from daemon.clients.kafka_places import CUT, Gap, Place, gap_of
from daemon.clients.kafka_stepping import Stepper
from daemon.kafkaparts import KafkaConnection
from daemon.monitors.grouplog import PartitionName
from daemon.monitors.partition import Portion
from daemon.monitors.plan import StreamPlan
from daemon.sources.envelopes import is_event, line_of_record

RECORDS = 20_000
"""Most records of a poll."""
READING = Reading(fetch_bytes=64 << 20, partition_bytes=16 << 20)

Told = Callable[[Sequence[PartitionName]], None]


class KafkaLog:
    """See GroupLog."""

    def __init__(self, plan: StreamPlan, came: Told, went: Told) -> None:
        self._came, self._went = came, went
        self._plan = plan
        self._next: dict[Partition, int] = {}
        """What comes next of the partitions that are read."""
        self._cut: dict[Partition, int | None] = {}
        """Partitions whose log was cut, and where known up to which offset it is the one that was read."""
        self._doubted: set[Partition] = set()
        """Partitions whose log ends before our place, and whose broker was asked up to where it is the one that was read."""
        self._connection = connection(plan.broker)
        self._letters = LetterTopic(self._connection, plan.name, plan.dead_letter_topic)
        self._consumer = Consumer(self._connection, plan.name, plan.group, READING)
        self._consumer.subscribe([topic for topic in (plan.predictions, plan.labels) if topic])

    @property
    def timeout(self) -> float:
        """See GroupLog."""
        return self._connection.timeout.total_seconds()

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """See GroupLog."""
        try:
            polled = self._consumer.poll(RECORDS, seconds)
        except OffsetsGone as gone:
            if gone.cut:
                self._cut |= {partition: gone.ends.get(partition) for partition in gone.partitions}
            raise
        if polled.lost:
            self._went(list(map(_name, polled.lost)))
        if polled.gained:
            self._came(list(map(_name, polled.gained)))
        reached = self._consumer.reached()
        portions = {
            _name(partition): (_events if self._has_events(partition) else _portion)(
                polled.records.get(partition, ()), position
            )
            for partition, position in reached.items()
            if position.offset != self._next.get(partition, -1)
        }
        self._next = {partition: position.offset for partition, position in reached.items()}
        self._doubted -= {partition for partition in self._doubted if _name(partition) in portions}
        return portions

    def _has_events(self, partition: Partition) -> bool:
        return self._plan.format == "kserve" and partition.topic == self._plan.predictions

    def seek(self, name: PartitionName, before: Place | None, written: int) -> tuple[Place, Gap | None]:
        """See GroupLog."""
        partition = Partition(*name)
        topic_id = self._consumer.topic_ids([partition])[partition]
        first = self._consumer.starts([partition])[partition]
        end = self._consumer.ends([partition])[partition]
        gap: Gap | None = None
        there = Place(topic_id, first)
        if before is not None:
            gap = self._gap(partition, before, topic_id, (first, end), written)
            there = replace(before, topic_id=topic_id or before.topic_id) if gap is None else gap.after
        self._cut.pop(partition, None)
        self._consumer.seek(partition, there.offset, there.epoch)
        self._consumer.place({partition: there.offset}, {partition: there.epoch})
        self._next[partition] = there.offset
        return there, gap

    def pause(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.pause([Partition(*name) for name in names])

    def resume(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.resume([Partition(*name) for name in names])

    def ends(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, int]:
        """See GroupLog."""
        found = self._consumer.ends([Partition(*name) for name in names], seconds)
        return {_name(partition): end for partition, end in found.items()}

    def partitions(self, topic: str) -> int:
        """See GroupLog."""
        return len(self._consumer.partitions(topic))

    def topic_id(self, topic: str) -> str:
        """See GroupLog."""
        return self._consumer.topic_id(topic)

    def topic_ids(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, str]:
        """See GroupLog."""
        found = self._consumer.topic_ids([Partition(*name) for name in names], seconds)
        return {_name(partition): topic_id for partition, topic_id in found.items()}

    def exists(self, topic: str) -> bool:
        """See GroupLog."""
        return self._consumer.exists([topic])[topic]

    def behind(self, name: PartitionName, offset: int) -> int | None:
        """See GroupLog."""
        return Stepper(self._connection, self._plan.name).behind(Partition(*name), offset)

    def send(self, letters: Sequence[Letter]) -> Sequence[str]:
        """See GroupLog."""
        return self._letters.send(letters)

    def mark(self, offsets: Mapping[PartitionName, int]) -> None:
        """See GroupLog."""
        self._consumer.commit({Partition(*name): offset for name, offset in offsets.items()})

    def close(self) -> None:
        """See GroupLog."""
        self._consumer.close()
        self._letters.close()

    def _gap(
        self, partition: Partition, before: Place, topic_id: str, there: tuple[int, int], written: int
    ) -> Gap | None:
        """What is lost when reading goes on from this place in a log that goes from the first to the last of `there`.

        What is read again of a log that was cut would be measured again: rows have no memory of their ids. So reading goes
        on where the log is known to be another one, else behind the newest record that was read, by the times of writing.
        """
        gap = gap_of(partition, before, topic_id, *there)
        if gap is None and partition in self._cut:
            gap = Gap(partition, before, Place(topic_id, before.offset), CUT)
        if gap is None or gap.why != CUT:
            return gap
        known = self._cut.get(partition)
        if before.epoch >= 0 and partition not in self._cut and partition not in self._doubted:
            self._doubted.add(partition)
            return None  # the next poll tells up to where it is the log that was read
        if known is None:
            found = None if written < 0 else self._consumer.written_after(partition, written)
            known = there[1] if found is None else found
        return replace(gap, after=Place(topic_id, min(max(known, there[0]), there[1])))


def open_log(plan: StreamPlan, came: Told, went: Told) -> KafkaLog:
    """Join the group of a stream. ClientError when the broker does not answer."""
    return KafkaLog(plan, came, went)


def connection(broker: Mapping[str, Any]) -> KafkaConnection:
    """The connection of a plan, as config.yaml has it."""
    sasl = broker.get("sasl")
    times = {name: f"{round(broker[name] * 1000)}ms" for name in ("timeout", "refresh")}
    if sasl is None:
        return KafkaConnection.model_validate({**broker, **times})
    secrets = {role: {"value": sasl[role]} for role in ("username", "password")}
    return KafkaConnection.model_validate({**broker, **times, "sasl": {**sasl, **secrets}})


def _name(partition: Partition) -> PartitionName:
    return partition.topic, partition.number


def _events(records: Sequence[Record], position: Position) -> Portion:
    """Of records whose headers say what they are; such a one without a value is an event without a body."""
    there = [record for record in records if record.value is not None or is_event(record.headers)]
    values = [line_of_record(record.headers, record.value or b"") for record in there]
    return Portion(values, [record.offset for record in there], [record.timestamp for record in there], *position)


def _portion(records: Sequence[Record], position: Position) -> Portion:
    there = [record for record in records if record.value is not None]
    values = [record.value for record in there if record.value is not None]
    return Portion(values, [record.offset for record in there], [record.timestamp for record in there], *position)
