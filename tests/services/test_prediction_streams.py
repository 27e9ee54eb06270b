"""Prediction streams on a real broker: windows are those of the logs, whoever read them and whoever was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config, Fields, Model, MonitorsConfig, RegistryConfig, Stream
from daemon.core.events import Event
from daemon.core.monitors import Monitor, Window
from daemon.kafkaparts import KafkaConnection
from daemon.monitors.statekeys import is_part
from daemon.monitors.supervisor import Supervisor
from daemon.running import Running
from daemon.store.base import Store
from daemon.store.links import Server
from daemon.store.postgres import PostgresStore
from daemon.store.rows import event_of
from daemon.store.sqlite import SqliteStore
from daemon.story.broker import Broker
from daemon.story.topics import Message, Topics
from daemon.writer import Writer
from tests.monitors.lab import wait_for
from tests.monitors.test_supervisor import Registry
from tests.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FIELDS = Fields(
    id="id", time="at", version="version", prediction="yhat", score="p", label="y", unit="who", latency_ms="ms",
    features={"age": "number", "plan": "category"},
)  # fmt: skip
MONITORS = (Monitor("inputs", "churn", Window(rows=500), segments=("plan",)),)
START = 1_772_359_200
PARTITIONS = 4


@dataclass
class Daemon:
    """What a test looks at."""

    supervisor: Supervisor
    writer: Writer
    store: Store

    def events(self, *kinds: str) -> list[Event]:
        """The stored events of some types, in order."""
        with self.store.read() as session:
            rows = session.rows("events_after", 0, 100_000)
        found = [event_of(row).recorded.event for row in rows]
        return [event for event in found if event.type in kinds]

    def read(self) -> int:
        """Records of both topics that are in the sums."""
        states = self.writer.states("churn")
        heads = [json.loads(blob) for key, blob in states.items() if key.startswith("part/") and key.endswith("/head")]
        return sum(head["offset"] for head in heads)

    def pending(self) -> int:
        """Slices that are not taken yet."""
        return sum("/slice/" in key for key in self.writer.states("churn"))

    def measured(self) -> tuple[list[Any], list[Any], dict[str, bytes]]:
        """What predictions brought, what labels did, and the states, as far as it must not depend on who read when."""
        drift = [(e.type, e.id, e.data) for e in self.events("drift.measured", "quality.measured")]
        late = [(e.type, e.id, e.data) for e in self.events("performance.measured")]
        states = {key: blob for key, blob in self.writer.states("churn").items() if not is_part(key)}
        return drift, late, states


@dataclass
class Lab:
    """A home with one stream of topics."""

    home: Path
    broker: Broker
    topic: str
    workers: int = 1
    server: Server | None = None
    """Where the store is; None: a file at home."""
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """One model on one stream."""
        stream = Stream(
            kind="kafka", connection="main", predictions=Path("archive"), topic=self.topic, group=f"{self.topic}-{self.home.name}",
            slice="10s", lateness="5s", horizon="60d",
            **{"fields": FIELDS, "idle": "15s", "label_topic": f"{self.topic}-labels", **self.changes},
        )  # fmt: skip
        model = Model(task="binary", registered="churn", stream="churn")
        return Config(
            home=self.home, streams={"churn": stream}, models={"churn": model}, registry=RegistryConfig(poll="200ms"),
            monitors=MonitorsConfig(workers=self.workers),
            kafka={"main": KafkaConnection(bootstrap=(self.broker.address,), refresh="2s")},
        )  # fmt: skip

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """Store, writer and supervisor, until the end of the block."""
        self.home.mkdir(exist_ok=True)
        store = SqliteStore(self.home / "store.db") if self.server is None else PostgresStore(self.server)
        writer = Writer(store, Running(self.config, {}), lambda: datetime.now(UTC), self.home / "heads.jsonl")
        writer.start()
        supervisor = Supervisor(self.config, Registry(self.home, champion=""), lambda: datetime.now(UTC))
        supervisor.apply(MONITORS)
        stop = threading.Event()
        thread = threading.Thread(target=supervisor.run, args=(writer, stop))
        thread.start()
        try:
            yield Daemon(supervisor, writer, store)
        finally:
            stop.set()
            thread.join(30)
            writer.stop()
            store.close()
        assert not thread.is_alive()


def predictions(count: int, seed: int = 1) -> list[Message]:
    """Prediction records in event time, a second for every ten."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        at = START + number / 10 - chance.choice([0, 0, 0, 3, 30])
        row = {
            "id": f"r{number}", "at": at, "version": "1", "yhat": number % 2, "p": chance.random(), "who": f"u{number % 500}",
            "ms": chance.randrange(90), "age": chance.randrange(80), "plan": chance.choice(["basic", "plus", "pro"]),
        }  # fmt: skip
        when = (START + number // 10) * 1000
        rows.append(Message(json.dumps(row).encode(), partition=number % PARTITIONS, timestamp=when))
    return rows


def labels(count: int, lag: int = 20) -> list[Message]:
    """A label for each, so many seconds later."""
    return [
        Message(
            json.dumps({"id": f"r{n}", "y": n % 3 % 2}).encode(),
            partition=n % 2,
            timestamp=(START + n // 10 + lag) * 1000,
        )
        for n in range(count)
    ]


def make(topics: Topics, topic: str) -> None:
    """Both topics."""
    topics.create(topic, PARTITIONS, retention_ms="-1")  # the records are as old as their times say
    topics.create(f"{topic}-labels", 2, retention_ms="-1")


def finish(daemon: Daemon, records: int) -> None:
    """Until all records are read and everything that they brought is closed."""
    wait_for(lambda: daemon.read() >= records, 120)
    wait_for(lambda: _is_closed(daemon))


def _is_closed(daemon: Daemon) -> bool:
    """Nothing comes on any partition, all are closed up to one time, and what has the last windows and labels is stored."""
    closed = [event.data["window"]["closed_by"] for event in daemon.events("drift.measured")]
    if "idle" not in closed or daemon.pending() or daemon.supervisor.figures().get("churn", {}).get("held") != 0:
        return False
    states = daemon.writer.states("churn")
    heads = [json.loads(blob) for key, blob in states.items() if is_part(key) and key.endswith("/head")]
    ends = {head["complete"] for head in heads if head["topic"].endswith("-labels")}
    return all(head["idle"] for head in heads) and ends <= {json.loads(states["head"])["joined"]}  # no labels, no ends


@pytest.mark.parametrize("on", ["sqlite", "postgres"])
def test_two_workers_one_of_them_killed_build_the_windows_that_one_builds(
    tmp_path: Path, broker: Broker, topics: Topics, named: str, postgres: Postgres, on: str
) -> None:
    """Two monitor processes share the partitions; one is killed mid-window: the same panes and events, bit by bit."""
    make(topics, named)
    rows, later = predictions(8_000), labels(8_000)
    half = len(rows) // 2
    for messages in (rows[:half], rows[half:]):
        topics.send(named, messages)
    topics.send(f"{named}-labels", later)
    calm = Lab(tmp_path / "calm", broker, named)
    with calm.daemon() as daemon:
        finish(daemon, 16_000)
        expected = daemon.measured()
    assert len(expected[0]) >= 20
    assert len(expected[1]) >= 10

    make(topics, f"{named}-again")
    server = postgres.server(postgres.database()) if on == "postgres" else None
    lab = Lab(tmp_path / "pair", broker, f"{named}-again", workers=2, server=server)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.supervisor.pids) == 2)
        topics.send(lab.topic, rows[:half])
        topics.send(f"{lab.topic}-labels", later[:half])
        wait_for(lambda: daemon.read() >= half)
        assert daemon.pending()  # slices are open: it is in the middle of a window
        first, second = daemon.supervisor.pids
        os.kill(second, signal.SIGKILL)
        topics.send(lab.topic, rows[half:])
        topics.send(f"{lab.topic}-labels", later[half:])
        wait_for(lambda: len(daemon.supervisor.pids) == 2 and second not in daemon.supervisor.pids)
        os.kill(first, signal.SIGKILL)  # this one also puts the slices together
        finish(daemon, 16_000)
        found = daemon.measured()

    for one, other in zip(expected, found, strict=True):
        assert one == other


def test_a_broker_that_is_away_closes_nothing_and_is_told(
    tmp_path: Path, broker: Broker, topics: Topics, named: str
) -> None:
    """While the broker is away health says so and no slice is closed as idle; when it is back the stream goes on."""
    make(topics, named)
    rows, later = predictions(4_000), labels(4_000)
    lab = Lab(tmp_path / "home", broker, named, changes={"idle": "10s"})
    topics.send(named, rows[:2_000])
    with lab.daemon() as daemon:
        wait_for(lambda: daemon.read() >= 2_000)
        broker.kill()
        try:
            wait_for(lambda: "kafka" in daemon.supervisor.health().problem)
            threading.Event().wait(12)  # longer than `idle`
            heads = [head for key, head in daemon.writer.states("churn").items() if key.endswith("/head")]
        finally:
            broker.start()
        assert not any(json.loads(head).get("idle") for head in heads if b"offset" in head)
        topics.send(named, rows[2_000:])
        topics.send(f"{named}-labels", later)
        finish(daemon, 8_000)
        figures = daemon.supervisor.figures()["churn"]

    assert figures["rows"] == 8_000
