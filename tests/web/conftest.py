"""The daemon's own address over a real writer and store, with a clock that the test moves."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.clients.base import Registry
from daemon.condition import Condition
from daemon.config import Config
from daemon.core.events import Event
from daemon.core.rules import RuleSet
from daemon.handling import Inputs, Verb
from daemon.intake import Batch, Receipt
from daemon.monitors.followed import Followed
from daemon.monitors.supervisor import Supervisor
from daemon.running import Running
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse
from daemon.store import sqlite
from daemon.store.sqlite import SqliteStore
from daemon.web.metrics import Metrics, Seen
from daemon.web.server import WebServer
from daemon.webparts import WebConfig
from daemon.writer import Writer
from tests.builders import rules
from tests.contract.desk import Clock, eventually
from tests.monitors.lab import plan

Sample = tuple[str, frozenset[tuple[str, str]]]
TRAIN = Verb("train", "train", Inputs, target="training")


class Quiet:
    """A source that reaches its system when it is told to."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.pulse = Pulse(clock)

    def run(self, intake: object, stop: threading.Event) -> None:
        """Nothing comes."""

    def health(self) -> Health:
        """As the pulse has it."""
        return self.pulse.health()


@dataclass
class Site:
    """What answers, and what it answers about."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    config: WebConfig = field(default_factory=lambda: WebConfig(port=0))

    def __post_init__(self) -> None:
        self.store = SqliteStore(self.folder / "store.db")
        whole = Config(home=self.folder)
        self.writer = Writer(self.store, Running(whole, {"train": TRAIN}), self.clock, self.folder / "heads.jsonl")
        self.streams = Supervisor(whole, cast("Registry", None), self.clock)
        self.condition = Condition(self.writer, self.streams, self.clock)
        seen = Seen(
            self.condition, self.writer, self.streams, self.store, self.folder / "store.db", frozenset({"train"}),
            self.clock,
        )  # fmt: skip
        self.metrics = Metrics(seen)
        self.web = WebServer(self.config, self.condition, self.metrics)

    def open(self, of: RuleSet | None = None) -> None:
        """The writer begins, with rules, and the daemon is up."""
        self.writer.start()
        self.writer.load(of or rules(), {})
        self.condition.phase = ""

    def close(self) -> None:
        """End in good order."""
        self.writer.stop()
        self.store.close()

    @contextmanager
    def listening(self, web: WebServer | None = None) -> Iterator[None]:
        """The server at work."""
        web, stop = web or self.web, threading.Event()
        thread = threading.Thread(target=web.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)
            assert not thread.is_alive()

    @property
    def base(self) -> str:
        """Its address."""
        address: str = self.web.status()["address"]
        return address

    def get(self, path: str, **how: Any) -> httpx.Response:
        """GET a path."""
        return httpx.get(self.base + path, timeout=20, trust_env=False, **how)

    def scrape(self) -> dict[Sample, float]:
        """All samples, by name and labels."""
        return samples(self.get("/metrics").text)

    def submit(self, *events: Event, **batch: Any) -> Receipt:
        """Hand events in and wait for the receipt."""
        return self.writer.submit(Batch(events=events, **batch), 10)

    def quiet_source(self, name: str = "kafka:shop") -> Quiet:
        """A source that the condition looks after."""
        source = Quiet(name, self.clock)
        self.condition.watch(source)
        return source

    def stream(self, home: Path) -> Followed:
        """A stream that the supervisor follows."""
        followed = Followed(plan(home), 0, self.clock())
        self.streams._streams[followed.plan.name] = followed
        return followed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else has the database locked, so the writer can write nothing."""
        with closing(sqlite3.connect(self.folder / "store.db", isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                other.execute("ROLLBACK")


def samples(text: str) -> dict[Sample, float]:
    """A scrape as Prometheus reads it; no sample may come twice."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def sample(name: str, **labels: str) -> Sample:
    """The key of a sample of driftd's."""
    return (f"driftd_{name}", frozenset(labels.items()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A daemon's heart with its address, up and ready."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 100)
    made = Site(tmp_path)
    made.open()
    with made.listening():
        eventually(lambda: made.web.status()["address"])
        yield made
    made.close()
