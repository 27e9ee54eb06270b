"""Canary, promotion and soak one after the other, with crashes, outages and a version that may go bad at any time."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest

from daemon.core.calls import Done
from daemon.core.runs import UNDO_STEP
from handlers import canary, promote, rollback, soak

STEPS = (
    ("canary", canary.run, {"steps": [10, 50], "each": "3m", "look": "1m", "guards": ["error_rate"], "soak": "30m"}),
    ("promote", promote.run, {}),
    ("soak", soak.run, {"duration": "30m"}),
)


@pytest.mark.parametrize("seed", range(40))
def test_a_run_ends_on_one_side_whole(world: Any, call: Any, make_block: Any, seed: int) -> None:
    """Whatever dies, is away or goes bad: in the end traffic and alias are both on the new version, or both on the old."""
    random = Random(seed)
    turns_bad = random.choice([None, random.randint(1, 60)])
    minutes = iter(range(1, 10_000))

    def minute() -> None:
        bad = turns_bad is not None and next(minutes) >= turns_bad
        shares = {version: round(4 * share) for version, share in world.split.weights.items()}
        arms = {
            f"v{version}": make_block(units, failed=units // 4 if bad and version == "2" else 0)
            for version, units in shares.items()
        }
        world.measured(**arms)
        world.served_by = dict(shares)
        world.away = {random.choice(["serving", "registry"])} if random.random() < 0.1 else set()
        if random.random() < 0.3:
            world.crash_after = random.randint(0, 3)

    minute()
    given: dict[str, Any] = {"version": "2"}
    good = True
    for number, (verb, run, inputs) in enumerate(STEPS):
        one = call(verb, inputs, given, step=number, deadline=world.now + timedelta(hours=4))
        outcome = world.drive(run, one, minute)
        good = isinstance(outcome, Done)
        if not good:
            break
        given |= outcome.outputs
    if not good:
        undo = call("rollback", {}, given, step=UNDO_STEP, deadline=world.now + timedelta(hours=1))
        outcome = world.drive(rollback.run, undo, minute)
        assert isinstance(outcome, Done), outcome
        assert outcome.outputs["verified"] in {"proven", "unverified"}

    side = "2" if good else "1"
    assert (world.split.weights, world.aliases) == ({side: 100.0}, {"champion": side})
    shifts = [change for change in world.changes if change.startswith("shift")]
    assert len(shifts) == len(set(shifts))
    assert turns_bad is not None or good
