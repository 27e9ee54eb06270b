"""The Kafka client, on a real broker."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition
from structlog.testing import capture_logs

from daemon.clients.kafka import Consumer, Reading
from daemon.clients.kafka_connection import warn_if_slow
from daemon.clients.kafka_errors import NotAuthenticated, OffsetsGone, Partition
from daemon.clients.kafka_producer import Outgoing, Producer
from daemon.core.errors import Refused, Unavailable
from daemon.kafkaparts import KafkaConnection, Tls
from daemon.story.broker import Broker
from daemon.story.topics import Message, Topics
from tests.contract.desk import eventually
from tests.services.kafkas import older_log, only, plain, read, scram

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]
FEW = Reading(session_s=6)


@pytest.fixture
def consumer(broker: Broker) -> Iterator[Consumer]:
    """One that belongs to no group."""
    with closing(Consumer(plain(broker.address), "test")) as one:
        yield one


@pytest.fixture
def threads() -> Iterator[None]:
    """Whatever is opened, no thread is left behind."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before, 10)


def test_records_come_as_they_are(topics: Topics, topic: str, consumer: Consumer) -> None:
    """Null keys, tombstones, headers and timestamps are what was sent; the position is behind them."""
    sent = [
        Message(b"a", timestamp=1000),
        Message(None, key=b"k"),
        Message(b"", key=b"", headers=(("ce_id", b"1"), ("ce_id", b"2"))),
    ]
    topics.send(topic, sent)
    consumer.assign({only(topic): 0})
    found = read(consumer, 3)
    assert [(one.key, one.value, tuple(one.headers)) for one in found] == [
        (one.key, one.value, one.headers) for one in sent
    ]
    assert [one.offset for one in found] == [0, 1, 2]
    assert found[0].timestamp == 1000
    assert consumer.positions() == consumer.ends([only(topic)]) == {only(topic): 3}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read(topics: Topics, topic: str, consumer: Consumer, codec: str) -> None:
    """Compressed batches are read, also one that is much larger when it is not compressed."""
    sent = [str(number).encode() * 20_000 for number in range(200)]
    settings = {"compression_type": codec, "linger_ms": 100, "batch_size": 1 << 24, "max_request_size": 1 << 24}
    topics.send(topic, [Message(value) for value in sent], **settings)
    consumer.assign({only(topic): 0})
    assert [one.value for one in read(consumer, 200)] == sent


def test_only_what_was_committed_is_read(broker: Broker, topics: Topics, topic: str, consumer: Consumer) -> None:
    """Records of an aborted transaction never come, an open one holds up what is behind it; the position passes all marks."""
    settings = {"bootstrap_servers": broker.address, "transactional_id": topic}
    with closing(KafkaProducer(**settings)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"aborted").get(10)
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(topic, b"committed").get(10)
        topics.send(topic, [Message(b"behind")])
        consumer.assign({only(topic): 0})
        assert consumer.poll(100, 2.0).records == {}
        assert consumer.ends([only(topic)]) == {only(topic): 2}
        producer.commit_transaction()
        assert [one.value for one in read(consumer, 2)] == [b"committed", b"behind"]
    eventually(lambda: consumer.poll(100, 0.2) and consumer.positions() == consumer.ends([only(topic)]))
    assert consumer.positions() == {only(topic): 5}


def test_a_poll_is_bounded_and_a_pause_holds(topics: Topics, topic: str, consumer: Consumer) -> None:
    """No more records than asked for; none while paused, and none lost by it."""
    topics.send(topic, [Message(str(number).encode()) for number in range(10)])
    consumer.assign({only(topic): 0})
    first = eventually(lambda: consumer.poll(4, 0.5).records)
    assert len(first[only(topic)]) == 4
    consumer.pause()
    assert consumer.poll(4, 0.5).records == {}
    consumer.resume()
    assert [one.offset for one in read(consumer, 6)] == [4, 5, 6, 7, 8, 9]
    consumer.seek(only(topic), 9)
    assert [one.offset for one in read(consumer, 1)] == [9]


def test_positions_that_are_gone_are_told(topics: Topics, topic: str, consumer: Consumer) -> None:
    """A position before the log's start or behind its end is an error with its partition; sought anew, reading goes on."""
    topics.send(topic, [Message(str(number).encode()) for number in range(5)])
    topics.forget(topic, before=3)
    for wrong in (1, 99):
        consumer.assign({only(topic): wrong})
        with pytest.raises(OffsetsGone) as told:
            eventually(lambda: consumer.poll(10, 0.5).records)
        assert told.value.partitions == {only(topic)}
        assert consumer.positions() == {only(topic): wrong}
    assert consumer.starts([only(topic)]) == {only(topic): 3}
    consumer.seek(only(topic), 3)
    assert [one.offset for one in read(consumer, 2)] == [3, 4]


def test_members_of_a_group_share_and_take_over(broker: Broker, topics: Topics, topic: str) -> None:
    """Each partition is one member's; what stays goes on where it was, and what is gained comes only once it is placed."""
    topics.grow(topic, 4)
    topics.send(topic, [Message(b"x", partition=number) for number in range(4)])
    everything = {Partition(topic, number) for number in range(4)}
    first = Consumer(plain(broker.address), "first", topic, FEW)
    second = Consumer(plain(broker.address), "second", topic, FEW)
    with closing(first), closing(second):
        first.subscribe([topic])
        assert eventually(lambda: first.poll(10, 0.5).gained) == everything
        assert first.poll(10, 1.0).records == {}
        first.place(dict.fromkeys(everything, 0))
        assert len(read(first, 4)) == 4

        second.subscribe([topic])
        ours, theirs = set(everything), set[Partition]()

        def shared() -> bool:
            for consumer, held in ((second, theirs), (first, ours)):
                polled = consumer.poll(10, 0.2)
                assert polled.records == {}
                held.difference_update(polled.lost)
                held.update(polled.gained)
                consumer.place(dict.fromkeys(polled.gained, 1))
            return len(ours) == len(theirs) == 2 and ours | theirs == everything

        eventually(shared)
        assert first.positions() == dict.fromkeys(ours, 1)
        assert second.positions() == dict.fromkeys(theirs, 1)
        second.close()
        assert theirs <= eventually(lambda: first.poll(10, 0.5).gained)
        first.place(dict.fromkeys(everything, 0))
        assert {(one.offset, one.value) for one in read(first, 2)} == {(0, b"x")}


def test_a_rebalance_between_two_polls_moves_no_position(broker: Broker, topics: Topics, topic: str) -> None:
    """What went and came back meanwhile has no position any more; the next poll tells that it was lost and is gained."""
    topics.send(topic, [Message(b"x")] * 4)
    place = TopicPartition(topic, 0)
    with closing(Consumer(plain(broker.address), "test", topic, FEW)) as consumer:
        consumer.subscribe([topic])
        assert len(read(consumer, 4)) == 4
        assert consumer.reached() == {only(topic): (4, 0)}
        kafka = consumer._kafka

        def looked_after(holds: Callable[[], bool]) -> None:
            """By kafka-python alone: as between two polls of ours, when brokers are slow to share partitions out."""

            def once() -> bool:
                consumer._finish_joining()
                kafka.poll(timeout_ms=50)
                return holds()

            eventually(once)

        topics.delete(topic)
        looked_after(lambda: place not in kafka.assignment())
        assert consumer.positions() == {}
        topics.create(topic)
        topics.send(topic, [Message(b"y")] * 9)
        looked_after(lambda: place in kafka.assignment())
        assert consumer.positions() == {}
        consumer.resume()
        polled = consumer.poll(10, 0.5)
        assert polled.lost == polled.gained == {only(topic)}
        assert polled.records == {}
        consumer.place({only(topic): 0})
        assert [one.value for one in read(consumer, 9)] == [b"y"] * 9


def test_what_is_known_of_a_topic_may_be_old_but_brokers_are_asked(broker: Broker, topics: Topics, topic: str) -> None:
    """Records of a topic that was made anew may come before its id is known; who asks is told what they are of."""
    topics.send(topic, [Message(b"old")] * 4)
    with closing(Consumer(plain(broker.address, refresh=300.0), "test")) as consumer:
        consumer.assign({only(topic): 4})
        wait(consumer, lambda: bool(consumer.topic_id(topic)))
        old = consumer.topic_id(topic)
        assert consumer.topic_ids([only(topic)]) == {only(topic): old}
        consumer.pause()
        wait(consumer, lambda: not consumer._kafka._fetcher.in_flight_fetches())
        topics.delete(topic)
        eventually(lambda: consumer.topic_ids([only(topic)]) == {only(topic): ""})
        topics.create(topic)
        topics.send(topic, [Message(b"new")] * 9)
        consumer.resume()
        assert [one.value for one in read(consumer, 5)] == [b"new"] * 5
        (new,) = consumer.topic_ids([only(topic)]).values()
        assert new not in {"", old}
        eventually(lambda: consumer.topic_id(topic) == new)


def wait(consumer: Consumer, holds: Callable[[], bool]) -> None:
    """Poll until it is so."""
    eventually(lambda: consumer.poll(1, 0.1).records is not None and holds())


def test_a_log_that_was_cut_and_has_grown_is_told_by_its_epoch(
    broker: Broker, topics: Topics, topic: str, tmp_path: Path
) -> None:
    """With the epoch of its position a place in records that are lost is gone, also when others are there by now."""
    topics.send(topic, [Message(b"a")] * 5)
    with older_log(broker, topic, tmp_path):
        with Topics(broker.address) as again:
            again.send(topic, [Message(b"b")] * 5)
        with closing(Consumer(plain(broker.address), "test")) as consumer:
            consumer.assign({only(topic): 0})
            assert len(read(consumer, 10)) == 10
            (reached,) = consumer.reached().values()
        assert reached.offset == 10
        assert reached.epoch > 0
    with Topics(broker.address) as again:
        again.send(topic, [Message(b"c")] * 9)
    with closing(Consumer(plain(broker.address), "test")) as consumer:
        consumer.assign({only(topic): 0})
        consumer.seek(only(topic), *reached)
        with pytest.raises(OffsetsGone) as told:
            eventually(lambda: consumer.poll(10, 0.5).records)
        assert told.value.partitions == {only(topic)}
        assert told.value.cut
        assert told.value.ends == {only(topic): 5}
        consumer.seek(only(topic), 5)
        assert [one.value for one in read(consumer, 9)] == [b"c"] * 9


def test_new_partitions_come_to_the_group(broker: Broker, topics: Topics, topic: str) -> None:
    """A partition that is added is gained soon, and the others stay."""
    with closing(Consumer(plain(broker.address), "test", topic, FEW)) as consumer:
        consumer.subscribe([topic])
        assert eventually(lambda: consumer.poll(10, 0.2).gained) == {only(topic)}
        consumer.place({only(topic): 0})
        topics.grow(topic, 2)
        assert eventually(lambda: consumer.poll(10, 0.2).gained) == {Partition(topic, 1)}
        assert consumer.partitions(topic) == {only(topic), Partition(topic, 1)}


def test_the_committed_offset_is_a_copy(broker: Broker, topics: Topics, topic: str) -> None:
    """Others see what is committed; nothing is by itself, and nobody begins there."""
    topics.send(topic, [Message(b"a"), Message(b"b")])
    for _life in (1, 2):
        with closing(Consumer(plain(broker.address), "test", topic, FEW)) as consumer:
            consumer.subscribe([topic])
            assert [one.value for one in read(consumer, 2)] == [b"a", b"b"]
            consumer.commit({only(topic): 1})
            eventually(lambda consumer=consumer: consumer.poll(1, 0.1) and topics.committed(topic))
            assert topics.committed(topic) == {(topic, 0): 1}


def test_a_topic_made_anew_is_another_one(topics: Topics, topic: str, consumer: Consumer) -> None:
    """The id of a topic tells it from the one before it, and a topic that is not there does not exist."""
    consumer.assign({only(topic): 0})
    eventually(lambda: consumer.poll(1, 0.1) and consumer.topic_id(topic))
    before = consumer.topic_id(topic)
    topics.delete(topic)
    eventually(lambda: not consumer.exists([topic])[topic])
    topics.create(topic)
    eventually(lambda: consumer.poll(1, 0.1) and consumer.topic_id(topic) not in {"", before})


def test_scram_over_tls(broker: Broker, topics: Topics, topic: str, threads: None) -> None:
    """User and password over TLS read and write; a wrong password is told apart from a broker that is away."""
    with closing(Producer(scram(broker), "test")) as producer:
        assert producer.send(topic, [Outgoing(b"secret")]) == [None]
    with closing(Consumer(scram(broker), "test")) as consumer:
        consumer.assign({only(topic): 0})
        assert [one.value for one in read(consumer, 1)] == [b"secret"]
    for kind in (Consumer, Producer):
        with pytest.raises(
            NotAuthenticated, match="Authentication failed during authentication due to invalid credentials"
        ):
            kind(scram(broker, "guessed"), "test")


def test_a_broker_of_another_authority_is_not_trusted(broker: Broker, threads: None) -> None:
    """The certificate must hold: with another authority the reason is told."""
    with pytest.raises(Unavailable, match="its certificate does not hold: "):
        Consumer(scram(broker, ca=broker.client_cert), "test")


def test_a_client_certificate_opens(broker: Broker, topic: str, threads: None) -> None:
    """Where the broker wants a certificate, the one in the configuration is shown."""
    tls = Tls(ca=broker.ca, cert=broker.client_cert, key=broker.client_key)
    connection = KafkaConnection(bootstrap=(broker.mutual_address,), security="SSL", tls=tls)
    with closing(Consumer(connection, "test")) as consumer:
        assert consumer.exists([topic, "no-such-topic"]) == {topic: True, "no-such-topic": False}


def test_a_broker_that_is_not_there_is_unavailable(threads: None) -> None:
    """Nobody listens: it is told at once, and nothing is left behind."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: Connection refused"):
        Consumer(plain("127.0.0.1:1"), "test")


def test_somebody_else_who_listens_there_is_no_broker(threads: None) -> None:
    """What takes connections and hangs up is unavailable after the timeout, and nothing is left behind."""
    over = threading.Event()

    def hang_up(listening: socket.socket) -> None:
        while not over.is_set():
            listening.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=hang_up, args=(listening,))
        thread.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        for kind in (Consumer, Producer):
            with pytest.raises(Unavailable, match="Unable to bootstrap"):
                kind(plain(address, timeout=1.0), "test")
        over.set()
        socket.create_connection(listening.getsockname()).close()
        thread.join()


def test_opening_is_given_up_when_everything_stops(broker: Broker, threads: None) -> None:
    """A broker that takes the connection and says nothing holds nobody up who is told to stop."""
    stop = threading.Event()
    ended = threading.Event()

    def open_it() -> None:
        with pytest.raises(Unavailable):
            Consumer(plain(broker.address, timeout=60), "test", stop=stop)
        ended.set()

    broker.freeze()
    try:
        thread = threading.Thread(target=open_it)
        thread.start()
        assert not ended.wait(1.0)
        stop.set()
        assert ended.wait(60)
        thread.join()
    finally:
        broker.thaw()


def test_what_is_asked_after_everything_has_stopped_is_unavailable(broker: Broker, topic: str, threads: None) -> None:
    """A client that was closed because its thread was slow to stop is as good as a broker that is away."""
    stop = threading.Event()
    with closing(Consumer(plain(broker.address), "test", topic, stop=stop)) as consumer:
        consumer.subscribe([topic])
        eventually(lambda: consumer.poll(1, 0.1).gained)
        stop.set()
        watch = consumer._begun._watch
        assert watch is not None
        watch.join()
        asks: list[Callable[[], object]] = [
            lambda: consumer.ends([only(topic)]), lambda: consumer.exists([topic]), lambda: consumer.poll(1, 0.1),
            lambda: consumer.topic_ids([only(topic)]), lambda: consumer.written_after(only(topic), 0),
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(Unavailable):
                ask()


def test_a_producer_tells_what_became_of_each_record(topics: Topics, topic: str, broker: Broker) -> None:
    """Those that the broker has, those too large for the topic, and those for a topic that is not there."""
    topics.set(topic, max_message_bytes="1000")
    connection = plain(broker.address)
    with closing(Producer(connection, "test")) as producer:
        small, large = Outgoing(b"x", headers=(("why", b"y"),)), Outgoing(b"x" * 5000)
        fine, refused, also_fine = producer.send(topic, [small, large, Outgoing(None)])
        assert (fine, also_fine) == (None, None)
        assert isinstance(refused, Refused)
        assert "max.message.bytes" in str(refused)
        (nowhere,) = producer.send("no-such-topic", [small])
        assert isinstance(nowhere, Unavailable)
    assert topics.ends(topic) == {0: 2}


def test_a_slow_machine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that checks CRCs fast, a warning says what to install; with it, nothing is said."""
    with capture_logs() as told:
        warn_if_slow()
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        warn_if_slow()
    assert [(line["event"], line["log_level"]) for line in told] == [("kafka.slow", "warning")]
    assert "crc32c" in told[0]["why"]
    assert timedelta(seconds=10) == plain("127.0.0.1:1").timeout
