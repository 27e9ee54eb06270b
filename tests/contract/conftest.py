"""The real writer over a real store, for sources to bring their events to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.registry import RegistryProcess
from tests.contract.desk import Clock, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon's store and writer in a folder of their own."""
    home = tmp_path / "home"
    home.mkdir()
    opened = Desk(home)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one MLflow database and its artifacts."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def registry(registry_home: Path) -> Iterator[RegistryProcess]:
    """The process over an MLflow database that does not exist before its first call."""
    process = RegistryProcess(f"sqlite:///{registry_home}/mlflow.db", str(registry_home / "artifacts"), timeout=40)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def client(registry_home: Path, registry: RegistryProcess) -> Any:
    """Somebody else's MLflow client of the same database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own imports warn
        import mlflow  # noqa: PLC0415 - takes seconds
        from mlflow import MlflowClient  # noqa: PLC0415
    registry.alias("nothing", "champion")  # the process has made the tables by now
    uri = f"sqlite:///{registry_home}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model's name of the test's own; nobody has made the model."""
    made: str = request.node.name[5:].replace("[", "-").replace("]", "")
    return made
