"""The scene of a crash trial with the daemon as it ships in it, for what is worse than a kill: everything that talks to it
goes on while the fault lasts, and afterwards nothing that was acked may be missing and nothing may have happened twice.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import yaml

from daemon.control import ask
from tests.crash.invariants import Measures, Store, unsettled, violations
from tests.crash.scene import Scene, lay_out
from tests.crash.senders import Senders, post
from tests.crash.trials import ended
from tests.e2e.home import Home, home
from tests.postgres import Database


@dataclass
class Stage:
    """One scene, its senders and its daemon."""

    scene: Scene
    here: Home
    senders: Senders
    undisturbed: Measures
    """What an undisturbed daemon measures of the scene's stream."""

    # -- what goes on

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Somebody tells the daemon something all the time: webhook clients, operators, rule authors."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.05):
                self.senders.act()

        thread = threading.Thread(target=send, name="senders")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(60)
            assert not thread.is_alive()

    def knock(self) -> httpx.Response:
        """What a webhook's sender hears now; whatever it hears, its event is of no consequence."""
        told = {"specversion": "1.0", "id": uuid4().hex, "source": "faults", "type": "low", "data": {}}
        with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
            return post(client, self.scene, orjson.dumps([told]))

    def hold_back(self, path: Path) -> Callable[[], Path]:
        """Hide a file that lies in a watched folder; what is returned moves it in, which needs no room on the disk."""
        hidden = path.with_name(f".{path.name}")
        path.rename(hidden)
        return lambda: hidden.rename(path)

    # -- what can be seen

    @property
    def store(self) -> Store:
        """The store, from outside."""
        return Store(self.scene)

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        status: dict[str, Any] = ask(self.scene.home, {"op": "status"}, 10)["status"]
        return status

    def probe(self, path: str) -> httpx.Response:
        """What the daemon answers to a probe or to Prometheus."""
        return httpx.get(self.status()["web"]["address"] + path, timeout=20, trust_env=False)

    def progress(self) -> int:
        """How far the stream is measured."""
        return int(self.store.one("SELECT max(position) FROM progress") or 0)

    def quiet(self) -> None:
        """Wait until nothing is under way."""
        self.here.wait("everything to settle", lambda: not self._left(), 90)

    def _left(self) -> list[str]:
        self.senders.retry()
        return unsettled(self.scene, self.senders)

    def settled(self) -> None:
        """All comes to its end, the daemon ends in order, and what it leaves is as if nothing had been."""
        self.quiet()
        status = self.here.end("daemon")
        assert status == 0, f"it ended with {status}"
        wrong = violations(self.scene, self.senders, self.undisturbed)
        assert not wrong, "\n".join(wrong)


@contextmanager
def stage(folder: Path, registry: Path, undisturbed: Measures, database: Database | None = None) -> Iterator[Stage]:
    """A scene in `folder`, whose path is that of the undisturbed run; `registry` is an MLflow database to start from.

    All files of its stream have landed. The daemon has not been started.
    """
    shutil.rmtree(folder, ignore_errors=True)
    scene = lay_out(folder, database)
    shutil.copy(registry, folder / "mlflow.db")
    config = yaml.safe_load(scene.config_path.read_text())
    config["registry"] |= {"uri": f"sqlite:///{folder}/mlflow.db", "artifacts": str(folder / "artifacts")}
    scene.config_path.write_text(yaml.safe_dump(config))
    senders = Senders(scene, random.Random(folder.name))
    try:
        with home(folder, scene.home.name) as here:
            yield Stage(scene, here, senders, undisturbed)
    finally:
        senders.close()
        left = ended(scene)
    assert left == []
