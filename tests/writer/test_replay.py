"""Replaying the stored events reproduces every stored decision, bit by bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.core.calls import Done, Failed, Inconclusive, Working
from daemon.core.rules import Mode, OnUnknown, RuleSet, WhenBusy
from daemon.replay import replay
from daemon.store.sqlite import SqliteStore
from tests.builders import count, landed, lasting, limit, measured, rule, rules, said, step, windows
from tests.writer.conftest import World

FIRST = rules(
    rule("plain"),
    rule("windows", hold=windows(2, 3), clear="event.worst_effect < 1.0", cooldown=50),
    rule("lasts", hold=lasting(20), repeat=30, when_busy=WhenBusy.QUEUE),
    rule("notices", when=("event.drifted_share > 0.5",), on_unknown=OnUnknown.NOTIFY, on_failure=(step("notify"),)),
    rule("observes", mode=Mode.OBSERVE, limit=limit(2, 100)),
    rule("counts", on="data.landed", when=(), count=count(3, 60), steps=(step("serve"), step("promote"))),
    rule("silence", on="data.landed", when=(), subject="landing", absent=40, steps=(step("notify"),)),
    rule("replaces", on="data.landed", when=("event.bytes > 15",), when_busy=WhenBusy.REPLACE),
    rule("ends", on="run.finished", when=(), cooldown=30, model="cars"),
    rule("invalid", on="data.landed", when=(), steps=(step("train", level="x"),)),
)
SECOND = rules(*FIRST.rules[1:], rule("windows2", hold=windows(2)))
THIRD = RuleSet(tuple(replace(one, cooldown=one.cooldown * 2, text=one.text + "!") for one in FIRST.rules))
REVISIONS = {one.revision: one for one in (FIRST, SECOND, THIRD)}


def lived(folder: Path, seed: int) -> World:
    """A world after a random life: events good and bad, firings refused and not, reloads, restarts, pauses, late answers."""
    chance = random.Random(seed)
    world = World(folder, {"breaker": {"failures": 3, "reset": "1m"}, "budgets": {"train": {"per_day": 9}}})
    world.open(FIRST)
    for number in range(1, 80):
        if chance.random() < 0.5:
            world.later(chance.choice([1, 5, 20, 45]))
        what = chance.random()
        if what < 0.45:
            drifted = chance.choice([0, 1, 1, 2, None])
            chain = ("x",) * chance.choice([0, 0, 0, 1, 9])
            shown = {
                "worst_effect": chance.choice([0.5, 2.0, float("nan")]),
                "drifted_share": chance.choice([0.9, None]),
            }
            world.submit(measured(number - chance.choice([0, 0, 0, 5]), drifted, chain=chain, **shown))
        elif what < 0.8:
            world.submit(landed(number, bytes=chance.choice([10, 20])), landed(number + 1000, "elsewhere"))
        elif what < 0.84:
            world.submit(replace(measured(number, 1), data={"monitor": "m", "drifted_columns": "x"}))
        elif what < 0.9:
            world.submit(said(chance.choice(["pause", "resume", "resume"]), number=number))
        elif what < 0.95:
            world.writer.load(chance.choice(list(REVISIONS.values())), {})
        elif what < 0.97:
            world.restart(chance.choice(list(REVISIONS.values())))
        while not world.calls.empty():
            outcome = chance.choice([Done(), Done(), Failed("x"), Inconclusive("x"), Working(3), Working(500)])
            world.settle(world.call(), outcome)
    return world


@pytest.mark.parametrize("seed", range(4))
def test_every_stored_decision_is_reproduced(tmp_path: Path, seed: int) -> None:
    """Events in their order, the rule sets by revision and the stored admissions give every verdict, reason and memory again."""
    world = lived(tmp_path, seed)
    try:
        assert replay(world.store, REVISIONS) == ()
        verdicts = {decision.verdict for decision in world.decisions()}
        assert {"fired", "held", "unknown", "observed"} <= verdicts
        assert [one for one in world.decisions() if one.verdict == "fired" and not one.run]
    finally:
        world.close()


def test_another_rule_set_gives_other_decisions(world: World) -> None:
    """A replay that decides differently says where, and what."""
    world.open(FIRST)
    world.submit(measured(1, 1))
    changed = rules(rule("plain", when=("event.drifted_columns >= 2",)), *FIRST.rules[1:])
    found = replay(world.store, {FIRST.revision: changed})
    assert ("plain", "verdict", "fired", "not met") in {
        (one.rule, one.what, str(one.stored), str(one.replayed)) for one in found if one.event == 2
    }
    assert ("plain", "memory") in {(one.rule, one.what) for one in found if one.event == 0}


def test_a_changed_decision_is_found(world: World) -> None:
    """Editing a stored decision, or the memory, shows."""
    world.open(FIRST)
    world.submit(measured(1, 1), measured(2, 1))
    with world.store._writer as connection:
        connection.execute("UPDATE decisions SET why = 'because' WHERE seq = 2")
        connection.execute("UPDATE memory SET state = '{}' WHERE rule = 'windows'")
    assert {(2, "why"), (0, "memory")} == {(one.event, one.what) for one in replay(world.store, REVISIONS)}


def test_a_missing_rule_set_ends_the_replay(world: World) -> None:
    """Without the rules of the time there is nothing to say."""
    world.open(FIRST)
    (found,) = replay(world.store, {})
    assert ("rules", FIRST.revision) == (found.what, found.stored)


def test_an_empty_store_replays(tmp_path: Path) -> None:
    """Nothing happened, nothing differs."""
    store = SqliteStore(tmp_path / "store.db")
    assert replay(store, {}) == ()
    store.close()
