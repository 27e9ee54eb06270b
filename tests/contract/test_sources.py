"""What every source promises, on the real systems behind them and the real writer before them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from daemon.clients.registry import RegistryProcess
from daemon.config import Hook, Model, Schedule, Secret, WebhookConfig
from daemon.config import StorageSource as Folder
from daemon.sources.base import Source
from daemon.sources.mlflow import MlflowSource
from daemon.sources.schedule import ScheduleSource
from daemon.sources.signatures import SIGNATURE, TIMESTAMP, sign
from daemon.sources.storage import StorageSource
from daemon.sources.webhook import WebhookSource
from tests.contract.desk import Clock, Desk, eventually, running

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")


@dataclass
class World:
    """A source, and how to make something happen in its system."""

    kind: str
    make: Callable[[], Source]
    happen: Callable[[Source], None]
    repeats: bool = False
    """Its system tells again by itself what nobody took: nothing happens while the daemon is down."""
    cursor: str = ""
    """The key of its cursor, where that is not its name."""


@pytest.fixture(params=["storage", "mlflow", "schedule", "webhook"])
def world(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path, name: str) -> World:
    """One world after the other."""
    if request.param == "storage":
        return storage_world(clock, tmp_path)
    if request.param == "schedule":
        return schedule_world(clock)
    if request.param == "webhook":
        return webhook_world(clock)
    return mlflow_world(clock, request.getfixturevalue("registry"), request.getfixturevalue("client"), name)


def storage_world(clock: Clock, tmp_path: Path) -> World:
    """A folder; a file lands in it."""
    folder = tmp_path / "landing"
    folder.mkdir()
    config = Folder(path=folder, complete="renamed", stable_for=timedelta(seconds=0.1), poll=timedelta(seconds=0.2))

    def land(_source: Source) -> None:
        number = len(list(folder.iterdir()))
        (folder / f".{number}").write_text(str(number))
        (folder / f".{number}").rename(folder / f"{number}.csv")

    return World("data.landed", lambda: StorageSource("landing", config, Path("/"), clock), land)


def mlflow_world(clock: Clock, registry: RegistryProcess, client: Any, name: str) -> World:
    """A registry; somebody registers a version."""
    client.create_registered_model(name)
    models = {"churn": Model(task="binary", registered=name)}

    def register(_source: Source) -> None:
        client.create_model_version(name, source="file:///nowhere")

    return World("model.registered", lambda: MlflowSource(registry, models, 0.2, clock), register)


def schedule_world(clock: Clock) -> World:
    """A clock; a minute passes."""
    schedule = Schedule(every=timedelta(minutes=1))
    return World(
        "schedule.due", lambda: ScheduleSource("minutely", schedule, clock), lambda _source: clock.move(minutes=1)
    )


def webhook_world(clock: Clock) -> World:
    """A listener; a sender sends until it is told that the event was taken, as senders of webhooks do."""
    config = WebhookConfig(port=0, hooks={"ci": Hook(secret=Secret(value="s3cret"))})
    sent: list[str] = []

    def send(source: Source) -> None:
        assert isinstance(source, WebhookSource)
        sent.append(f"event-{len(sent)}")
        body = orjson.dumps({"specversion": "1.0", "id": sent[-1], "source": "/ci", "type": "build.done"})
        stamp = str(int(clock().timestamp()))
        headers = {
            "content-type": "application/cloudevents+json",
            TIMESTAMP: stamp,
            SIGNATURE: sign(b"s3cret", stamp, [], body),
        }

        def taken() -> bool:
            answer = httpx.post(f"http://127.0.0.1:{source.port}/hooks/ci", content=body, headers=headers, timeout=20)
            assert answer.status_code in {202, 503}
            return answer.status_code == 202

        threading.Thread(target=lambda: eventually(lambda: source.port and taken(), 30)).start()

    return World("webhook.received", lambda: WebhookSource(config, clock), send, repeats=True)


def ready(source: Source, desk: Desk, world: World) -> bool:
    """Whether the source looks at its system by now."""
    if isinstance(source, WebhookSource):
        return source.port is not None
    return isinstance(source, StorageSource) or desk.cursor(world.cursor or source.name) is not None


def test_its_name_is_kind_and_name(world: World) -> None:
    """The name is the source of its events and the key of its cursor."""
    kind, _, name = world.make().name.partition(":")
    assert kind
    assert name


def test_what_happens_is_stored_in_order_and_once(world: World, desk: Desk) -> None:
    """Three things happen, three events are stored; nothing is told twice while the source looks on."""
    source = world.make()
    with running(source, desk):
        eventually(lambda: ready(source, desk, world))
        for count in (1, 2, 3):
            world.happen(source)
            eventually(lambda count=count: len(desk.events(world.kind)) == count)
        threading.Event().wait(0.5)  # a few looks more
    assert len(desk.events(world.kind)) == 3
    assert desk.events("problem.recorded") == []


def test_what_happened_while_the_daemon_was_down_is_stored_once(world: World, desk: Desk) -> None:
    """A restart begins where the store stands, not where memory did."""
    source = world.make()
    with running(source, desk):
        eventually(lambda: ready(source, desk, world))
        world.happen(source)
        eventually(lambda: len(desk.events(world.kind)) == 1)
    if not world.repeats:
        world.happen(source)
    desk.reopen()
    source = world.make()
    with running(source, desk):
        if world.repeats:
            world.happen(source)
        eventually(lambda: len(desk.events(world.kind)) == 2)
    with running(world.make(), desk):
        threading.Event().wait(0.5)
    assert len(desk.events(world.kind)) == 2


def test_nothing_is_lost_while_the_store_is_busy(world: World, desk: Desk) -> None:
    """The source waits, says so, and what happened meanwhile is stored once when the store can."""
    source = world.make()
    with running(source, desk):
        eventually(lambda: ready(source, desk, world))
        desk.patience = 0.3
        with desk.locked():
            world.happen(source)
            threading.Event().wait(1.5)
            assert desk.events(world.kind) == []
        eventually(lambda: len(desk.events(world.kind)) == 1, 40)
        threading.Event().wait(0.5)
    assert len(desk.events(world.kind)) == 1


def test_its_health_follows_the_clock_and_the_events(world: World, desk: Desk, clock: Clock) -> None:
    """`alive_at` moves without events, `event_at` with them."""
    source = world.make()
    with running(source, desk):
        eventually(lambda: ready(source, desk, world))
        clock.move(seconds=5)
        eventually(lambda: source.health().alive_at == clock())
        assert source.health().problem == ""
        world.happen(source)
        eventually(lambda: source.health().event_at == clock())
