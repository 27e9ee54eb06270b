"""Topics, records and users of a broker, as its administrator and its clients see them: for the tests and the story."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from kafka import KafkaProducer, TopicPartition
from kafka.admin import (
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    OffsetSpec,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

TIMEOUT_MS = 30_000


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None
    """None: by the key, else one after the other."""
    timestamp: int | None = None
    """Epoch milliseconds; None: now."""


class Topics:
    """The administrator of the broker at `address` (`host:port`, its plain listener)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._admin = KafkaAdminClient(bootstrap_servers=address, request_timeout_ms=TIMEOUT_MS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._admin.close()

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        """Make a topic, and wait until it can be used; settings as `retention_ms="1000"`."""
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        self._admin.create_topics(
            {name: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}, wait_for_metadata=True
        )

    def delete(self, name: str) -> None:
        """Delete a topic."""
        self._admin.delete_topics([name])

    def grow(self, name: str, partitions: int) -> None:
        """Let a topic have so many partitions."""
        self._admin.create_partitions({name: partitions})

    def set(self, name: str, **settings: str) -> None:
        """Change settings of a topic, as `retention_ms="1000"`."""
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])

    def forget(self, name: str, before: int, partition: int = 0) -> None:
        """The records before this offset are gone, as when their retention has run out."""
        self._admin.delete_records({TopicPartition(name, partition): before})

    def ends(self, name: str, partitions: Iterable[int] = (0,)) -> dict[int, int]:
        """The next offset of each partition."""
        wanted = {TopicPartition(name, number): OffsetSpec.LATEST for number in partitions}
        found = self._admin.list_partition_offsets(wanted)
        return {place.partition: end.offset for place, end in found.items()}

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The offsets that a group has committed, by topic and partition."""
        found: Mapping[str, Mapping[Any, Any]] = self._admin.list_group_offsets([group])
        return {(place.topic, place.partition): told.offset for place, told in found[group].items()}

    def user(self, name: str, password: str) -> None:
        """Let a user of the scram listener have this password."""
        wish = UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, password)
        wrong = {user: why for user, why in self._admin.alter_user_scram_credentials([wish]).items() if why}
        assert not wrong, wrong

    def send(self, topic: str, messages: Sequence[Message], **settings: Any) -> list[tuple[int, int]]:
        """Send messages and wait until all are there: partition and offset of each.

        `settings` are kafka-python's of a producer, as `compression_type="lz4"`. With a `transactional_id` they are sent
        in one transaction, which is committed.
        """
        producer = KafkaProducer(bootstrap_servers=self._address, request_timeout_ms=TIMEOUT_MS, **settings)
        try:
            if "transactional_id" in settings:
                producer.init_transactions()
                producer.begin_transaction()
            sent = [
                producer.send(
                    topic, value=one.value, key=one.key, headers=list(one.headers),
                    partition=one.partition, timestamp_ms=one.timestamp,
                )
                for one in messages
            ]  # fmt: skip
            done = [future.get(TIMEOUT_MS / 1000) for future in sent]
            if "transactional_id" in settings:
                producer.commit_transaction()
        finally:
            producer.close(timeout=TIMEOUT_MS / 1000)
        return [(one.partition, one.offset) for one in done]
