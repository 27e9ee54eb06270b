"""Storms and freezes in the life of runs: what is held is kept, told once, and let go or discarded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daemon.core.calls import Done
from daemon.core.events import Event
from daemon.core.rules import Mode, RuleSet, WhenBusy
from daemon.core.runs import Run, State
from daemon.replay import replay
from daemon.running import HELD, QUEUE, QUEUE_LOOK
from daemon.storms import GUARD
from tests.builders import at, landed, measured, rule, rules, said, step
from tests.writer.conftest import World

TELL = (step("notify", to="ops"),)
STORM = {"storm": {"firings": 2, "within": "10m", "notify": "ops"}, "channels": {"ops": {"kind": "log"}}}
FREEZE = {"freeze": {"fair": {"from": "2026-01-05", "until": "2026-01-05T14:00"}}}
"""On when the tests begin (12:00), for two hours."""


def many(number: int, *steps: Any, **how: Any) -> RuleSet:
    """So many rules without a model (no target is ever busy) that one file makes fire."""
    made = [
        rule(f"r{n}", on="data.landed", when=(), model="", steps=steps or (step("train"),), on_failure=TELL, **how)
        for n in range(number)
    ]
    return rules(*made)


def one(**how: Any) -> RuleSet:
    """One rule about a model."""
    return rules(rule(on="data.landed", when=(), **how))


def held(world: World) -> list[Run]:
    """The runs that are held."""
    return [run for run in world.runs() if run.held and not run.ended]


def override(event: Event, why: str) -> Event:
    """The same word, with the freeze overridden."""
    return replace(event, data={**event.data, "override_freeze": why})


def test_a_storm_holds_all_further_firings_and_tells_once(world: World) -> None:
    """Of fifty rules that one bad table makes fire two start; the others are stored, held, and one message is sent."""
    world.config = STORM
    world.open(many(50), workers=60)
    world.submit(landed(1))
    assert len(held(world)) == 48
    assert sorted(run.state.value for run in world.runs() if not run.held) == ["running", "running", "succeeded"]
    world.submit(landed(2))
    assert len(held(world)) == 98
    told = [run for run in world.runs() if run.rule == GUARD]
    assert len(told) == 1
    calls = [world.call().call for _ in range(3)]
    assert sorted(call.verb for call in calls) == ["notify", "train", "train"]
    (message,) = (call.inputs["text"] for call in calls if call.verb == "notify")
    assert "2 firings within 10m, 2 are allowed" in message
    assert world.calls.empty()
    assert [one.recorded.event.type for one in world.events()].count("storm.began") == 1


def test_the_decision_says_that_its_run_is_held(world: World) -> None:
    """The reason is in the decision, in the run and in the audit, and the rule counts as having fired."""
    world.config = STORM
    world.open(many(3))
    world.submit(landed(1))
    decision = world.decisions()[-1]
    assert decision.admission == "held: a storm: 2 firings within 10m, 2 are allowed"
    assert decision.run == held(world)[0].id
    assert held(world)[0].why == decision.admission.removeprefix("held: ")
    assert replay(world.store, {many(3).revision: many(3)}) == ()


def test_rollbacks_go_on_in_a_storm(world: World) -> None:
    """A rule that rolls back starts at once, also when everything else is held."""
    world.config = STORM
    back = rule("back", on="data.landed", when=("event.bytes > 15",), steps=(step("rollback"),))
    world.open(rules(*many(4).rules, back), workers=9)
    world.submit(landed(1))
    world.submit(landed(2, bytes=20))
    assert State.UNDOING is next(run.state for run in world.runs() if run.rule == "back")


def test_a_person_lets_one_run_go(world: World) -> None:
    """`approve` of a held run starts it; the others stay held."""
    world.config = STORM
    world.open(many(4), workers=9)
    world.submit(landed(1))
    first, second = held(world)
    world.submit(said("approve", first.id))
    assert (world.run(first.id).state, world.run(first.id).why) == (State.RUNNING, "approved by ann: because")
    assert [run.id for run in held(world)] == [second.id]


def test_a_person_lets_all_of_a_storm_go_and_it_is_over(world: World) -> None:
    """`approve --held storm` starts them as targets and budgets allow, and firings count anew."""
    world.config = {**STORM, "budgets": {"train": {"concurrent": 3}}}
    world.open(many(5), workers=9)
    world.submit(landed(1))
    world.submit(said("approve", "held:storm"))
    assert held(world) == []
    states = [run.state for run in world.runs() if run.rule != GUARD]
    assert sorted(state.value for state in states) == ["pending", "pending", "running", "running", "running"]
    for _ in range(6):
        world.settle(world.call(), Done())
    assert {run.state for run in world.runs()} == {State.SUCCEEDED}


def test_a_person_discards_what_a_storm_holds(world: World) -> None:
    """`reject --held storm` ends them; none of them goes on to its `on_failure`: nothing of it has happened."""
    world.config = STORM
    world.open(many(5), workers=9)
    world.submit(landed(1))
    names = [run.id for run in held(world)]
    world.submit(said("reject", "held:storm"))
    assert {world.run(name).state for name in names} == {State.CANCELLED}
    assert all(world.calls_of(name) == [] for name in names)
    world.submit(landed(2))
    assert [run.rule for run in world.runs()].count(GUARD) == 2


def test_resume_ends_a_storm_and_leaves_what_it_holds(world: World) -> None:
    """After `resume` firings start runs again; what is held waits for a word of its own."""
    world.config = STORM
    world.open(many(3), workers=9)
    world.submit(landed(1))
    world.submit(said("resume"))
    world.submit(landed(2))
    assert [run.rule for run in held(world)] == ["r2", "r2"]
    assert len([run for run in world.runs() if run.state is State.RUNNING]) == 4


def test_a_held_run_does_not_wait_for_ever(world: World) -> None:
    """Nobody came: it expires after three days, and tells nobody again."""
    world.config = STORM
    world.open(many(3), workers=9)
    world.submit(landed(1))
    (waiting,) = held(world)
    world.later(HELD.total_seconds() - 10)
    assert held(world) == [waiting]
    world.later(20)
    assert State.EXPIRED is world.ended(waiting.id).state
    assert world.calls_of(waiting.id) == []


def test_held_runs_survive_a_restart(world: World) -> None:
    """They are rows, not memory: after a restart they are held still, and the storm goes on and is not told again."""
    world.config = STORM
    world.open(many(3))
    world.submit(landed(1))
    before = held(world)
    world.restart(many(3))
    assert held(world) == before
    world.submit(landed(2))
    assert len(held(world)) == 4
    assert [run.rule for run in world.runs()].count(GUARD) == 1


def test_a_freeze_holds_what_changes_production_until_it_ends(world: World) -> None:
    """The run is stored with its reason, and starts by itself at the end of the freeze."""
    world.config = FREEZE
    world.open(one())
    world.submit(landed(1))
    (run,) = held(world)
    assert (run.state, run.held) == (State.PENDING, "freeze")
    assert world.decisions()[-1].admission == "held: production is frozen (fair) until 2026-01-05T14:00:00+00:00"
    world.later(7190)
    assert world.calls.empty()
    world.later(20)
    assert world.answer("train", Done()).call.run == run.id
    assert world.ended(run.id).state is State.SUCCEEDED


def test_after_a_long_freeze_a_run_still_starts(world: World) -> None:
    """Its time to wait counts from the end of the freeze, and a target that is busy then is waited for."""
    world.config = {"freeze": {"long": {"until": "2026-01-20"}}}
    world.open(one(when_busy=WhenBusy.SKIP))
    world.submit(landed(1), landed(2))
    assert len(held(world)) == 2
    world.later(timedelta(days=16).total_seconds())
    first = world.call()
    assert [run.state for run in world.runs()] == [State.RUNNING, State.PENDING]
    world.settle(first, Done())
    assert world.call().call.verb == "train"


def test_a_freeze_that_was_made_longer(world: World) -> None:
    """A freeze that goes on beyond the end that was known holds its runs on, longer than runs wait otherwise."""
    world.config = FREEZE
    world.open(one())
    world.submit(landed(1))
    world.config = {"freeze": {"fair": {"until": "2026-01-30"}}}
    world.restart(one())
    world.later(7300)
    world.later(QUEUE.total_seconds() + 7200)
    world.wait(lambda: world.events()[-1].recorded.event.data.get("why") == "lock")
    assert held(world)
    assert world.run(held(world)[0].id).state is State.PENDING


@pytest.mark.parametrize(
    ("rule_says", "starts"),
    [
        ({}, False),
        ({"ignore_freeze": True}, True),
        ({"steps": (step("rollback"),)}, True),
        ({"steps": (step("notify"),)}, True),
        ({"steps": (step("serve"), step("promote"))}, False),
        ({"mode": Mode.APPROVE}, True),
    ],
)
def test_whom_a_freeze_holds(world: World, rule_says: dict[str, Any], starts: bool) -> None:
    """What trains, serves or registers by itself; not rollbacks, messages, rules that ignore it, and what asks a person."""
    world.config = FREEZE
    world.open(one(**rule_says))
    world.submit(landed(1))
    assert bool(held(world)) != starts


def test_a_freeze_that_skips_leaves_the_rule_armed(world: World) -> None:
    """Nothing is kept; the decision says why, and the rule fires when the freeze is over."""
    world.config = {"freeze": {"fair": {**FREEZE["freeze"]["fair"], "firings": "skip"}}}
    world.open(rules(rule()))
    world.submit(measured(1, 1))
    assert (world.runs(), world.decisions()[-1].admission[:32]) == ([], "freeze: production is frozen (fa")
    world.later(7300)
    world.submit(measured(2, 1))
    assert State.RUNNING is world.runs()[0].state


def test_a_freeze_is_overridden_by_a_person_with_a_reason(world: World) -> None:
    """Without the override a yes changes nothing; with it the run starts, and the audit has who and why."""
    world.config = FREEZE
    world.open(one())
    world.submit(landed(1))
    (run,) = held(world)
    world.submit(said("approve", run.id))
    assert held(world) == [run]
    world.submit(override(said("approve", run.id, number=1), "incident 7"))
    now = world.run(run.id)
    assert (now.state, now.held) == (State.RUNNING, "")
    assert now.why == "approved by ann: because; the freeze is overridden: incident 7"
    assert any("incident 7" in row[3] for row in world.rows("audit_of", run.id))


def test_a_step_that_waits_for_a_person_needs_the_override_too(world: World) -> None:
    """During a freeze a mere yes does not change production; after it, it does."""
    world.config = FREEZE
    world.open(one(mode=Mode.APPROVE))
    world.submit(landed(1))
    (first,) = world.runs()
    world.submit(said("approve", first.id))
    assert State.WAITING is world.run(first.id).state
    world.submit(override(said("approve", first.id, number=1), "now"))
    world.answer("train", Done())
    world.submit(landed(2))
    world.later(7210)
    world.submit(said("approve", world.runs()[-1].id))
    assert State.RUNNING is world.runs()[-1].state


def test_a_queued_run_does_not_start_in_a_freeze(world: World) -> None:
    """A target that comes free during a freeze stays free: who waited for it waits for the end, and says so."""
    world.config = {"freeze": {"fair": {"from": "2026-01-05T12:10", "until": "2026-01-05T14:00"}}}
    world.open(one(when_busy=WhenBusy.QUEUE))
    world.submit(landed(1), landed(2))
    first = world.call()
    world.later(660)
    assert world.settle(first, Done())
    (run,) = held(world)
    assert (run.held, run.state) == ("freeze", State.PENDING)
    world.later(7200)
    assert world.call().call.run == run.id


def test_a_run_that_is_under_way_goes_on(world: World) -> None:
    """A freeze that begins in the middle of a run leaves it alone: half a canary is no place to stop."""
    world.config = {"freeze": {"fair": {"from": "2026-01-05T12:10", "until": "2026-01-05T14:00"}}}
    world.open(one(steps=(step("serve"), step("promote"))))
    world.submit(landed(1))
    first = world.call()
    world.later(660)
    assert world.settle(first, Done())
    world.answer("promote", Done())
    assert State.PROMOTED is world.runs()[0].state


def test_the_storm_holds_on_when_the_freeze_ends(world: World) -> None:
    """What fired in a freeze beyond the storm's limit waits for a person; only the first ones start by themselves."""
    world.config = {**STORM, **FREEZE}
    world.open(many(6), workers=9)
    world.submit(landed(1))
    assert sorted(run.held for run in held(world)) == ["freeze"] * 2 + ["storm"] * 4
    world.later(7210)
    world.wait(lambda: len([run for run in world.runs() if run.state is State.RUNNING]) == 2)
    assert [run.held for run in held(world)] == ["storm"] * 4


def test_looks_are_few_during_a_freeze(world: World) -> None:
    """A held run is asked again when the freeze ends, not every quarter of an hour."""
    world.config = FREEZE
    world.open(one())
    world.submit(landed(1))
    dues = [row[1] for row in world.rows("timers_due", 2**60, 99)]
    assert min(dues) > int((at(QUEUE_LOOK.total_seconds())).timestamp() * 1_000_000)
