"""config.yaml's part about KServe: what it may say, and every mistake in it with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import load_config
from daemon.core.errors import ConfigError
from daemon.platformparts import KubernetesPlatform
from daemon.servingparts import KserveServing

PLATFORM = """home: home
platform:
  kind: kubernetes
  namespace: models
  serving: {serving}
models:
  churn: {{task: binary, registered: churn}}
"""


def loaded(folder: Path, serving: str) -> KubernetesPlatform:
    """The platform of a config.yaml with this under `serving:`."""
    (folder / "config.yaml").write_text(PLATFORM.format(serving=serving))
    platform = load_config(folder / "config.yaml", {}).platform
    assert isinstance(platform, KubernetesPlatform)
    return platform


def test_kserve_serves_where_nothing_else_is_said(tmp_path: Path) -> None:
    """A cluster's models are KServe's; the local gateway serves them when it is named."""
    assert loaded(tmp_path, "gateway").serving == "gateway"
    route = "{gateway: shared, hostname: '{target}.example.com'}"
    serving = loaded(tmp_path, f"{{route: {route}, roots: {{'mlflow-artifacts:/': 's3://mlflow'}}}}").serving
    assert isinstance(serving, KserveServing)
    assert serving.roots == {"mlflow-artifacts:/": "s3://mlflow"}


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        ("{roots: {'mlflow-artifacts:/': /srv/models}}", "KServe cannot fetch"),
        ("{route: {gateway: shared, hostname: models.example.com}}", "needs {target}"),
        ("{namespace: Churn_Models}", "no namespace"),
        ("{first: {format: mlflow, protocol: grpc}}", "protocol"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, serving: str, told: str) -> None:
    """Before anything is served."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, serving)
    assert told in str(caught.value)
    assert "config.yaml:5:" in str(caught.value)
