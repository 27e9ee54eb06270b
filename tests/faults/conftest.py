"""What the faults are made to: a scene with its undisturbed measures, and a registry to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scene import LOAN
from tests.crash.trials import Ground
from tests.faults.registry import register
from tests.faults.stage import Stage, stage


@pytest.fixture(scope="session")
def ground(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Where the undisturbed daemon has run."""
    return Ground(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with the champion of the scene's measured model."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    register(f"sqlite:///{path}", LOAN, alias="champion")
    return path


@pytest.fixture
def played(ground: Ground, registry: Path) -> Iterator[Stage]:
    """A scene; its daemon has not been started."""
    undisturbed = ground.reference()
    with stage(ground.scene, registry, undisturbed) as made:
        yield made
