"""The manifests of deploy/driftd: rendered as an operator does, and taken by a real API server that enforces `restricted`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from daemon.cli import app
from tests.cluster import binaries, places
from tests.cluster.admin import Admin, Json

DEPLOY = places.ROOT / "deploy" / "driftd"
OVERLAYS = {"dev": "driftd-dev", "prod": "driftd"}
"""Overlay -> its namespace."""


def rendered(folder: str) -> list[Json]:
    """What `kubectl apply -k` would apply."""
    command = [str(binaries.find("kustomize")), "build", str(DEPLOY / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def files_of(documents: list[Json], folder: Path) -> Path:
    """The ConfigMaps as the Deployment mounts them; the config.yaml."""
    for name, place in (("driftd-config", ""), ("driftd-rules", "rules"), ("driftd-templates", "templates")):
        [found] = [one for one in documents if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith(name)]
        (folder / place).mkdir(exist_ok=True)
        for file, text in found["data"].items():
            (folder / place / file).write_text(text)
    return folder / "config.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("overlay", list(OVERLAYS))
def test_an_overlay_is_taken_and_its_pods_are_made(overlay: str, admin: Admin) -> None:
    """Every object, strictly; the pods of the Deployment pass Pod Security at its strictest."""
    namespace = OVERLAYS[overlay]
    documents = rendered(f"overlays/{overlay}")
    for document in sorted(documents, key=lambda one: one["kind"] != "Namespace"):
        admin.apply(document)

    [deployment] = [one for one in documents if one["kind"] == "Deployment"]
    wanted = deployment["spec"]["replicas"]
    pods = admin.wait(f"/api/v1/namespaces/{namespace}/pods", lambda told: len(told["items"]) >= wanted)["items"]
    assert wanted == {"dev": 1, "prod": 2}[overlay]
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"driftd"}
    for pod in pods:
        mounted = {one["name"] for one in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted - {one["name"] for one in pod["spec"]["volumes"]} == set()
    admin.delete(f"/api/v1/namespaces/{namespace}")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", list(OVERLAYS))
def test_what_an_overlay_configures_is_without_mistake(overlay: str, tmp_path: Path) -> None:
    """`driftd check` on the very files that are mounted."""
    path = files_of(rendered(f"overlays/{overlay}"), tmp_path)
    told = CliRunner().invoke(app, ["--config", str(path), "check"])

    assert told.exit_code == 0, told.output
    assert "2 rules" in told.output


@pytest.mark.slow
def test_the_access_is_what_the_rules_need(tmp_path: Path) -> None:
    """access/ is `driftd rbac` of what base/ configures, for the account of prod; the prod overlay needs the same."""
    path = files_of(rendered("overlays/prod"), tmp_path)
    printed = CliRunner().invoke(app, ["--config", str(path), "rbac"])
    assert printed.exit_code == 0, printed.output
    assert list(yaml.safe_load_all(printed.output)) == list(
        yaml.safe_load_all((DEPLOY / "access" / "access.yaml").read_text())
    )


def test_the_image_has_what_the_tests_run_on() -> None:
    """Every version and every digest of the image's lock is one of the lock that all tests run with; no tools are in it."""
    image = pinned(DEPLOY / "requirements.lock")
    tests = pinned(places.ROOT / "requirements.lock")

    assert {name: image[name] for name in image if image[name] != tests.get(name)} == {}
    assert "evidently" in {name.partition("==")[0] for name in image}
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & {name.partition("==")[0] for name in image}


def pinned(path: Path) -> dict[str, set[str]]:
    """`name==version` -> its digests."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in path.read_text().splitlines():
        if begun := re.match(r"([a-z0-9._-]+==[^ \\;]+)", line):
            name = begun[1]
        if digest := re.search(r"--hash=(sha256:[0-9a-f]{64})", line):
            found.setdefault(name, set()).add(digest[1])
    return found
