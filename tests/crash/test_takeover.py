"""Two daemons on one PostgreSQL: the leader is stopped anywhere, the other takes over, the first wakes up: nothing happens twice."""

from __future__ import annotations

import pytest

from tests.crash.trials import Ground
from tests.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("crash")]


@pytest.fixture(scope="module")
def ground(data: object, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Where the trials take place; each scene has a database of its own."""
    return Ground(tmp_path_factory.mktemp("takeover"), database=postgres.fresh)


@pytest.mark.parametrize(
    "points",
    [
        ["command", "AFTER_HANDLER", "JOB_MADE", "JOB_STARTED"],
        ["BEFORE_COMMIT", "AFTER_COMMIT", "RECEIPTED", "AFTER_SETTLING"],
    ],
    ids=lambda points: points[0],
)
def test_a_leader_that_wakes_up_does_no_harm(ground: Ground, points: list[str]) -> None:
    """Stopped around jobs and commits: each job starts once, no event or decision is lost or made twice, the chain holds."""
    outcome = ground.taken_over(points, 1)
    assert (outcome.kills, outcome.wrong) == (len(points), [])


def test_a_leader_that_wakes_up_changes_no_traffic(ground: Ground) -> None:
    """Stopped between the claim of a call and its handler, for each verb that touches traffic or registry, and right after
    a change: the gateway and the registry end as the last leader says, and every run on the side that it tells.
    """
    points = ["canary", "promote", "SHIFTED", "REGISTRY_CHANGED", "rollback"]
    outcome = ground.taken_over(points, 1)
    assert (outcome.kills, outcome.wrong) == (len(points), [])
