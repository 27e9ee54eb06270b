"""Real models and a real gateway: MLflow models made once, a gateway process per test module or per test."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest

from daemon.config import Config, Fields, Model, PlatformConfig, Stream
from daemon.platformparts import GatewayConfig
from daemon.platforms.local_serving import LocalServing

T = TypeVar("T")

_MODELS = """
import sys, time, os
from pathlib import Path
import mlflow, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression

home = Path(sys.argv[1])

class Odd(mlflow.pyfunc.PythonModel):
    '''Does to each row what its column `do` says.'''

    def __init__(self, name):
        self.name = name

    def predict(self, context, model_input, params=None):
        answers = []
        for row in model_input.to_dict("records"):
            do = row.get("do", "")
            if do == self.name + ":fail":
                raise ValueError("this version fails on such rows")
            if do == self.name + ":crash":
                os.kill(os.getpid(), 11)
            if do == self.name + ":hang":
                time.sleep(60)
            if do == self.name + ":slow":
                time.sleep(1)
            answers.append({"said": self.name + "/" + str(row["x"]), "score": float(row["x"])})
        return pd.DataFrame(answers)

for name in ("one", "two"):
    mlflow.pyfunc.save_model(home / name, python_model=Odd(name), pip_requirements=[])
inputs = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})
fitted = LogisticRegression().fit(inputs, [0, 0, 1, 1])
mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
mlflow.create_experiment("tests", artifact_location=str(home / "artifacts"))
mlflow.set_experiment("tests")
with mlflow.start_run():
    mlflow.sklearn.log_model(
        fitted, name="model", registered_model_name="linear", pip_requirements=[],
        signature=mlflow.models.infer_signature(inputs, np.array([0, 1])),
    )
"""


@dataclass(frozen=True)
class Models:
    """Where the models lie that tests serve."""

    one: str
    """A pyfunc that does what the column `do` says, if it is addressed to `one`."""
    two: str
    registry: str
    """An MLflow database with version 1 of `linear` (scikit-learn, inputs a and b)."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The models, made once by a process of its own: MLflow stays out of the tests'."""
    home = tmp_path_factory.mktemp("models")
    program = home / "make.py"
    program.write_text(textwrap.dedent(_MODELS))
    made = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert made.returncode == 0, made.stderr
    return Models(str(home / "one"), str(home / "two"), f"sqlite:///{home}/mlflow.db")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(read: Callable[[], T], holds: Callable[[T], bool] = bool, seconds: float = 40.0) -> T:
    """Read until it holds; the last value read, so that the assertion of the test says what is wrong."""
    end = time.monotonic() + seconds
    while not holds(value := read()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


@dataclass
class Gateway:
    """A gateway, as tests use it."""

    home: Path
    serving: LocalServing
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False, verify=False))

    def deployed(self, target: str, **versions: str) -> None:
        """Load versions and wait until they are ready."""
        for version, uri in versions.items():
            self.serving.deploy(target, version, uri)
        ready = eventually(lambda: self.serving.traffic(target).ready, lambda ready: all(ready.values()), 100)
        assert ready == dict.fromkeys(ready, True), self.serving.traffic(target).problems

    def split(self, target: str, by: str = "test", **weights: float) -> None:
        """Shift traffic, from whatever epoch it has."""
        self.serving.shift(target, weights, self.serving.traffic(target).epoch, by)

    def post(self, target: str, rows: list[dict[str, Any]], **headers: str) -> httpx.Response:
        """Ask for predictions of records."""
        return self.raw(target, orjson.dumps({"dataframe_records": rows}), **headers)

    def raw(self, target: str, body: bytes, **headers: str) -> httpx.Response:
        """Ask with any body; header names with underscores for dashes."""
        named = {"content-type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.post(f"{self.serving.address}/targets/{target}/invocations", content=body, headers=named)

    def logged(self, target: str, rows: int) -> list[dict[str, Any]]:
        """The records of closed log files, once there are so many."""
        return eventually(lambda: read_log(self.home / "logs" / target), lambda found: len(found) >= rows)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of all closed log files in a folder, in the order of names."""
    files = sorted(folder.glob("*.jsonl"))
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def config_of(home: Path, registry: str = "sqlite://", port: int | None = None, *targets: str) -> Config:
    """A configuration with a short timeout, and a log folder `logs/TARGET` for each target."""
    fields = Fields(
        id="id", unit="customer", time="at", version="version", prediction="said", score="score", error="error",
        latency_ms="latency_ms", features={"x": "number"},
    )  # fmt: skip
    gateway = GatewayConfig(port=port or free_port(), segment=timedelta(seconds=0.2), timeout=timedelta(seconds=2))
    return Config(
        home=home,
        registry={"uri": registry},
        platform=PlatformConfig(gateway=gateway),
        streams={name: Stream(predictions=Path("logs") / name, fields=fields) for name in targets},
        models={name: Model(task="regression", registered="linear", stream=name) for name in targets},
    )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Gateway]:
    """One gateway for the tests of a module; each test has targets of its own."""
    home = tmp_path_factory.mktemp("gateway")
    targets = [f"t{number}" for number in range(12)]
    serving = LocalServing(config_of(home, models.registry, None, *targets))
    serving.ensure()
    used = Gateway(home, serving)
    yield used
    used.client.close()
    serving.stop()


@pytest.fixture
def own_gateway(tmp_path: Path, models: Models) -> Iterator[Gateway]:
    """A gateway that the test may kill."""
    serving = LocalServing(config_of(tmp_path, models.registry, None, "t"))
    serving.ensure()
    used = Gateway(tmp_path, serving)
    yield used
    used.client.close()
    serving.stop()
