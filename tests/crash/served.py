"""The served model of a scene: versions that are registered one after the other, and requests all the time.

The models are real MLflow models behind the real gateway: good ones, bad ones that raise at every other request, and ones
that fail altogether once they are champion. What a client sees is kept: a request may only fail when a version that is not
good was asked.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import orjson

from daemon.platforms.local_serving import LocalServing
from daemon.store.rows import run_of
from tests.crash.invariants import Store
from tests.crash.processes import Life, pause
from tests.crash.scene import SERVED, Scene

_CODE = """
import os
import mlflow
import pandas as pd

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        turned = KIND == "turning" and os.path.exists(TURNED)
        if turned or (KIND == "bad" and int(model_input["a"].iloc[0]) // 6 % 2):
            raise ValueError("this version is bad")
        return pd.DataFrame({"y": [1] * len(model_input), "p": [0.5] * len(model_input)})

mlflow.models.set_model(Model())
"""
_SAVE = """
import sys, mlflow
for name in ("good", "bad", "turning"):
    mlflow.pyfunc.save_model(f"{sys.argv[1]}/{name}", python_model=f"{sys.argv[1]}/{name}.py", pip_requirements=["mlflow"])
"""
REQUEST_ROWS = 6
"""As the models' code knows: every other request fails, whichever of its rows a version gets."""
REQUEST_PAUSE = 0.08
AHEAD = 2
"""Versions that may be registered and not yet decided on."""


@dataclass
class Served:
    """Everything around the served model; its requests come from a thread."""

    scene: Scene
    shelf: Path
    """Folder in which the models lie, made once."""
    versions: dict[str, str] = field(default_factory=lambda: {"1": "good"})
    """Every registered version, and what it is."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failed requests by what the client saw and which versions were asked."""
    ends: Counter[str] = field(default_factory=Counter)
    """What became of the versions, counted by `violations`."""
    answered: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _looked: float = 0.0
    _serving: LocalServing = field(init=False)

    def __post_init__(self) -> None:
        """Its side of the gateway."""
        self._serving = LocalServing(self.scene.config)

    def start(self) -> None:
        """Version 1 has all the traffic, and requests come."""
        models = saved_models(self.shelf)
        self.scene.registry.register(SERVED, "1", str(models / "good"))
        self._serving.ensure(60)
        self._serving.deploy(SERVED, "1", str(models / "good"))
        limit = time.monotonic() + 240
        while not (traffic := self._serving.traffic(SERVED)).ready.get("1"):
            assert time.monotonic() < limit, f"version 1 does not load: {traffic.problems}"
            pause(0.1)
        self._serving.shift(SERVED, {"1": 100}, traffic.epoch, "setup/1")
        self._thread = threading.Thread(target=self._ask, name="clients")
        self._thread.start()

    def stop(self) -> None:
        """No more requests."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(30)

    def close(self) -> None:
        """End the gateway."""
        self._serving.stop()

    def act(self, random: Random) -> None:
        """Somebody registers a version, when there is not too much to decide on; never three in a row that are not good,
        which would open the breaker.
        """
        self._turn()
        if time.monotonic() - self._looked < 0.5:
            return
        self._looked = time.monotonic()
        store = Store(self.scene)
        ended = store.one("SELECT count(*) FROM runs WHERE rule = 'try' AND live = 0") or 0
        watched = store.one("SELECT count(*) FROM cursors WHERE source LIKE 'registry:%'") or 0
        if not watched or len(self.versions) - 1 - ended >= AHEAD:
            return
        unlucky = "good" not in list(self.versions.values())[-2:]
        what = "good" if unlucky else random.choice(["good", "bad", "turning"])
        number = str(len(self.versions) + 1)
        self.versions[number] = what
        self.scene.registry.register(SERVED, number, str(saved_models(self.shelf) / what))

    def _turn(self) -> None:
        """A version that turns bad does so when it is champion, and until it is no more."""
        turned = _turned(self.shelf)
        if self.versions.get(self.scene.registry.alias(SERVED, "champion")) == "turning":
            turned.touch()
        else:
            turned.unlink(missing_ok=True)

    def undecided(self) -> list[str]:
        """Versions whose run has not ended, or not begun."""
        store = Store(self.scene)
        ended = store.one("SELECT count(*) FROM runs WHERE rule = 'try' AND live = 0") or 0
        left = len(self.versions) - 1 - ended
        return [f"{left} versions are not decided on"] if left else []

    def check(self, life: Life) -> None:
        """Wait until every version is decided on."""
        limit = time.monotonic() + 240
        while left := self.undecided():
            assert life.status is None, f"the daemon ended by itself with {life.status}"
            assert time.monotonic() < limit, f"not settled: {left[0]}"
            self._turn()
            pause(0.1)

    def violations(self) -> Iterator[str]:
        """Traffic is on one side, the alias on the same, and that is where the runs ended; nobody's request failed."""
        runs = [
            run_of(row)
            for row in Store(self.scene).rows("SELECT doc FROM runs WHERE rule = 'try' ORDER BY created, id")
        ]
        champion = "1"
        for run in sorted(runs, key=lambda run: run.moves[-1].at):
            version, state = str(run.given.get("version")), run.state.value
            what = self.versions[version]
            self.ends[f"{what} versions {state}"] += 1
            expected = {"good": {"promoted"}, "bad": {"rolled back"}}.get(what, {"promoted", "rolled back"})
            # One that turns bad may do so too late for its soak: then it stays, and one that fails half of the time is better.
            if self.versions[champion] == "turning":
                expected = {"promoted", "rolled back"} if what == "bad" else expected
            if state == "promoted":
                champion = version
            if state not in expected:
                yield f"traffic: the run of the {what} version {version} ended {state}: {run.why}"
        tried = sorted((str(run.given.get("version")) for run in runs), key=int)
        if tried != [version for version in self.versions if version != "1"]:
            yield f"traffic: versions {list(self.versions)} were registered, {tried} were tried"
        traffic = self._serving.traffic(SERVED)
        if traffic.weights != {champion: 100.0}:
            yield f"traffic: it is {dict(traffic.weights)}, last by {traffic.by}; the runs promoted version {champion}"
        alias = self.scene.registry.alias(SERVED, "champion")
        if alias != champion:
            yield f"traffic: the champion is version {alias}; the runs promoted version {champion}"
        for why, count in self.failed.items():
            yield f"traffic: {count} requests failed: {why}"
        if not self.answered:
            yield "traffic: no request was answered"

    def _ask(self) -> None:
        """Requests, one after the other, until it is over."""
        numbers = itertools.count()
        with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
            while not self._over.wait(REQUEST_PAUSE):
                rows = [{"id": f"r{number}", "a": number} for number in itertools.islice(numbers, REQUEST_ROWS)]
                try:
                    answer = client.post(
                        f"{self._serving.address}/targets/{SERVED}/invocations",
                        content=orjson.dumps({"dataframe_records": rows}),
                        headers={"content-type": "application/json"},
                    )
                except httpx.HTTPError as error:
                    self.failed[f"no answer: {error!r}"] += 1
                    continue
                asked = answer.headers.get("x-driftd-version", "").split(",")
                if answer.status_code == 200:
                    self.answered += 1
                elif not any(self.versions.get(version.strip()) in {"bad", "turning"} for version in asked):
                    self.failed[f"{answer.status_code} by {','.join(asked)}: {answer.text[:200]}"] += 1


def saved_models(shelf: Path) -> Path:
    """The folder of the models `good`, `bad` and `turning`; they are made the first time, by a process of its own."""
    folder = shelf / "models"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("good", "bad", "turning"):
            (folder / f"{name}.py").write_text(f"KIND = {name!r}\nTURNED = {str(_turned(shelf))!r}\n{_CODE}")
        quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        made = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _SAVE, str(folder)],
            env=quiet, cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (folder / "done").touch()
    return folder


def _turned(shelf: Path) -> Path:
    """The file that, by being there, makes a version bad that can turn."""
    return shelf / "turned"
