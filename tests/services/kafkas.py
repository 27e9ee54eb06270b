"""What the tests of Kafka share: connections to the test broker, and reading until something has come."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from daemon.clients.kafka import Consumer, Record
from daemon.clients.kafka_errors import Partition
from daemon.kafkaparts import KafkaConnection, Sasl, Tls
from daemon.kafkaparts import KafkaSource as KafkaSourceConfig
from daemon.parts import Secret
from daemon.sources.kafka import KafkaSource
from daemon.story.broker import ANN, ANNS_PASSWORD, Broker
from daemon.story.topics import Message
from tests.contract.desk import Desk, eventually


def plain(address: str, timeout: float = 10.0, refresh: float = 1.0) -> KafkaConnection:
    """A connection to a listener that asks for nothing."""
    return KafkaConnection(bootstrap=(address,), timeout=timedelta(seconds=timeout), refresh=timedelta(seconds=refresh))


def scram(broker: Broker, password: str = ANNS_PASSWORD, ca: Path | None = None) -> KafkaConnection:
    """A connection to the listener that wants user and password over TLS."""
    sasl = Sasl(username=Secret(value=ANN), password=Secret(value=password))
    return KafkaConnection(
        bootstrap=(broker.scram_address,), security="SASL_SSL", sasl=sasl, tls=Tls(ca=ca or broker.ca),
        timeout=timedelta(seconds=15), refresh=timedelta(seconds=1),
    )  # fmt: skip


def read(consumer: Consumer, count: int, seconds: float = 120.0) -> list[Record]:
    """So many records, in the order they came; gained partitions are read from their start."""
    found: list[Record] = []

    def enough() -> bool:
        polled = consumer.poll(10_000, 0.2)
        consumer.place(dict.fromkeys(polled.gained, 0))
        for records in polled.records.values():
            found.extend(records)
        return len(found) >= count

    eventually(enough, seconds)
    return found


def only(topic: str) -> Partition:
    """The first partition of a topic."""
    return Partition(topic, 0)


def orders(topic: str, **more: Any) -> KafkaSourceConfig:
    """A source of the events on one topic."""
    return KafkaSourceConfig(kind="kafka", connection="main", topics=(topic,), group=f"group-{topic}", **more)


def source(broker: Broker, topic: str, desk: Desk, **more: Any) -> KafkaSource:
    """The source `shop` of a topic, as the daemon makes it."""
    return KafkaSource("shop", orders(topic, **more), plain(broker.address), desk.home, lambda: datetime.now(UTC))


def placed(number: int, **more: Any) -> Message:
    """A CloudEvent of number, in structured mode."""
    told = {"specversion": "1.0", "id": str(number), "source": "/shop", "type": "order.placed", "data": number}
    return Message(orjson.dumps(told), **more)


def numbers(desk: Desk) -> list[int]:
    """The numbers of the events that came, in the order of the store."""
    return [event["payload"] for event in desk.events("message.received")]


@contextmanager
def older_log(broker: Broker, topic: str, kept: Path) -> Iterator[None]:
    """What is written meanwhile to the topic's first partition is lost: its broker comes back with an older copy of the log.

    As when a replica that has not got the newest records becomes the leader. The broker is restarted on entry too, so that
    what is lost has an epoch of its own.
    """
    log = broker.folder / "data" / f"{topic}-0"
    broker.stop()
    shutil.copytree(log, kept / log.name)
    broker.start()
    yield
    broker.stop()
    shutil.rmtree(log)
    shutil.copytree(kept / log.name, log)
    broker.start()


def gaps(desk: Desk) -> list[tuple[int, int, int, int | None]]:
    """Partition, from, to and how many were lost, of each gap."""
    found = desk.events("source.gap")
    return [(one["partition"], one["from_offset"], one["to_offset"], one.get("lost")) for one in found]
