"""Between the claim of a call and its handler the lead is lost: no verb touches anything, and its answer is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Channel, Config, Model, RegistryConfig
from daemon.context import LiveContext, Services
from daemon.core.calls import Again, Call, Working
from daemon.core.errors import Unavailable
from daemon.core.events import Event
from daemon.dispatcher import Dispatcher
from daemon.handling import Template
from daemon.parts import Secret
from daemon.running import Running
from daemon.store.postgres import PostgresStore
from daemon.verbs import load_verbs
from daemon.writer import Writer
from handlers import VERBS
from tests.builders import T0
from tests.contract.test_postgres import leads, silence
from tests.monitors.lab import wait_for
from tests.postgres import Database, Postgres

MANIFEST = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {}}
TEMPLATES = {
    verb: Template(
        verb, "", verb, () if verb == "apply" else ("true",), {}, 100, 60, {}, MANIFEST if verb == "apply" else {}
    )
    for verb in ("retrain", "tune", "batch_inference", "apply", "command")
}
INPUTS: dict[str, dict[str, Any]] = {
    **{verb: {"template": verb} for verb in TEMPLATES},
    "evaluate": {},
    "canary": {},
    "promote": {},
    "soak": {"duration": "1h"},
    "rollback": {},
    "notify": {"to": "team"},
    "cordon": {"node": "gpu-1"},
    "uncordon": {"node": "gpu-1"},
}
"""What a rule may write under each verb."""


class Touched:
    """Every service: writes down what was asked of it, and does not answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def ask(*_arguments: Any, **_more: Any) -> Any:
            self.asked.append(name)
            raise Unavailable("test", name, "it does not answer")

        return ask


class Daemon:
    """Writer, dispatcher and context of a daemon on the database; a test calls its worker's step itself."""

    def __init__(self, folder: Path, store: PostgresStore) -> None:
        config = Config(
            home=folder, registry=RegistryConfig(timeout=timedelta(seconds=0.2)),
            models={"car-loan": Model(task="binary", registered="car-loan", stream="loan")},
            channels={"team": Channel(kind="webhook", url=Secret(env="URL"))},
        )  # fmt: skip
        self.touched = Touched()
        any_service: Any = self.touched
        verbs = load_verbs()
        running = Running(config, {name: loaded.verb for name, loaded in verbs.items()})
        self.writer = Writer(store, running, lambda: T0, folder / "heads.jsonl")
        every = dict.fromkeys((one.name for one in fields(Services)), any_service)
        services = Services(**{**every, "config": config, "store": store, "templates": TEMPLATES, "clock": lambda: T0})
        self.dispatcher = Dispatcher(self.writer, verbs, lambda call: LiveContext(services, call.run))

    def run(self, verb: str) -> Any:
        """What comes of a claimed call of a verb."""
        trigger = Event("1", "s", "drift.measured", "loan", T0, {"model": "car-loan"})
        given = {
            "version": "2",
            "created": "1",
            "digest": "d",
            "stable": "1",
            "epoch": 1,
            "canary": {"watch": {}, "look": 1.0},
        }
        call = Call(
            "c" * 32,
            "r" * 32,
            0,
            verb,
            "car-loan",
            INPUTS[verb],
            given,
            {},
            trigger,
            0,
            T0 + timedelta(hours=9),
            ("r",),
        )
        return self.dispatcher._outcome(call, ending=False)


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Database:
    """One for all verbs."""
    return postgres.fresh()


@pytest.fixture
def stores(database: Database) -> Iterator[list[PostgresStore]]:
    """Two daemons' stores."""
    made = [PostgresStore(database.server.server(database.name, lease_s=2.0)) for _ in range(2)]
    yield made
    for store in made:
        store.close()


def test_all_verbs_are_tried() -> None:
    """Each verb that there is has its inputs here."""
    assert set(load_verbs()) <= set(INPUTS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_call_whose_lead_was_lost_touches_nothing(
    tmp_path: Path, stores: list[PostgresStore], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The handler runs, and finds each service closed; before, while it led, the same call did ask for something."""
    leader, other = stores
    daemon = Daemon(tmp_path, leader)
    monkeypatch.setattr("httpx.post", daemon.touched.post)
    daemon.run(verb)
    assert daemon.touched.asked
    silence(leader)
    wait_for(lambda: leads(other))
    daemon.touched.asked.clear()
    outcome = daemon.run(verb)
    assert daemon.touched.asked == []
    assert isinstance(outcome, Again | Working)
    assert "nothing was called" in (outcome.why if isinstance(outcome, Again) else outcome.note)
