"""Topics of events, on a real broker and a real store."""

from __future__ import annotations

import contextlib
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from kafka import KafkaProducer

from daemon.clients import kafka_letters
from daemon.clients.kafka import Consumer
from daemon.clients.kafka_errors import Partition
from daemon.intake import Batch, Receipt
from daemon.sources.kafka import KafkaSource
from daemon.story.broker import Broker
from daemon.story.topics import Message, Topics
from tests.contract.desk import Desk, eventually, running
from tests.services.kafkas import gaps, numbers, only, placed, plain, read, source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]


def test_each_record_is_an_event_once_over_restarts(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """What comes while it reads, and while it is down, is there once and in the order of its partition."""
    topics.send(topic, [placed(number) for number in range(5)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: numbers(desk) == [0, 1, 2, 3, 4])
        topics.send(topic, [placed(5)])
        eventually(lambda: len(numbers(desk)) == 6)
        eventually(lambda: topics.committed(f"group-{topic}") == {(topic, 0): 6})  # the copy
    topics.send(topic, [placed(6)])
    desk.reopen()
    with running(source(broker, topic, desk), desk):
        eventually(lambda: numbers(desk) == [0, 1, 2, 3, 4, 5, 6])
    assert stored(desk, topic) == 7
    assert desk.problems("kafka") == []
    assert gaps(desk) == []


def test_the_store_counts_and_not_the_committed_offset(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Whatever a tool sets the group's offset to, nothing is lost and nothing is taken twice."""
    topics.send(topic, [placed(number) for number in range(3)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: len(numbers(desk)) == 3)
    topics.send(topic, [placed(3), placed(4)])
    with closing(Consumer(plain(broker.address), "tool", f"group-{topic}")) as tool:
        tool.commit({only(topic): 5})
        eventually(lambda: topics.committed(f"group-{topic}") == {(topic, 0): 5})
    with running(source(broker, topic, desk), desk):
        eventually(lambda: numbers(desk) == [0, 1, 2, 3, 4])


def stored(desk: Desk, topic: str, partition: int = 0) -> int:
    """The stored place of a partition: the next offset to be read; -1 before there is one."""
    found = desk.cursor(f"kafka:shop/{topic}/{partition}")
    return -1 if found is None else int(found["next"])


class Dying(Desk):
    """A store whose daemon dies after it has stored a batch, before anybody is told."""

    deaths = 0

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """Store, and die twice."""
        receipt = super().submit(batch, timeout)
        if batch.events and self.deaths < 2:
            self.deaths += 1
            raise SystemExit
        return receipt


def live(one: KafkaSource, desk: Desk, stop: threading.Event) -> None:
    """A life that may end at any time."""
    with contextlib.suppress(SystemExit):
        one.run(desk, stop)


def test_a_crash_between_store_and_broker_repeats_nothing(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """Events and place are in one transaction: the next life goes on behind them."""
    dying = Dying(desk.home.parent)
    with closing(dying):
        topics.send(topic, [placed(number) for number in range(3)])
        for life in range(3):
            stop = threading.Event()
            thread = threading.Thread(target=live, args=(source(broker, topic, dying), dying, stop))
            thread.start()
            if life < 2:
                thread.join(60)
                topics.send(topic, [placed(3 + life)])
        eventually(lambda: len(numbers(dying)) == 5)
        stop.set()
        thread.join(10)
        assert numbers(dying) == [0, 1, 2, 3, 4]
        assert dying.deaths == 2


def test_the_same_event_sent_twice_is_one(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """A producer that tries again writes the same CloudEvent at another offset."""
    topics.send(topic, [placed(1), placed(2), placed(1)])
    with running(source(broker, topic, desk), desk):
        eventually(lambda: stored(desk, topic) == 3)
    assert numbers(desk) == [1, 2]


def test_it_starts_at_the_end_when_told_but_reads_new_partitions_whole(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """`start: latest` passes over what was there before; from then on nothing is, also not in a partition added later."""
    topics.send(topic, [placed(0)])
    with running(source(broker, topic, desk, start="latest"), desk):
        eventually(lambda: stored(desk, topic) == 1)
        topics.send(topic, [placed(1)])
        eventually(lambda: numbers(desk) == [1])
    topics.grow(topic, 2)
    topics.send(topic, [placed(2, partition=1), placed(3, partition=0)])
    with running(source(broker, topic, desk, start="latest"), desk):
        eventually(lambda: sorted(numbers(desk)) == [1, 2, 3])


def test_all_kinds_of_records_are_read(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Null keys, tombstones, each codec, binary mode, transactions committed and aborted."""
    for number, codec in enumerate(["gzip", "snappy", "lz4", "zstd"]):
        topics.send(topic, [placed(number)], compression_type=codec)
    headers = (
        ("ce_specversion", b"1.0"), ("ce_id", b"4"), ("ce_source", b"/shop"), ("ce_type", b"order.placed"),
        ("content-type", b"application/json"),
    )  # fmt: skip
    topics.send(topic, [Message(None, key=b"gone"), Message(b"4", key=b"k", headers=headers)])
    with closing(KafkaProducer(bootstrap_servers=broker.address, transactional_id=topic)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, placed(99).value).get(10)
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(topic, placed(5).value).get(10)
        producer.commit_transaction()
    made = source(broker, topic, desk)
    with running(made, desk):
        eventually(lambda: numbers(desk) == [0, 1, 2, 3, 4, 5])
        eventually(lambda: made.health().lag == 0)
        eventually(lambda: stored(desk, topic) == 10)  # behind the marks of the transactions
    assert desk.problems("kafka") == []


def test_poison_goes_to_the_dead_letter_topic_and_the_stream_goes_on(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """Key, value and headers as they were, with reason and origin; a problem tells where; what is behind it is read."""
    topics.create(f"{topic}.dead")
    poison = [
        Message(b"{", key=b"k", headers=(("trace", b"x"),)),
        Message(orjson.dumps({"specversion": "1.0", "id": "1"}), timestamp=1234),
        Message(placed(0).value + b" " * 500),
    ]
    topics.send(topic, [placed(1), *poison, placed(2)])
    with running(source(broker, topic, desk, dead_letters=f"{topic}.dead", max_bytes=300), desk):
        eventually(lambda: numbers(desk) == [1, 2])
    problems = desk.problems("kafka")
    assert [(where, reason.split(":")[0]) for where, reason in problems] == [
        (f"{topic}/0@1", "the content is not JSON"),
        (f"{topic}/0@2", "the event has no source"),
        (f"{topic}/0@3", f"it has {len(poison[2].value or b'')} bytes; the source takes 300 (max_bytes)"),
    ]
    with closing(Consumer(plain(broker.address), "reader")) as reader:
        reader.assign({only(f"{topic}.dead"): 0})
        found = read(reader, 3)
    assert [(one.key, one.value) for one in found] == [(one.key, one.value) for one in poison]
    told = [{name: raw.decode() for name, raw in one.headers if raw is not None} for one in found]
    assert told[0].pop("trace") == "x"
    assert [one["driftd.reason"] for one in told] == [reason for _, reason in problems]
    assert [one["driftd.offset"] for one in told] == ["1", "2", "3"]
    assert told[1] == {
        "driftd.reason": "the event has no source", "driftd.source": "shop", "driftd.topic": topic,
        "driftd.partition": "0", "driftd.offset": "2", "driftd.timestamp": "1234",
    }  # fmt: skip


def test_dead_letters_that_the_topic_does_not_take_lie_at_home(
    broker: Broker, topics: Topics, topic: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record too large for the topic, then a topic that is not there: both are kept in files, and the problem says so."""
    topics.create(f"{topic}.dead", max_message_bytes="2000")
    topics.send(topic, [Message(b"[" * 5000), Message(b"["), placed(1)])
    settings = {"dead_letters": f"{topic}.dead"}
    with running(source(broker, topic, desk, **settings), desk):
        eventually(lambda: numbers(desk) == [1])
    large, small = desk.problems("kafka")
    assert f"(dead-letter topic {topic}.dead does not take it: " in large[1]
    assert "dead-letter" not in small[1]
    folder = desk.home / "dead-letters" / "kafka-shop"
    assert [path.name for path in folder.iterdir()] == [f"{topic}-0-0.json"]
    topics.delete(f"{topic}.dead")
    topics.send(topic, [Message(b"]"), placed(2)])
    monkeypatch.setattr(kafka_letters, "AGAIN_S", 0.0)
    with running(source(broker, topic, desk, **settings), desk):
        eventually(lambda: numbers(desk) == [1, 2])
    assert orjson.loads((folder / f"{topic}-0-3.json").read_bytes())["value"] == "]"
    assert [where for where, reason in desk.problems("kafka") if "does not take it" in reason] == [
        f"{topic}/0@0",
        f"{topic}/0@3",
    ]


def test_while_the_store_is_busy_reading_pauses_and_the_member_stays(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """Nothing more is read than is in hand, the age of the oldest is told, nobody is thrown out, and nothing is lost."""
    topics.grow(topic, 2)
    hour = datetime.now(UTC) - timedelta(hours=1)
    made = source(broker, topic, desk)
    with running(made, desk):
        topics.send(topic, [placed(0)])
        eventually(lambda: numbers(desk) == [0])
        desk.patience = 0.3
        with desk.locked():
            topics.send(topic, [placed(1, timestamp=int(hour.timestamp() * 1000))])
            eventually(lambda: made.health().problem.startswith("the store does not take events now"))
            topics.send(topic, [placed(number) for number in range(2, 3000)])
            oldest = eventually(lambda: made.health().unread_at)
            assert abs((oldest - hour).total_seconds()) < 1
            with closing(Consumer(plain(broker.address), "other", f"group-{topic}")) as other:
                other.subscribe([topic])
                # A rebalance ends only when every member takes part in it.
                eventually(lambda: len(other.poll(1, 0.2).gained) == 1)
            assert numbers(desk) == [0]
        eventually(lambda: len(numbers(desk)) == 3000)
        eventually(lambda: (made.health().problem, made.health().lag, made.health().unread_at) == ("", 0, None))
    assert sorted(numbers(desk)) == list(range(3000))


def test_its_health_tells_lag_and_age(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """Before anything is known nothing is said; afterwards how many are unread, and that it is alive."""
    made = source(broker, topic, desk)
    assert (made.health().lag, made.health().unread_at) == (None, None)
    topics.send(topic, [placed(number) for number in range(50)])
    with running(made, desk):
        eventually(lambda: made.health().lag == 0)
        before = made.health().alive_at
        eventually(lambda: made.health().alive_at != before)
        assert made.health().event_at is not None
        assert made.health().problem == ""


def test_partitions_that_another_group_member_reads_are_told(
    broker: Broker, topics: Topics, topic: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second daemon with a store of its own in the same group would take events away: the health says so."""
    monkeypatch.setattr("daemon.sources.reading.FOREIGN_S", 1.0)
    topics.grow(topic, 2)
    made = source(broker, topic, desk)
    with running(made, desk), closing(Consumer(plain(broker.address), "other", f"group-{topic}")) as other:
        eventually(lambda: made.health().lag == 0)
        other.subscribe([topic])
        held: set[Partition] = set()

        def told() -> bool:
            held.update(other.poll(1, 0.2).gained)
            return "1 of 2 partitions are read by other members" in made.health().problem

        eventually(told)
        other.close()
        eventually(lambda: made.health().problem == "")
