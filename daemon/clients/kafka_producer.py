"""Sends records to Kafka, and waits until its brokers have them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from daemon.clients.kafka_connection import opening, settings
from daemon.clients.kafka_errors import named_errors
from daemon.core.errors import ClientError, Refused, Unavailable
from daemon.kafkaparts import KafkaConnection


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to be sent."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int | None = None
    """Epoch milliseconds; None: now."""


class Producer:
    """Sends records, and waits until the brokers have them."""

    def __init__(self, connection: KafkaConnection, name: str, stop: threading.Event | None = None) -> None:
        self._timeout = connection.timeout.total_seconds()
        milliseconds = int(self._timeout * 1000)
        with opening(connection, stop) as self._begun:
            self._kafka = KafkaProducer(
                **settings(connection, name),
                kafka_client=self._begun.client,
                acks="all",
                # kafka-python's idempotent producer refuses everything after one record that was too large.
                enable_idempotence=False,
                max_block_ms=milliseconds,
                delivery_timeout_ms=milliseconds * 2,
                max_request_size=64 << 20,  # the broker's limit is the one that counts
            )
        self._kafka._metadata.config["allow_auto_create_topics"] = False  # noqa: SLF001 - as in Consumer

    def send(self, topic: str, records: Sequence[Outgoing]) -> list[ClientError | None]:
        """Send all; None for each that all in-sync replicas have, else why it is not sure that they do."""
        futures: list[Any] = []
        away: Unavailable | None = None
        for record in records:  # what one has waited for in vain the others need not wait for, one after the other
            futures.append(away or self._begin(topic, record))
            away = futures[-1] if isinstance(futures[-1], Unavailable) else None
        answers = [future if isinstance(future, ClientError) else self._end(future) for future in futures]
        if len(records) == 1:
            return answers
        # Records share a batch, and one that is too large has the whole batch refused.
        return [
            self.send(topic, [record])[0] if isinstance(answer, Refused) else answer
            for record, answer in zip(records, answers, strict=True)
        ]

    def close(self) -> None:
        """Let go of all connections."""
        with contextlib.suppress(kafka_errors.KafkaError):
            self._kafka.close(timeout=1.0)
        self._begun.close()

    def _begin(self, topic: str, record: Outgoing) -> Any:
        # kafka-python wants one of both; a tombstone without a key says nothing.
        value = b"" if record.value is None and record.key is None else record.value
        try:
            with named_errors("send"):
                return self._kafka.send(
                    topic, value=value, key=record.key, headers=list(record.headers), timestamp_ms=record.timestamp
                )
        except ClientError as error:
            return error

    def _end(self, future: Any) -> ClientError | None:
        try:
            with named_errors("send"):
                future.get(self._timeout)
        except ClientError as error:
            return error
        return None
