"""A daemon that waits for the lead: what it says meanwhile, and when it leads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.config import Config, load_config
from daemon.core.errors import StoreBusy, Unavailable
from daemon.following import Following
from daemon.store.base import Store
from daemon.storing import open_reader, open_store
from tests.crash.scene import free_ports
from tests.monitors.lab import wait_for
from tests.postgres import Database, Postgres


@pytest.fixture
def database() -> Iterator[Database]:
    """Of a server that the test may kill."""
    with Postgres() as server:
        yield server.fresh()


def config_of(folder: Path, store: dict[str, Any]) -> Config:
    """Of one of two daemons."""
    folder.mkdir(exist_ok=True)
    port = free_ports(1)[0]
    text = {"home": "home", "store": store, "web": {"port": port}, "registry": {"timeout": "1s"}}
    (folder / "config.yaml").write_text(str(text))  # JSON with other quotes, which YAML is
    return load_config(folder / "config.yaml", {})


class Waiting:
    """A daemon that waits, in a thread."""

    def __init__(self, config: Config) -> None:
        self.stop = threading.Event()
        self.led: list[Store | None] = []
        self._address = f"http://127.0.0.1:{config.web.port if config.web else 0}"
        self._thread = threading.Thread(target=lambda: self.led.append(Following(config).lead(self.stop)))
        self._thread.start()

    def get(self, path: str) -> httpx.Response | None:
        """What it answers; None while it does not."""
        try:
            return httpx.get(f"{self._address}{path}", trust_env=False)
        except httpx.TransportError:
            return None

    def end(self) -> Store | None:
        """What it has come to."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.led[0]


def test_a_follower_says_so_and_leads_when_the_leader_leaves(tmp_path: Path, database: Database) -> None:
    """Its probes are content, name the leader's epoch, and figures say that it does not lead."""
    config = config_of(tmp_path, database.config(tmp_path, "30s"))
    leader = open_store(config)
    epoch = leader.lead()
    waiting = Waiting(config)
    ready = wait_for(lambda: (found := waiting.get("/readyz")) and found.json()["ready"] and found).json()
    assert (ready["role"], ready["reasons"]) == ("follower", [])
    assert f"epoch {epoch}" in ready["waits_for"]
    health, figures = waiting.get("/healthz"), waiting.get("/metrics")
    assert health is not None and health.json() == {"alive": True, "why": ""}  # noqa: PT018
    assert figures is not None and "driftd_leads 0.0" in figures.text  # noqa: PT018
    leader.close()
    store = waiting.end()
    assert store is not None
    with store.transaction(epoch + 1) as session:
        session.run("set_meta", "a", "1")
    assert waiting.get("/healthz") is None
    reader = open_reader(config)
    with reader.read() as view:
        assert view.rows("meta", "a") == [("1",)]
    reader.close()
    store.close()


def test_a_follower_is_told_to_stop(tmp_path: Path, database: Database) -> None:
    """It ends without having led."""
    config = config_of(tmp_path, database.config(tmp_path, "30s"))
    leader = open_store(config)
    leader.lead()
    waiting = Waiting(config)
    wait_for(lambda: waiting.get("/readyz"))
    waiting.stop.set()
    assert waiting.end() is None
    leader.close()


def test_a_follower_waits_for_its_database(tmp_path: Path, database: Database) -> None:
    """While the server is away it lives and is not ready; when it is there the daemon leads."""
    config = config_of(tmp_path, database.config(tmp_path, "30s"))
    database.server.kill()
    waiting = Waiting(config)
    found = wait_for(lambda: waiting.get("/readyz"))
    assert (found.status_code, "cannot be reached" in found.text) == (503, True)
    assert database.server.password not in found.text
    database.server.start()
    store = waiting.end()
    assert store is not None
    assert store.lease_s > 0
    store.close()


def test_a_file_that_another_leads_is_refused(tmp_path: Path) -> None:
    """Nobody waits for a file: both daemons were started by hand."""
    config = config_of(tmp_path, {"kind": "sqlite"})
    leader = Following(config).lead(threading.Event())
    assert leader is not None
    leader.lead()
    other = Following(config).lead(threading.Event())
    assert other is not None
    with pytest.raises(StoreBusy, match="another driftd leads"):
        other.lead()
    other.close()
    leader.close()


def test_no_service_is_used_when_another_may_lead(tmp_path: Path, database: Database) -> None:
    """Before each use the lease must hold, before one of the registry for as long as the call may take."""
    from daemon.context import LiveContext, Services  # noqa: PLC0415

    config = config_of(tmp_path, database.config(tmp_path, "3s"))
    store = open_store(config)
    anything: Any = object()
    context = LiveContext(Services(config, anything, anything, anything, store, {}, anything), "run")
    with pytest.raises(Unavailable, match="another may lead"):
        _ = context.jobs
    store.lead()
    assert context.jobs is context.serving is context.registry is anything
    late = config.registry.model_copy(update={"timeout": config.store.lease})
    slow = LiveContext(
        Services(config.model_copy(update={"registry": late}), anything, anything, anything, store, {}, anything), "run"
    )
    assert slow.jobs is anything
    with pytest.raises(Unavailable, match="nothing was called"):
        _ = slow.registry
    store.close()
    with pytest.raises(Unavailable):
        _ = context.serving
