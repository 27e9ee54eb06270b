"""Topics as a worker reads them: the consumer group of a stream, on kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from daemon.core.errors import Unavailable
from daemon.monitors.group import PartitionName
from daemon.monitors.partition import Portion
from daemon.monitors.plan import StreamPlan

RECORDS = 20_000
"""Most records of a poll."""
FETCH_BYTES, PARTITION_BYTES = 64 << 20, 16 << 20

Told = Callable[[Sequence[PartitionName]], None]


class KafkaLog:
    """See GroupLog."""

    def __init__(self, plan: StreamPlan, came: Told, went: Told) -> None:
        topics = [topic for topic in (plan.predictions, plan.labels) if topic]
        with _named("subscribe"):
            self._consumer: Any = KafkaConsumer(
                group_id=plan.group, enable_auto_commit=False, auto_offset_reset="earliest",
                isolation_level="read_committed", allow_auto_create_topics=False, fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=PARTITION_BYTES, max_poll_records=RECORDS, **_settings(plan.broker),
            )  # fmt: skip
            self._consumer.subscribe(topics, listener=_Listener(came, went))

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """See GroupLog."""
        with _named("poll"):
            came = self._consumer.poll(timeout_ms=round(seconds * 1000), max_records=RECORDS)
        return {(name.topic, name.partition): _portion(records) for name, records in came.items()}

    def seek(self, name: PartitionName, offset: int) -> int:
        """See GroupLog."""
        partition = TopicPartition(*name)
        with _named("seek"):
            first = int(self._consumer.beginning_offsets([partition])[partition])
            self._consumer.seek(partition, max(first, offset))
        return max(first, offset)

    def pause(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.pause(*self._mine(names))

    def resume(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self._consumer.resume(*self._mine(names))

    def ends(self, names: Sequence[PartitionName]) -> Mapping[PartitionName, int]:
        """See GroupLog."""
        with _named("list offsets"):
            found = self._consumer.end_offsets([TopicPartition(*name) for name in names])
        return {(name.topic, name.partition): int(offset) for name, offset in found.items()}

    def partitions(self, topic: str) -> int:
        """See GroupLog."""
        with _named("partitions"):
            return len(self._consumer.partitions_for_topic(topic) or ())

    def mark(self, offsets: Mapping[PartitionName, int]) -> None:
        """See GroupLog."""
        mine = {
            name: offset for name, offset in offsets.items() if TopicPartition(*name) in self._consumer.assignment()
        }
        if mine:
            told = {TopicPartition(*name): OffsetAndMetadata(offset, "", -1) for name, offset in mine.items()}
            self._consumer.commit_async(told)

    def close(self) -> None:
        """See GroupLog."""
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def _mine(self, names: Sequence[PartitionName]) -> list[TopicPartition]:
        assigned = self._consumer.assignment()
        return [partition for name in names if (partition := TopicPartition(*name)) in assigned]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Told by kafka-python inside of poll."""

    def __init__(self, came: Told, went: Told) -> None:
        self._came, self._went = came, went

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """They are another member's."""
        self._went([(one.topic, one.partition) for one in revoked])

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """They are ours."""
        self._came([(one.topic, one.partition) for one in assigned])


def open_log(plan: StreamPlan, came: Told, went: Told) -> KafkaLog:
    """Join the group of a stream. ClientError when the broker does not answer."""
    return KafkaLog(plan, came, went)


def _settings(broker: Mapping[str, Any]) -> dict[str, Any]:
    """kafka-python's names for a connection of config.yaml."""
    sasl, tls = broker.get("sasl") or {}, broker.get("tls") or {}
    settings = {
        "bootstrap_servers": broker["bootstrap"], "security_protocol": broker["security"],
        "request_timeout_ms": max(round(broker["timeout"] * 1000), 1000),
        "metadata_max_age_ms": round(broker["refresh"] * 1000),
        "sasl_mechanism": sasl.get("mechanism"), "sasl_plain_username": sasl.get("username"),
        "sasl_plain_password": sasl.get("password"), "ssl_cafile": tls.get("ca"), "ssl_certfile": tls.get("cert"),
        "ssl_keyfile": tls.get("key"),
    }  # fmt: skip
    return {name: value for name, value in settings.items() if value is not None}


def _portion(records: Sequence[Any]) -> Portion:
    there = [record for record in records if record.value is not None]
    values = [record.value for record in there]
    return Portion(
        values, [record.offset for record in there], [record.timestamp for record in there], records[-1].offset + 1
    )


@contextmanager
def _named(operation: str) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise Unavailable("kafka", operation, str(error) or type(error).__name__) from error
