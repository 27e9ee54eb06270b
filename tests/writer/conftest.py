"""A writer over a real SQLite file, or a PostgreSQL server, with a settable clock and a dispatcher that the test itself is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.claims import Claimed
from daemon.config import Config
from daemon.core.calls import Done, Outcome
from daemon.core.events import Event
from daemon.core.rules import RuleSet
from daemon.core.runs import Run
from daemon.handling import Inputs, Verb
from daemon.intake import Batch, Receipt
from daemon.points import OnPoint, no_point
from daemon.running import Running
from daemon.store.base import Store
from daemon.store.links import Server
from daemon.store.postgres import PostgresStore
from daemon.store.rows import StoredCall, StoredDecision, StoredEvent, call_of, decision_of, event_of, run_of
from daemon.store.sqlite import SqliteStore
from daemon.writer import Writer
from tests.builders import T0
from tests.postgres import Postgres

PATIENCE = 10.0
"""Longest that a test waits for the writer, in seconds."""


class Anything(Inputs, extra="allow"):
    """Inputs of the tests' verbs."""

    level: int = 0


def _verb(name: str, target: Any = "none", *, traffic: bool = False, seconds: float = 100.0) -> Verb:
    return Verb(name, name, Anything, target=target, traffic=traffic, deadline=lambda _inputs: seconds)


VERBS = {
    verb.name: verb
    for verb in (
        _verb("train", "training"),
        _verb("long", "training", seconds=1e6),
        _verb("serve", "serving", traffic=True),
        _verb("promote", "serving", traffic=True),
        _verb("rollback", "serving", traffic=True, seconds=200.0),
        _verb("notify"),
    )
}


@dataclass
class World:
    """One daemon's heart: a writer on a file, and what a test needs to push it around."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    moment: datetime = T0
    on_point: OnPoint = no_point
    calls: queue.Queue[Claimed] = field(default_factory=queue.Queue)
    server: Server | None = None
    """Where the store is; None: a file."""
    store: Store = field(init=False)
    writer: Writer = field(init=False)

    def clock(self) -> datetime:
        """The clock that only the test moves."""
        return self.moment

    def open(self, rules: RuleSet | None = None, *, workers: int = 4) -> World:
        """Start a writer on the file, as a process that starts would."""
        config = Config.model_validate({
            "home": self.folder,
            "models": {"churn": {"task": "binary", "registered": "churn"},
                       "cars": {"task": "binary", "registered": "cars"}},
            **self.config,
        })  # fmt: skip
        self.store = SqliteStore(self.folder / "store.db") if self.server is None else PostgresStore(self.server)
        self.writer = Writer(
            self.store, Running(config, VERBS), self.clock, self.folder / "audit" / "heads.jsonl", self.on_point
        )
        self.writer.start()
        if rules is not None:
            self.writer.load(rules, {"rules.yaml": "text"})
        if workers:
            self.writer.serve(workers, lambda claimed: [self.calls.put(one) for one in claimed] and None)
        return self

    def close(self) -> None:
        """End it in good order."""
        self.writer.stop()
        self.store.close()

    def restart(self, rules: RuleSet | None = None, **how: Any) -> World:
        """Close it and start again on the same file."""
        self.close()
        self.calls = queue.Queue()
        return self.open(rules, **how)

    def submit(self, *events: Event, **batch: Any) -> Receipt:
        """Hand events in and wait for the receipt."""
        return self.writer.submit(Batch(events=events, **batch), PATIENCE)

    def later(self, seconds: float) -> None:
        """Let a little more than so much time pass: the clock moves, and the writer looks at it."""
        self.moment += timedelta(seconds=seconds, milliseconds=1)
        with self.writer._condition:
            self.writer._condition.notify_all()

    def call(self) -> Claimed:
        """The next call that is handed out."""
        return self.calls.get(timeout=PATIENCE)

    def settle(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Answer a call."""
        return self.writer.settle(claimed, outcome)

    def answer(self, verb: str, outcome: Outcome) -> Claimed:
        """Take the next call that is to be done, which must be this verb's, and answer it; end on the way what is to be ended."""
        while (claimed := self.call()).ending:
            self.settle(claimed, Done())
        assert claimed.call.verb == verb
        assert self.settle(claimed, outcome)
        return claimed

    def wait(self, what: Callable[[], Any]) -> Any:
        """Until something in the store is so; its value."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.005)):
            value = what()
            if value:
                return value
            pause.wait(0.005)
        raise AssertionError("it did not come to be")

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        """Rows of a named query."""
        with self.store.read() as session:
            return session.rows(statement, *parameters)

    def events(self) -> list[StoredEvent]:
        """All events."""
        return [event_of(row) for row in self.rows("events_after", 0, 100_000)]

    def decisions(self) -> list[StoredDecision]:
        """All decisions."""
        return [decision_of(row) for row in self.rows("decisions_after", 0, 100_000)]

    def verdicts(self, rule: str = "r") -> list[str]:
        """The verdicts of a rule, oldest first."""
        return [decision.verdict for decision in self.decisions() if decision.rule == rule]

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return [run_of(row) for row in self.rows("runs_newest", 100_000)][::-1]

    def run(self, name: str) -> Run:
        """One run."""
        return run_of(self.rows("run", name)[0])

    def ended(self, name: str) -> Run:
        """One run, once it has ended."""
        return self.wait(lambda: (found := self.run(name)).ended and found)

    def calls_of(self, run: str) -> list[StoredCall]:
        """The calls of a run by step."""
        return [call_of(row) for row in self.rows("calls_of_run", run)]


ON_BOTH = frozenset({"test_intake", "test_run_life", "test_dispatcher", "test_replay"})
"""Modules whose tests run on both kinds of store; the others look into the file, or at what no store is asked for."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On which stores a test runs."""
    if "world" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in ON_BOTH
        metafunc.parametrize("world", ["sqlite", "postgres"] if both else ["sqlite"], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world whose writer the test opens; closed at the end, whatever happened."""
    made = World(tmp_path)
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        made.server = postgres.server(postgres.database())
    yield made
    if hasattr(made, "writer"):
        made.close()
