"""A tenth of what `python -m tests.crash` does: every fault point twice, twenty kills at random moments."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from daemon.points import Point
from tests.crash.invariants import violations
from tests.crash.scene import LOAN, Scene
from tests.crash.trials import ON_TRAFFIC, Ground

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("crash")]

QUIET = [point for point in Point if point not in ON_TRAFFIC]
GROUPS = [QUIET[start : start + 5] for start in range(0, len(QUIET), 5)]


@pytest.fixture(scope="module")
def ground(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Where the trials take place."""
    return Ground(tmp_path_factory.mktemp("crash"))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("points", GROUPS, ids=lambda points: points[0].name)
def test_a_kill_at_a_fault_point_does_no_harm(ground: Ground, points: list[Point], seed: int) -> None:
    """Killed at each point in turn: nothing acked is lost, nothing happens twice, panes are those of an undisturbed run."""
    outcome = ground.at_points(points, seed)
    assert (outcome.kills, outcome.wrong) == (len(points), [])


def test_a_kill_after_a_change_of_traffic_or_registry_does_no_harm(ground: Ground) -> None:
    """Killed with the traffic split, tags written, the alias moved: every run ends with all traffic on the side it says."""
    points = [Point.SHIFTED, Point.REGISTRY_CHANGED] * 2
    assert set(points) == ON_TRAFFIC
    outcome = ground.at_points(points, 1)
    assert (outcome.kills, outcome.wrong) == (len(points), [])


@pytest.mark.parametrize("on_traffic", [False, True], ids=["files", "traffic"])
def test_a_kill_at_a_random_moment_does_no_harm(ground: Ground, on_traffic: bool) -> None:
    """The same at ten random moments, also before the daemon is up, and with its worker and registry killed as well."""
    outcome = ground.at_random(10, 1, on_traffic=on_traffic)
    assert (outcome.kills, outcome.wrong) == (10, [])


def spoiled(statement: str) -> Callable[[Scene], None]:
    """Change the store behind the daemon's back."""

    def spoil(scene: Scene) -> None:
        with closing(sqlite3.connect(scene.home / "store.db")) as connection:
            assert connection.execute(statement).rowcount > 0
            connection.commit()

    return spoil


def started_again(scene: Scene) -> None:
    """As if a job had run a second time."""
    path = scene.home / "started"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")


SPOILS: dict[str, tuple[Callable[[Scene], None], set[str]]] = {
    "an acked event is lost": (
        spoiled("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events WHERE type = 'webhook.received')"),
        {"acked"},
    ),
    "a file's event is lost": (
        spoiled("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events WHERE type = 'data.landed')"),
        {"landed"},
    ),
    "a decision is made twice": (
        spoiled(
            "INSERT INTO decisions SELECT seq + 1000000, event, rule, revision, key, verdict, admission, why, clauses, run "
            "FROM decisions WHERE seq = 5"
        ),
        {"decided", "replay"},
    ),
    "a decision is another": (spoiled("UPDATE decisions SET why = 'x' WHERE seq = 5"), {"replay"}),
    "a job starts twice": (started_again, {"jobs"}),
    "a run never ends": (spoiled("UPDATE runs SET state = 'running' WHERE live = 0"), {"runs"}),
    "a lock is left": (
        spoiled("INSERT INTO locks SELECT 'serving:loan', id, 0 FROM runs WHERE live = 0 LIMIT 1"),
        {"dangling"},
    ),
    "a pane is another": (
        spoiled(f"UPDATE states SET blob = x'00' WHERE stream = '{LOAN}' AND key = 'head'"),
        {"panes"},
    ),
    "an audit record is edited": (
        spoiled("UPDATE audit SET body = replace(body, '\"step\":0', '\"step\":1') WHERE kind = 'call'"),
        {"audit"},
    ),
    "the audit's tail is cut": (
        spoiled("DELETE FROM audit WHERE seq >= (SELECT max(seq) FROM audit WHERE kind = 'run')"),
        {"audit"},
    ),
}


def test_whatever_is_spoiled_is_seen(ground: Ground, tmp_path: Path) -> None:
    """The checks are worth something: each kind of harm, done to a good scene on purpose, is found and named."""
    scene, senders, undisturbed = ground.undisturbed_by_kills(3)
    whole = tmp_path / "whole"
    shutil.copytree(scene.home, whole, ignore=shutil.ignore_patterns("*.sock"))
    found: dict[str, set[str]] = {}
    for name, (spoil, _) in SPOILS.items():
        spoil(scene)
        found[name] = {wrong.partition(":")[0] for wrong in violations(scene, senders, undisturbed)}
        shutil.rmtree(scene.home)
        shutil.copytree(whole, scene.home)
    assert {name: seen for name, (_, seen) in SPOILS.items()} == {
        name: seen & SPOILS[name][1] for name, seen in found.items()
    }
