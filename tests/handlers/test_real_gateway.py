"""Promotion and rollback over the real gateway and a real MLflow, with requests that are really answered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.clients.registry import RegistryProcess
from daemon.core.calls import Call, Done, Failed, Inconclusive, Outcome
from daemon.core.runs import UNDO_STEP
from daemon.platforms.local_serving import LocalServing
from handlers import promote, rollback

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REGISTER = """
import sys, mlflow
uri, artifacts, code = sys.argv[1:]
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient()
experiment = client.create_experiment("x", artifact_location=artifacts)
client.create_registered_model("car-loan")
with mlflow.start_run(experiment_id=experiment):
    for version in ("1", "2"):
        info = mlflow.pyfunc.log_model(name="m" + version, python_model=code, pip_requirements=["mlflow"])
        client.create_model_version("car-loan", source=info.model_uri)
"""
MODEL = """
import mlflow, pandas as pd
class One(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"y": [1] * len(model_input)})
mlflow.models.set_model(One())
"""


@pytest.fixture
def lab(world: Any, tmp_path: Path) -> Iterator[Any]:
    """The world with a gateway and a registry of its own, two versions registered, none served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    raw = world.config.model_dump()
    raw["platform"]["gateway"]["port"] = port
    raw["platform"]["gateway"]["segment"] = timedelta(seconds=0.2)
    world.config = type(world.config).model_validate(raw)
    (tmp_path / "one.py").write_text(MODEL)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = [uri, (tmp_path / "artifacts").as_uri(), str(tmp_path / "one.py")]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", REGISTER, *arguments], check=True, env=quiet, capture_output=True)
    world.real_registry = RegistryProcess(uri, str(tmp_path / "artifacts"), timeout=60)
    world.real_serving = LocalServing(world.config)
    world.real_serving.ensure()
    world.now = datetime.now(UTC)
    yield world
    world.real_serving.stop()
    world.real_registry.stop()


def to_the_end(
    run: Callable[[Call, Any], Outcome], one: Call, lab: Any, each: Callable[[], None] = lambda: None
) -> Outcome:
    """Poll a call as the dispatcher does, on the wall clock."""
    for _ in range(600):
        lab.now = datetime.now(UTC)
        outcome = run(one, lab)
        if isinstance(outcome, Done | Failed | Inconclusive):
            return outcome
        one = replace(one, state=dict(outcome.state))
        each()
        threading.Event().wait(0.2)
    raise AssertionError(f"no end: {outcome}")


def test_a_promotion_is_undone_and_proven_by_real_requests(lab: Any, call: Any) -> None:
    """Version 2 takes over from version 1; its undo brings version 1 back, and the answered requests show it."""
    soon = datetime.now(UTC) + timedelta(minutes=4)
    first = call("promote", {}, {"version": "1"}, id="a", run="run0", deadline=soon)
    assert isinstance(to_the_end(promote.run, first, lab), Done)
    outcome = to_the_end(promote.run, call("promote", {}, {"version": "2"}, deadline=soon), lab)
    assert isinstance(outcome, Done), outcome
    assert lab.serving.traffic("car-loan").weights == {"2": 100.0}
    versions = set()

    def ask() -> None:
        for _ in range(20):
            answer = httpx.post(
                f"{lab.serving.address}/targets/car-loan/invocations",
                json={"dataframe_records": [{"a": 1.0}]},
                timeout=20,
            )
            assert answer.status_code == 200
        versions.update(lab.serving.served("car-loan", datetime(2020, 1, 1, tzinfo=UTC).isoformat()).requests)

    ask()
    undo = call("rollback", {"settle": "1s"}, {"version": "2"}, id="u", step=UNDO_STEP, deadline=soon)
    outcome = to_the_end(rollback.run, undo, lab, ask)

    assert isinstance(outcome, Done), outcome
    assert outcome.outputs["verified"] == "proven"
    assert lab.registry.alias("car-loan", "champion") == "1"
    traffic = lab.serving.traffic("car-loan")
    assert traffic.weights == {"1": 100.0}
    assert "2" not in traffic.ready
    assert versions == {"1", "2"}
