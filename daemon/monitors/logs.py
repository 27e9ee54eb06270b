"""Topics as a worker reads them: the consumer group of a stream, by `clients.kafka`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.clients.kafka import Consumer, Reading, Record
from daemon.clients.kafka_errors import OffsetsGone, Partition
from daemon.kafkaparts import KafkaConnection
from daemon.monitors.group import PartitionName
from daemon.monitors.partition import Portion
from daemon.monitors.plan import StreamPlan

RECORDS = 20_000
"""Most records of a poll."""
READING = Reading(fetch_bytes=64 << 20, partition_bytes=16 << 20)

Told = Callable[[Sequence[PartitionName]], None]


class KafkaLog:
    """See GroupLog."""

    def __init__(self, plan: StreamPlan, came: Told, went: Told) -> None:
        self._came, self._went = came, went
        self._next: dict[Partition, int] = {}
        """What comes next of the partitions that are read."""
        self._consumer = Consumer(connection(plan.broker), plan.name, plan.group, READING)
        self._consumer.subscribe([topic for topic in (plan.predictions, plan.labels) if topic])

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """See GroupLog."""
        try:
            polled = self._consumer.poll(RECORDS, seconds)
        except OffsetsGone as error:  # the store's place is not in the log: whoever asks for it again is told the first
            self._came(list(map(_name, error.partitions)))
            return {}
        if polled.lost:
            self._went(list(map(_name, polled.lost)))
        if polled.gained:
            self._came(list(map(_name, polled.gained)))
        positions = self._consumer.positions()
        portions = {
            _name(partition): _portion(polled.records.get(partition, ()), position)
            for partition, position in positions.items()
            if position != self._next.get(partition, -1)
        }
        self._next = positions
        return portions

    def seek(self, name: PartitionName, offset: int) -> int:
        """See GroupLog."""
        partition = Partition(*name)
        first = self._consumer.starts([partition])[partition]
        end = self._consumer.ends([partition])[partition]
        there = offset if first <= offset <= end else first
        self._consumer.seek(partition, there)
        self._consumer.place({partition: there})
        self._next[partition] = there
        return there

    def pause(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.pause([Partition(*name) for name in names])

    def resume(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.resume([Partition(*name) for name in names])

    def ends(self, names: Sequence[PartitionName]) -> Mapping[PartitionName, int]:
        """See GroupLog."""
        found = self._consumer.ends([Partition(*name) for name in names])
        return {_name(partition): end for partition, end in found.items()}

    def partitions(self, topic: str) -> int:
        """See GroupLog."""
        return len(self._consumer.partitions(topic))

    def mark(self, offsets: Mapping[PartitionName, int]) -> None:
        """See GroupLog."""
        self._consumer.commit({Partition(*name): offset for name, offset in offsets.items()})

    def close(self) -> None:
        """See GroupLog."""
        self._consumer.close()


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


def _portion(records: Sequence[Record], position: int) -> Portion:
    there = [record for record in records if record.value is not None]
    values = [record.value for record in there if record.value is not None]
    return Portion(values, [record.offset for record in there], [record.timestamp for record in there], position)
