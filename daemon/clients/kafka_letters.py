"""Dead letters on a topic: records that cannot be used, with why and where from, for sources and for streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.clients.kafka_errors import Partition
from daemon.clients.kafka_producer import Outgoing, Producer
from daemon.core.errors import ClientError
from daemon.kafkaparts import KafkaConnection

AGAIN_S = 30.0
"""After a topic that could not be written it is not tried again for so long."""
AT_ONCE = 1000
"""Most letters that are under way."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that cannot be used."""

    partition: Partition
    offset: int
    timestamp: int
    """When it was written, epoch milliseconds; -1 when unknown."""
    reason: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


class LetterTopic:
    """The dead-letter topic of the source or stream `name`. It connects when there is something to send.

    A letter can be sent twice, when the daemon dies before it has stored how far it has read.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str, stop: threading.Event | None = None) -> None:
        self.topic = topic
        self._connection = connection
        self._name = name
        self._stop = stop
        self._producer: Producer | None = None
        self._not_before = 0.0
        self._why = ""

    def send(self, letters: Sequence[Letter]) -> list[str]:
        """Why each was not sent; empty for those that the topic's brokers have."""
        found: list[str] = []
        for at in range(0, len(letters), AT_ONCE):
            found += self._send(letters[at : at + AT_ONCE])
        return found

    def close(self) -> None:
        """Let go of the connection."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send(self, letters: Sequence[Letter]) -> list[str]:
        if time.monotonic() < self._not_before:
            return [self._why for _ in letters]
        try:
            if self._producer is None:
                self._producer = Producer(self._connection, f"{self._name}-dead-letters", self._stop)
            answers = self._producer.send(self.topic, [self._outgoing(one) for one in letters])
        except ClientError as error:
            return [self._give_up(error) for _ in letters]
        for answer in answers:
            if answer is not None and not answer.hint:  # not this record's own fault
                self._give_up(answer)
                break
        return ["" if answer is None else answer.why for answer in answers]

    def _give_up(self, error: ClientError) -> str:
        self._not_before = time.monotonic() + AGAIN_S
        self._why = error.why
        self.close()
        return error.why

    def _outgoing(self, one: Letter) -> Outgoing:
        """The record as it was, with why and where from."""
        told = {
            "driftd.reason": one.reason,
            "driftd.source": self._name,
            "driftd.topic": one.partition.topic,
            "driftd.partition": str(one.partition.number),
            "driftd.offset": str(one.offset),
            "driftd.timestamp": str(one.timestamp),
        }
        headers = [(name, raw or b"") for name, raw in one.headers]
        headers += [(name, text.encode("utf-8", "backslashreplace")) for name, text in told.items()]
        return Outgoing(one.value, one.key, tuple(headers))
