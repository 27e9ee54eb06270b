"""Faults of the broker, made to happen: none ends the source, each is seen, and every acknowledged event is there once."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.clients.kafka import Consumer
from daemon.sources.kafka import KafkaSource
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from tests.contract.desk import Desk, eventually, running
from tests.services.kafkas import gaps, numbers, older_log, only, orders, placed, plain, scram, source
from tests.services.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]


def reasons(desk: Desk) -> list[str]:
    """Why, of all problems with Kafka."""
    return [reason for _, reason in desk.problems("kafka")]


def test_a_broker_that_is_killed_and_comes_back(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """While it is away the health and a problem say so; afterwards reading goes on where it was."""
    made = source(broker, topic, desk)
    with running(made, desk):
        topics.send(topic, [placed(number) for number in range(100)])
        eventually(lambda: numbers(desk))
        broker.kill()
        try:
            eventually(lambda: "Connection refused" in made.health().problem)
            alive = made.health().alive_at
            eventually(lambda: any("Connection refused" in reason for reason in reasons(desk)))
            assert made.health().alive_at == alive
        finally:
            broker.start()
        with Topics(broker.address) as again:
            again.send(topic, [placed(number) for number in range(100, 200)])
        eventually(lambda: len(numbers(desk)) == 200)
        eventually(lambda: (made.health().problem, made.health().lag) == ("", 0))
    assert numbers(desk) == list(range(200))
    assert gaps(desk) == []


def test_a_topic_that_is_deleted_and_made_anew(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Its absence is told; the new one is read from its start, also when it is longer than what was read of the old one."""
    made = source(broker, topic, desk)
    with running(made, desk):
        topics.send(topic, [placed(number) for number in range(3)])
        eventually(lambda: len(numbers(desk)) == 3)
        topics.delete(topic)
        missing = f"there is no topic {topic}: create it, or correct config.yaml"
        eventually(lambda: made.health().problem == missing)
        assert eventually(lambda: reasons(desk)) == [missing]
        topics.create(topic)
        topics.send(topic, [placed(number) for number in range(10, 15)])
        eventually(lambda: len(numbers(desk)) == 8)
        eventually(lambda: made.health().problem == "")
    topics.delete(topic)
    eventually(lambda: not exists(topics, topic))
    topics.create(topic)
    topics.send(topic, [placed(number) for number in range(20, 30)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: len(numbers(desk)) == 18)
    assert sorted(numbers(desk)) == [*range(3), *range(10, 15), *range(20, 30)]
    assert gaps(desk) == [(0, 3, 0, None), (0, 5, 0, None)]


def exists(topics: Topics, name: str) -> bool:
    """Whether there is such a topic."""
    return name in topics._admin.list_topics()


@pytest.mark.parametrize("refresh", [1.0, 300.0])
def test_a_topic_that_is_made_anew_while_nobody_looks(
    broker: Broker, topics: Topics, topic: str, desk: Desk, refresh: float
) -> None:
    """Replaced between two looks by one in which our place exists: it is found out, and nothing of the new one is missed.

    Also when records of the new one come while only the old one is known.
    """
    connection = plain(broker.address, refresh=refresh)
    made = KafkaSource("shop", orders(topic), connection, desk.home, lambda: datetime.now(UTC))
    with running(made, desk):
        topics.send(topic, [placed(number) for number in range(3)])
        eventually(lambda: len(numbers(desk)) == 3)
        desk.patience = 0.3
        with desk.locked():
            topics.send(topic, [placed(3)])
            eventually(lambda: made.health().problem.startswith("the store does not take"))
            topics.delete(topic)
            eventually(lambda: not exists(topics, topic))
            topics.create(topic)
            topics.send(topic, [placed(number) for number in range(10, 30)])
        eventually(lambda: len(numbers(desk)) == 24)
        eventually(lambda: gaps(desk))
    assert sorted(numbers(desk)) == [*range(4), *range(10, 30)]
    assert [(before, after) for _, before, after, _ in gaps(desk)] == [(4, 0)]


def test_partitions_that_are_added(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """They are read from their start, and what was read before goes on."""
    with running(source(broker, topic, desk), desk):
        topics.send(topic, [placed(0)])
        eventually(lambda: numbers(desk) == [0])
        topics.grow(topic, 3)
        topics.send(topic, [placed(number, partition=number % 3) for number in range(1, 10)])
        eventually(lambda: sorted(numbers(desk)) == list(range(10)))
    assert gaps(desk) == []


def test_records_whose_retention_ran_out_unread(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """At start and in the middle: what is gone is an event with its offsets, and reading goes on behind it."""
    made = source(broker, topic, desk)
    with running(made, desk):
        topics.send(topic, [placed(0)])
        eventually(lambda: numbers(desk) == [0])
    topics.send(topic, [placed(number) for number in range(1, 5)])
    topics.set(topic, retention_ms="100", segment_ms="100")
    with closing(Consumer(plain(broker.address), "looking")) as looking:
        looking.assign({only(topic): 0})
        eventually(lambda: looking.starts([only(topic)]) == {only(topic): 5})
    topics.set(topic, retention_ms="3600000", segment_ms="3600000")
    topics.send(topic, [placed(5)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: numbers(desk) == [0, 5])
        assert gaps(desk) == [(0, 1, 5, 4)]
        desk.patience = 0.3
        with desk.locked():
            topics.send(topic, [placed(6)])
            topics.send(topic, [placed(number) for number in range(7, 1600)])
            eventually(lambda: desk.writer.waiting)
            topics.forget(topic, before=1590)
        eventually(lambda: 1599 in numbers(desk))
    _, (_, before, after, lost) = gaps(desk)
    assert (after, lost) == (1590, 1590 - before)
    assert numbers(desk) == [0, 5, *range(6, before), *range(1590, 1600)]


def test_a_log_that_its_broker_has_lost(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """A log that ends before what was read is a gap; what is written anew at the same offsets is read."""
    topics.send(topic, [placed(number) for number in range(5)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: len(numbers(desk)) == 5)
    broker.stop()
    for path in (broker.folder / "data" / f"{topic}-0").iterdir():
        if path.suffix in {".log", ".index", ".timeindex", ".snapshot"} or path.name == "leader-epoch-checkpoint":
            path.unlink()
    broker.start()
    with Topics(broker.address) as again:
        again.send(topic, [placed(10), placed(11)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: numbers(desk) == [*range(5), 10, 11])
    assert gaps(desk) == [(0, 5, 0, None)]


@pytest.mark.parametrize("meanwhile", ["reading", "away"])
def test_a_log_that_was_cut_and_has_grown_past_what_was_read(
    broker: Broker, topics: Topics, topic: str, desk: Desk, tmp_path: Path, meanwhile: str
) -> None:
    """The place exists, but not what was read before it: a gap from there back to where the log is another one."""
    topics.send(topic, [placed(number) for number in range(5)])
    lives = 1 if meanwhile == "reading" else 2
    with ExitStack() as life:
        with older_log(broker, topic, tmp_path):
            with Topics(broker.address) as again:
                again.send(topic, [placed(number) for number in range(5, 10)])
            life.enter_context(running(source(broker, topic, desk), desk))
            eventually(lambda: len(numbers(desk)) == 10)
            if lives == 2:
                life.close()
        with Topics(broker.address) as again:
            again.send(topic, [placed(number) for number in range(20, 30)])
        if lives == 2:
            life.enter_context(running(source(broker, topic, desk), desk))
        eventually(lambda: len(numbers(desk)) == 20)
    assert numbers(desk) == [*range(10), *range(20, 30)]
    assert gaps(desk) == [(0, 10, 5, None)]


def test_a_batch_that_is_broken_on_the_brokers_disk(
    broker: Broker, topics: Topics, topic: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be decoded is tried again, then stepped over: the gap is told, and what is behind it is read."""
    monkeypatch.setattr("daemon.sources.kafka.AGAIN_S", 0.1)
    topics.grow(topic, 2)
    topics.send(topic, [placed(number, partition=0) for number in range(3)], linger_ms=100)
    topics.send(topic, [placed(number, partition=0) for number in range(3, 10)], linger_ms=100)
    topics.send(topic, [placed(10, partition=0), placed(11, partition=1)])
    broker.stop()
    (log,) = (broker.folder / "data" / f"{topic}-0").glob("*.log")
    content = log.read_bytes()
    spoiled = content.replace(b'"data":5', b'"data":4')
    assert spoiled != content
    log.write_bytes(spoiled)
    broker.start()
    made = source(broker, topic, desk)
    with running(made, desk):
        eventually(lambda: sorted(numbers(desk)) == [0, 1, 2, 10, 11])
        eventually(lambda: made.health().problem == "")
    assert gaps(desk) == [(0, 3, 10, 7)]
    assert any("failed crc check" in reason for reason in reasons(desk))


def test_a_password_that_is_wrong_and_then_right(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Not being let in is told as such; as soon as the broker knows the password, everything is read."""
    topics.send(topic, [placed(0)])
    topics.user("ann", "another")
    made = KafkaSource("shop", orders(topic), scram(broker), desk.home, lambda: datetime.now(UTC))
    try:
        with running(made, desk):
            eventually(lambda: "invalid credentials" in made.health().problem)
            eventually(lambda: any("check sasl: username, password" in reason for reason in reasons(desk)))
            assert numbers(desk) == []
            topics.user("ann", "anns-secret")
            eventually(lambda: numbers(desk) == [0])
            eventually(lambda: made.health().problem == "")
    finally:
        topics.user("ann", "anns-secret")


def test_a_slow_broker_and_one_that_hangs(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Each answer late: all is read. No answer at all: the health says so, and when there are answers again it goes on."""
    connection = plain(broker.proxied_address, timeout=4.0)
    made = KafkaSource("shop", orders(topic), connection, desk.home, lambda: datetime.now(UTC))
    with Proxy(broker.proxy_port, broker.behind_proxy, delay=0.2) as proxy, running(made, desk):
        topics.send(topic, [placed(number) for number in range(50)])
        eventually(lambda: len(numbers(desk)) == 50)
        eventually(lambda: made.health().problem == "")
        proxy.open.clear()
        topics.send(topic, [placed(number) for number in range(50, 60)])
        eventually(lambda: "the broker has not answered" in made.health().problem)
        eventually(lambda: reasons(desk))
        proxy.open.set()
        eventually(lambda: len(numbers(desk)) == 60)
        eventually(lambda: made.health().problem == "")
    assert numbers(desk) == list(range(60))


def test_members_that_come_and_go(
    broker: Broker, topics: Topics, topic: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others join and leave, each event comes once; the storm itself is told."""
    monkeypatch.setattr("daemon.sources.reading.RESTLESS", 4)
    monkeypatch.setattr("daemon.sources.reading.RESTLESS_S", 600.0)  # on a busy machine others come and go slowly
    topics.grow(topic, 4)
    made = source(broker, topic, desk)
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            with closing(Consumer(plain(broker.address), "other", f"group-{topic}")) as other:
                other.subscribe([topic])
                eventually(lambda other=other: other.poll(1, 0.1).gained or over.is_set())

    with running(made, desk):
        thread = threading.Thread(target=storm)
        thread.start()
        try:
            sent = 0

            def told() -> bool:
                nonlocal sent
                topics.send(topic, [placed(sent + number) for number in range(20)])
                sent += 20
                return any("come and go: 4 rebalances and more" in reason for reason in reasons(desk))

            eventually(told, 240)
        finally:
            over.set()
            thread.join()
        eventually(lambda: len(numbers(desk)) == sent)
        eventually(lambda: made.health().lag == 0)
    assert sorted(numbers(desk)) == list(range(sent))
    assert gaps(desk) == []
