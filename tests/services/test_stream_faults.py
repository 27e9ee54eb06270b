"""Faults of the broker under a prediction stream, made to happen: none ends it, each is told, and every row counts once."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from daemon.clients.kafka import Consumer
from daemon.config import Config
from daemon.kafkaparts import KafkaConnection
from daemon.story.broker import ANN, ANNS_PASSWORD, Broker
from daemon.story.topics import Message, Topics
from tests.monitors.lab import wait_for
from tests.services import test_prediction_streams as streams
from tests.services.kafkas import older_log, only, plain, read, scram
from tests.services.proxy import Proxy
from tests.services.test_kafka_faults import exists

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]

START = streams.START


@dataclass
class Lab(streams.Lab):
    """A stream of predictions only; `connection` is how it is reached."""

    connection: KafkaConnection | None = None
    changes: dict[str, Any] = field(default_factory=lambda: {"idle": "3s", "label_topic": None})
    also: dict[str, tuple[str, KafkaConnection]] = field(default_factory=dict)
    """Other streams, of a model each: their topics and how they are reached."""

    @property
    def config(self) -> Config:
        """With another connection, and other streams, if they are asked for."""
        made = super().config
        stream, model = made.streams["churn"], made.models["churn"]
        kafka, streams, models = (
            {"main": self.connection or plain(self.broker.address)},
            dict(made.streams),
            dict(made.models),
        )
        for name, (topic, reached) in self.also.items():
            kafka[name] = reached
            streams[name] = stream.model_copy(update={"connection": name, "topic": topic, "group": topic})
            models[name] = model.model_copy(update={"stream": name})
        return made.model_copy(update={"kafka": kafka, "streams": streams, "models": models})


@pytest.fixture
def lab(tmp_path: Path, broker: Broker, topics: Topics, topic: str) -> Lab:
    """A stream on a topic of one partition, which keeps records however old they say they are."""
    topics.set(topic, retention_ms="-1")
    return Lab(tmp_path / "home", broker, topic)


def rows(numbers: Sequence[int], partition: int = 0) -> list[Message]:
    """Predictions, one per second of event time."""
    return [
        Message(
            json.dumps({
                "id": f"{partition}-{n}", "at": START + n, "version": "1", "yhat": n % 2, "p": 0.5, "who": f"u{n}",
                "ms": 3, "age": n % 80, "plan": "basic",
            }).encode(),
            partition=partition,
            timestamp=(START + n) * 1000,
        )
        for n in numbers
    ]  # fmt: skip


def counted(daemon: streams.Daemon, stream: str = "churn") -> int:
    """Rows that were read, also late ones."""
    heads = {key: blob for key, blob in daemon.writer.states(stream).items() if key.endswith("/head")}
    return sum(json.loads(blob)["rows"] for key, blob in heads.items() if key.startswith("part/"))


def gaps(daemon: streams.Daemon) -> list[tuple[int, int, int, int | None]]:
    """Partition, from, to and how many were lost, of each gap."""
    found = [event.data for event in daemon.events("source.gap")]
    assert {one["source"] for one in found} <= {"churn"}
    return sorted((one["partition"], one["from_offset"], one["to_offset"], one.get("lost")) for one in found)


def reasons(daemon: streams.Daemon) -> list[str]:
    """Why, of all stored problems."""
    return [event.data["reason"] for event in daemon.events("problem.recorded")]


def shown(daemon: streams.Daemon) -> dict[str, Any]:
    """What the status says of the stream."""
    found: dict[str, Any] = daemon.supervisor.figures().get("churn", {})
    return found


def test_partitions_that_are_added_and_a_topic_that_is_made_anew(lab: Lab, topics: Topics) -> None:
    """New partitions are read from their start; a topic's absence is told, and of the new one every row counts."""
    with lab.daemon() as daemon:
        topics.send(lab.topic, rows(range(200)))
        wait_for(lambda: counted(daemon) == 200)
        topics.grow(lab.topic, 3)
        topics.send(lab.topic, rows(range(200, 300), 0) + rows(range(200, 300), 2))
        wait_for(lambda: counted(daemon) == 400)
        wait_for(lambda: (shown(daemon).get("assigned"), shown(daemon).get("lag")) == (3, 0))
        windows = len(wait_for(lambda: daemon.events("drift.measured")))
        topics.delete(lab.topic)
        missing = f"there is no topic {lab.topic}: create it, or correct config.yaml"
        wait_for(lambda: shown(daemon)["problem"] == missing)
        wait_for(lambda: missing in reasons(daemon))
        topics.create(lab.topic, retention_ms="-1")
        topics.send(lab.topic, rows(range(1000, 1900)))  # longer than what was read of the old one
        wait_for(lambda: counted(daemon) == 1300)
        wait_for(lambda: (shown(daemon)["problem"], shown(daemon)["assigned"]) == ("", 1))
        wait_for(lambda: len(daemon.events("drift.measured")) > windows)
    assert gaps(daemon) == [(0, 300, 0, None)]


def test_what_happens_while_nobody_reads(lab: Lab, topics: Topics) -> None:
    """Records whose retention ran out are a gap with its offsets; a new topic in which our place exists is another one."""
    with lab.daemon() as daemon:
        topics.send(lab.topic, rows(range(100)))
        wait_for(lambda: counted(daemon) == 100)
    topics.send(lab.topic, rows(range(100, 1000)))
    topics.forget(lab.topic, before=990)
    with lab.daemon() as daemon:
        wait_for(lambda: counted(daemon) == 110)
        assert gaps(daemon) == [(0, 100, 990, 890)]
        name = f"{lab.topic}/0"
        wait_for(lambda: shown(daemon).get("lag") == 0)
        part = shown(daemon)["partitions_by_name"][name]
    assert part == {"assigned": True, "lag": 0, "age_s": None, "watermark": shown(daemon)["watermark"]}
    assert part["watermark"] == datetime.fromtimestamp(START + 999, UTC).isoformat()
    topics.delete(lab.topic)
    wait_for(lambda: not exists(topics, lab.topic))
    topics.create(lab.topic, retention_ms="-1")
    topics.send(lab.topic, rows(range(2000, 3500)))
    with lab.daemon() as daemon:
        wait_for(lambda: counted(daemon) == 1610)
    assert gaps(daemon) == [(0, 100, 990, 890), (0, 1000, 0, None)]


def test_logs_that_their_broker_has_lost_cut_and_spoiled(lab: Lab, broker: Broker, topics: Topics) -> None:
    """A lost log and a cut one go on where they are new, no row counts twice; a broken batch is stepped over: all are gaps."""
    topics.grow(lab.topic, 3)
    batch = {"linger_ms": 200}
    with lab.daemon() as daemon:
        for messages in (rows(range(30), 0), rows(range(20), 1), rows(range(20, 40), 1), rows(range(10), 2)):
            topics.send(lab.topic, messages, **batch)
        wait_for(lambda: counted(daemon) == 80)
    for numbers in (range(10, 15), range(15, 22), range(22, 27)):
        topics.send(lab.topic, rows(numbers, 2), **batch)
    broker.stop()
    data = broker.folder / "data"
    for partition in (0, 1):
        for path in (data / f"{lab.topic}-{partition}").iterdir():
            if path.suffix in {".index", ".timeindex", ".snapshot"} or path.name == "leader-epoch-checkpoint":
                path.unlink()
    (lost,) = (data / f"{lab.topic}-0").glob("*.log")
    lost.unlink()
    (cut,) = (data / f"{lab.topic}-1").glob("*.log")
    content = cut.read_bytes()
    cut.write_bytes(content[: 12 + int.from_bytes(content[8:12])])  # its first batch
    (spoiled,) = (data / f"{lab.topic}-2").glob("*.log")
    content = spoiled.read_bytes()
    assert content.count(b'"id": "2-17"') == 1
    spoiled.write_bytes(content.replace(b'"id": "2-17"', b'"id": "2-71"'))
    broker.start()
    with Topics(broker.address) as again:
        again.send(lab.topic, rows(range(100, 108), 0))
        again.send(lab.topic, rows(range(100, 106), 1))
    with lab.daemon() as daemon:
        wait_for(lambda: counted(daemon) == 80 + 8 + 6 + 10)
        wait_for(lambda: shown(daemon).get("problem") == "" and shown(daemon)["lag"] == 0)
    assert gaps(daemon) == [(0, 30, 0, None), (1, 40, 20, None), (2, 15, 22, 7)]
    assert any("failed crc check" in reason for reason in reasons(daemon))


def test_a_log_that_was_cut_and_has_grown_past_what_was_read(
    lab: Lab, broker: Broker, topics: Topics, tmp_path: Path
) -> None:
    """What was read of it is another log's by now: a gap back to where they part, and each row that is new counts once."""
    topics.send(lab.topic, rows(range(50)))
    with older_log(broker, lab.topic, tmp_path):
        with Topics(broker.address) as again:
            again.send(lab.topic, rows(range(50, 100)))
        with lab.daemon() as daemon:
            wait_for(lambda: counted(daemon) == 100)
    with Topics(broker.address) as again:
        again.send(lab.topic, rows(range(200, 380)))
    with lab.daemon() as daemon:
        wait_for(lambda: counted(daemon) == 280)
        wait_for(lambda: shown(daemon).get("lag") == 0)
    assert gaps(daemon) == [(0, 100, 50, None)]


def test_a_topic_made_anew_of_which_rows_come_before_its_id_is_known(lab: Lab, topics: Topics, broker: Broker) -> None:
    """While only the old topic is known its place is read in the new one: nothing of that is stored, and no row is lost."""
    lab.connection = plain(broker.address, refresh=300.0)
    with lab.daemon() as daemon:
        topics.send(lab.topic, rows(range(100)))
        wait_for(lambda: counted(daemon) == 100)
        worker = daemon.supervisor.pids[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            topics.delete(lab.topic)
            wait_for(lambda: not exists(topics, lab.topic))
            topics.create(lab.topic, retention_ms="-1")
            topics.send(lab.topic, rows(range(200, 450)))
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_for(lambda: counted(daemon) == 350)
        wait_for(lambda: shown(daemon).get("lag") == 0)
        assert counted(daemon) == 350
    assert gaps(daemon) == [(0, 100, 0, None)]


def test_a_password_that_is_wrong_and_then_right(lab: Lab, broker: Broker, topics: Topics) -> None:
    """Over SASL and TLS: not being let in is told and stored; as soon as the broker knows the password, all is read."""
    topics.send(lab.topic, rows(range(50)))
    topics.user(ANN, "another")
    lab.connection = scram(broker)
    try:
        with lab.daemon() as daemon:
            wait_for(lambda: "invalid credentials" in shown(daemon).get("problem", ""))
            assert any("check sasl" in reason for reason in wait_for(lambda: reasons(daemon)))
            assert "invalid credentials" in daemon.supervisor.health().problem
            assert shown(daemon)["assigned"] == 0
            assert counted(daemon) == 0
            topics.user(ANN, ANNS_PASSWORD)
            wait_for(lambda: counted(daemon) == 50)
            wait_for(lambda: (shown(daemon)["problem"], shown(daemon)["assigned"]) == ("", 1))
    finally:
        topics.user(ANN, ANNS_PASSWORD)


def test_a_slow_broker_and_one_that_hangs(lab: Lab, broker: Broker, topics: Topics) -> None:
    """Each answer late: all is read. No answer at all: told, and nothing closed as idle; when it answers, it goes on."""
    lab.connection = plain(broker.proxied_address, timeout=4.0)
    lab.changes["idle"] = "8s"
    with Proxy(broker.proxy_port, broker.behind_proxy, delay=0.1) as proxy, lab.daemon() as daemon:
        topics.send(lab.topic, rows(range(50)))
        wait_for(lambda: counted(daemon) == 50)
        proxy.open.clear()
        topics.send(lab.topic, rows(range(50, 60)))
        wait_for(lambda: shown(daemon).get("problem"))
        wait_for(
            lambda: any("the broker has not answered" in reason or "imeout" in reason for reason in reasons(daemon))
        )
        wait_for(lambda: shown(daemon)["lag"] is None)
        threading.Event().wait(8)  # longer than `idle`
        (head,) = [
            blob for key, blob in daemon.writer.states("churn").items() if key.endswith("/head") and key != "head"
        ]
        assert not json.loads(head)["idle"]
        proxy.open.set()
        wait_for(lambda: counted(daemon) == 60)
        wait_for(lambda: shown(daemon)["problem"] == "")
    assert gaps(daemon) == []


def test_a_stream_whose_broker_hangs_holds_up_no_other_stream(lab: Lab, broker: Broker, topics: Topics) -> None:
    """One worker, two streams: while the broker of one does not answer at all, the windows of the other are measured."""
    hung = f"{lab.topic}.hung"
    topics.create(hung, retention_ms="-1")
    topics.send(hung, rows(range(50)))
    lab.also = {"hung": (hung, plain(broker.proxied_address, timeout=600.0))}
    with Proxy(broker.proxy_port, broker.behind_proxy) as proxy:
        proxy.open.clear()
        with lab.daemon() as daemon:
            wait_for(lambda: proxy.connections)
            for windows in range(1, 4):
                at = (windows - 1) * 1000
                topics.send(lab.topic, rows(range(at, at + 1000)))
                wait_for(lambda windows=windows: len(daemon.events("drift.measured")) >= windows)
            wait_for(lambda: counted(daemon) == 3000)
            assert daemon.supervisor.figures()["hung"]["assigned"] == 0
            assert counted(daemon, "hung") == 0


def test_members_that_come_and_go_change_no_window(tmp_path: Path, broker: Broker, topics: Topics, topic: str) -> None:
    """While others join and leave, the windows are those that one undisturbed worker builds, bit by bit."""
    changes = {"label_topic": None, "idle": "10s"}
    names = (f"{topic}.calm", f"{topic}.storm")
    for name in names:
        topics.create(name, streams.PARTITIONS, retention_ms="-1")
    sent = streams.predictions(4000)
    calm = Lab(tmp_path / "calm", broker, names[0], changes=changes)
    topics.send(calm.topic, sent)
    with calm.daemon() as daemon:
        streams.finish(daemon, len(sent))
        expected = daemon.measured()
    assert len(expected[0]) >= 10

    lab = Lab(tmp_path / "storm", broker, names[1], changes=changes)
    group = lab.config.streams["churn"].group
    over = threading.Event()
    joined = 0

    def storm() -> None:
        nonlocal joined
        while not over.is_set():
            with closing(Consumer(plain(broker.address), "other", group)) as other:
                other.subscribe([lab.topic])
                wait_for(lambda other=other: other.poll(1, 0.1).gained or over.is_set())
                joined += 1

    thread = threading.Thread(target=storm)
    with lab.daemon() as daemon:
        thread.start()
        try:
            for at in range(0, len(sent), 400):
                topics.send(lab.topic, sent[at : at + 400])
            wait_for(lambda: joined >= 5)
        finally:
            over.set()
            thread.join()
        streams.finish(daemon, len(sent))
        found = daemon.measured()
        assert gaps(daemon) == []
    assert [len(part) for part in expected] == [len(part) for part in found]
    assert expected == found


def test_every_kind_of_record(lab: Lab, broker: Broker, topics: Topics) -> None:
    """Each codec, null keys, tombstones, transactions committed and aborted, values that are too long, and poison."""
    topics.create(f"{lab.topic}.dead")
    topics.set(lab.topic, max_message_bytes="20000000", retention_ms="-1")
    lab.changes["dead_letters"] = f"{lab.topic}.dead"
    at = 0
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        topics.send(lab.topic, rows(range(at, at + 100)), compression_type=codec, linger_ms=100)
        at += 100
    topics.send(lab.topic, [Message(None, key=b"gone"), *(replace(one, key=b"k") for one in rows(range(400, 410)))])
    topics.send(lab.topic, rows(range(410, 420)), transactional_id=lab.topic)
    with closing(KafkaProducer(bootstrap_servers=broker.address, transactional_id=lab.topic)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(lab.topic, value=rows([999])[0].value, timestamp_ms=START * 1000)
        producer.flush()
        producer.abort_transaction()
    long = replace(rows([420])[0], value=b'{"id": "' + b"x" * (9 << 20) + b'"}')
    topics.send(lab.topic, [long], max_request_size=20_000_000)
    poison = Message(b"{", key=b"k", timestamp=(START + 421) * 1000)
    topics.send(lab.topic, [poison, *rows(range(422, 430))])
    (end,) = topics.ends(lab.topic).values()
    with lab.daemon() as daemon:
        wait_for(lambda: counted(daemon) == 428)
        wait_for(lambda: daemon.read() == end)  # behind the marks of the transactions
        told = {
            event.data["where"].rpartition("@")[2]: event.data["reason"] for event in daemon.events("problem.recorded")
        }
        wait_for(lambda: shown(daemon).get("malformed") == 2)
    assert [reason.split(" (")[0].split(":")[0] for _, reason in sorted(told.items())] == [
        "the value is longer than 8 MiB", "not JSON",
    ]  # fmt: skip
    (letter,) = (lab.home / "dead-letters" / "churn").iterdir()  # larger than the dead-letter topic takes
    assert json.loads(letter.read_bytes())["reason"] == "the value is longer than 8 MiB"
    with closing(Consumer(plain(broker.address), "reader")) as reader:
        reader.assign({only(f"{lab.topic}.dead"): 0})
        (found,) = read(reader, 1)
    headers = {name: (raw or b"").decode() for name, raw in found.headers}
    assert (found.value, headers.pop("driftd.reason").split(":")[0]) == (b"{", "not JSON")
    assert headers == {
        "driftd.source": "churn", "driftd.topic": lab.topic, "driftd.partition": "0",
        "driftd.offset": str(end - 9), "driftd.timestamp": str((START + 421) * 1000),
    }  # fmt: skip
