"""Runs from firing to end, with scripted handlers: the test takes each call and answers it."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.claims import LEASE
from daemon.core.calls import Again, Answer, Done, Failed, Inconclusive, Outcome, Working
from daemon.core.rules import Mode, OnUnknown, RuleSet, Step, WhenBusy
from daemon.core.runs import AFTER_STEP, UNDO_STEP, Run, State
from daemon.running import APPROVAL, QUEUE, QUEUE_LOOK
from tests.builders import landed, measured, rule, rules, said, step
from tests.writer.conftest import World

TELL = (step("notify", to="ops"),)


def one(*steps: Step, name: str = "r", **said_by_rule: Any) -> RuleSet:
    """One rule that fires at every landed file."""
    return rules(rule(name, on="data.landed", when=(), steps=steps or (step("train"),), **said_by_rule))


def fired(world: World, number: int = 1) -> Run:
    """The run that an event starts."""
    world.submit(landed(number))
    return world.runs()[-1]


END = [
    ([("train", Done()), ("train", Done())], (step("train"), step("train")), State.SUCCEEDED),
    ([("train", Failed("x"))], (step("train"), step("train")), State.FAILED),
    ([("train", Inconclusive("x"))], (step("train"),), State.INCONCLUSIVE),
    ([("serve", Done()), ("promote", Done())], (step("serve"), step("promote")), State.PROMOTED),
    ([("serve", Failed("x")), ("rollback", Done())], (step("serve"), step("promote")), State.ROLLED_BACK),
    ([("serve", Inconclusive("x")), ("rollback", Done())], (step("serve"),), State.ROLLED_BACK),
    ([("serve", Done()), ("promote", Failed("x")), ("rollback", Done())], (step("serve"), step("promote")), State.ROLLED_BACK),
    ([("serve", Failed("x")), ("rollback", Failed("y"))], (step("serve"),), State.STUCK),
    ([("serve", Failed("x")), ("rollback", Inconclusive("y"))], (step("serve"),), State.STUCK),
    ([("rollback", Done())], (step("rollback"),), State.ROLLED_BACK),
    ([("rollback", Failed("x"))], (step("rollback"),), State.STUCK),
]  # fmt: skip


@pytest.mark.parametrize(("script", "steps", "state"), END)
def test_every_end(world: World, script: list[tuple[str, Outcome]], steps: tuple[Step, ...], state: State) -> None:
    """A run goes step by step to its end, undoes what touched traffic, lets go of its target and says how it ended."""
    world.open(one(*steps))
    run = fired(world)
    for verb, outcome in script:
        world.answer(verb, outcome)
    ended = world.ended(run.id)
    assert (state, [], []) == (ended.state, world.rows("locks"), world.rows("live_runs"))
    finished = world.events()[-1].recorded.event
    assert ("run.finished", state.value, "churn") == (finished.type, finished.data["state"], finished.subject)
    assert (run.id,) == finished.chain
    assert not [call for call in world.calls_of(run.id) if call.status in {"due", "claimed"}]


def test_outputs_go_to_later_steps(world: World) -> None:
    """What a step gives the later ones are given, the newest winning; the end says which version it was about."""
    world.open(one(step("train"), step("serve"), step("promote")))
    run = fired(world)
    world.answer("train", Done({"version": "7", "rows": 5}))
    assert world.answer("serve", Done({"rows": 6})).call.given == {"version": "7", "rows": 5}
    assert world.answer("promote", Done()).call.given == {"version": "7", "rows": 6}
    assert world.events()[-1].recorded.event.data["version"] == "7"
    assert State.PROMOTED is world.run(run.id).state


def test_on_failure_follows_a_bad_end(world: World) -> None:
    """After a bad end the steps of `on_failure` run in their order, and change nothing of the run."""
    world.open(one(step("train"), on_failure=(step("notify", to="a"), step("notify", to="b"))), workers=1)
    run = fired(world)
    world.answer("train", Failed("no rows"))
    assert State.FAILED is world.ended(run.id).state
    assert world.answer("notify", Failed("nobody there")).call.inputs == {"to": "a"}
    assert world.answer("notify", Done()).call.inputs == {"to": "b"}
    assert State.FAILED is world.run(run.id).state
    assert world.run(run.id).why == "train: no rows"


def test_after_its_own_rollback_a_rule_goes_on(world: World) -> None:
    """What a rule wrote after its `rollback` runs once that has worked, with its own inputs; `on_failure` does not."""
    world.open(one(step("rollback"), step("notify", to="after"), on_failure=TELL))
    run = fired(world)
    world.answer("rollback", Done())
    assert State.ROLLED_BACK is world.ended(run.id).state
    assert world.answer("notify", Done()).call.inputs == {"to": "after"}
    assert [call.step for call in world.calls_of(run.id)] == [0, AFTER_STEP + 2]


def test_a_stuck_run_tells(world: World) -> None:
    """When the rollback fails, `on_failure` runs: somebody must look."""
    world.open(one(step("serve"), on_failure=TELL))
    fired(world)
    world.answer("serve", Failed("x"))
    world.answer("rollback", Failed("y"))
    assert world.answer("notify", Done()).call.inputs == {"to": "ops"}


def test_working_is_looked_at_again(world: World) -> None:
    """`Working` frees the worker; the call comes back when it said, with what it kept, and is no new attempt."""
    world.open(one())
    fired(world)
    world.answer("train", Working(30, {"job": "x"}, "half way"))
    world.later(29)
    assert world.calls.empty()
    world.later(2)
    again = world.answer("train", Again(10, "busy", {"job": "y"}))
    assert (again.call.state, again.call.attempt) == ({"job": "x"}, 0)
    world.later(11)
    last = world.answer("train", Done())
    assert (last.call.state, last.call.attempt) == ({"job": "y"}, 1)


def test_a_call_keeps_its_name(world: World) -> None:
    """However often it is made, it is the same call."""
    world.open(one())
    run = fired(world)
    first = world.answer("train", Again(0, "x"))
    second = world.answer("train", Done())
    assert first.call.id == second.call.id == run.call_id(0)
    assert (run.id,) == first.call.chain


def test_events_of_an_outcome_are_stored_with_it(world: World) -> None:
    """What a handler saw is recorded in the transaction that settles its call."""
    world.open(one())
    fired(world)
    world.answer("train", Done(events=(measured(1, 1),)))
    assert [one.recorded.event.type for one in world.events()] == [
        "rules.loaded",
        "data.landed",
        "drift.measured",
        "run.finished",
    ]


@pytest.mark.parametrize(("word", "state"), [("approve", State.SUCCEEDED), ("reject", State.REJECTED)])
def test_a_person_decides(world: World, word: str, state: State) -> None:
    """`mode: approve` waits for a person before its first step; a no ends it."""
    world.open(one(mode=Mode.APPROVE))
    run = fired(world)
    assert State.WAITING is run.state
    assert world.calls.empty()
    world.submit(said(word, run.id))
    if word == "approve":
        world.answer("train", Done())
    ended = world.ended(run.id)
    assert state is ended.state
    assert f"{word}" in ended.moves[1].note
    assert "ann: because" in ended.moves[1].note


def test_a_no_while_traffic_is_split_undoes_it(world: World) -> None:
    """A run that asks between two steps holds traffic: rejected, it goes back."""
    world.open(one(step("serve"), step("promote", approve=True)))
    run = fired(world)
    world.answer("serve", Done())
    assert State.GATED is world.run(run.id).state
    world.submit(said("reject", run.id))
    assert world.answer("rollback", Done()).call.step == UNDO_STEP
    assert State.ROLLED_BACK is world.ended(run.id).state


def test_each_step_is_approved_by_itself(world: World) -> None:
    """A yes is for the step that asked, not for the next."""
    world.open(one(step("train", approve=True), step("train", approve=True)))
    run = fired(world)
    world.submit(said("approve", run.id, number=1))
    world.answer("train", Done())
    assert State.WAITING is world.run(run.id).state
    world.submit(said("approve", run.id, number=2))
    world.answer("train", Done())
    assert State.SUCCEEDED is world.ended(run.id).state


def test_nobody_came(world: World) -> None:
    """A question that nobody answers expires."""
    world.open(one(mode=Mode.APPROVE))
    run = fired(world)
    world.later(APPROVAL.total_seconds())
    assert State.EXPIRED is world.ended(run.id).state


@pytest.mark.parametrize(("verb", "state"), [("train", State.EXPIRED), ("serve", State.UNDOING)])
def test_a_step_has_a_deadline(world: World, verb: str, state: State) -> None:
    """A step that takes too long is given up, undone if it touched traffic; its late answer changes nothing."""
    world.open(one(step(verb)))
    run = fired(world)
    late = world.call()
    world.later(101)
    world.wait(lambda: world.run(run.id).state is state)
    assert world.settle(late, Done({"version": "late"})) is False
    assert "version" not in world.run(run.id).given
    assert "no end by its deadline" in world.run(run.id).why
    if verb == "serve":
        assert world.answer("rollback", Done()).call.step == UNDO_STEP


def test_a_rollback_that_does_not_end_is_stuck(world: World) -> None:
    """Even the undo has a deadline: then somebody must look."""
    world.open(one(step("serve"), on_failure=TELL))
    run = fired(world)
    world.answer("serve", Failed("x"))
    world.answer("rollback", Again(1, "gateway down"))
    world.later(1000)
    assert State.STUCK is world.ended(run.id).state


def test_a_run_that_goes_back_waits_for_its_worker(world: World) -> None:
    """While a worker is still at the step that was given up, the undo does not run beside it."""
    world.open(one(step("serve")))
    run = fired(world)
    slow = world.call()
    world.submit(said("cancel", run.id))
    assert State.UNDOING is world.run(run.id).state
    assert world.calls.empty()
    assert world.settle(slow, Done()) is False
    assert world.answer("rollback", Done()).call.step == UNDO_STEP


def test_a_worker_that_hangs_loses_its_call(world: World) -> None:
    """After its lease the call goes to another worker; whatever the first one says then is refused."""
    world.open(one(step("long")))
    run = fired(world)
    hung = world.call()
    world.later(LEASE.total_seconds())
    second = world.call()
    assert hung.call.id == second.call.id
    assert world.settle(hung, Failed("too late")) is False
    assert world.settle(second, Done()) is True
    assert State.SUCCEEDED is world.ended(run.id).state


def test_time_flows_on_when_the_clock_is_set_back(world: World) -> None:
    """A call that is due in a minute is handed out a minute later, whatever the clock says meanwhile."""
    world.open(one())
    fired(world)
    world.answer("train", Working(60))
    world.later(-7200)
    world.submit(measured(1, 0))
    world.later(61)
    world.answer("train", Done())


def test_what_a_cancelled_run_started_is_ended(world: World) -> None:
    """The call of a run that turned away comes back to be ended, also after a restart and a failed try; then it is over."""
    kept = one()
    world.open(kept)
    run = fired(world)
    world.settle(world.call(), Working(50, {"job": "x"}))
    world.submit(said("cancel", run.id))
    first = world.call()
    assert (first.ending, first.call.state, first.call.id) == (True, {"job": "x"}, run.call_id(0))
    world.restart(kept)
    second = world.call()
    assert second.ending
    assert world.settle(first, Done()) is False
    assert world.settle(second, Again(10, "platform down"))
    world.later(11)
    assert world.settle(world.call(), Done())
    assert [call.status for call in world.calls_of(run.id)] == ["dropped"]
    assert world.run(run.id).state is State.CANCELLED


def test_what_was_never_begun_needs_no_ending(world: World) -> None:
    """A call that no worker ever had is dropped at once."""
    world.open(one(), workers=0)
    run = fired(world)
    world.submit(said("cancel", run.id))
    assert [call.status for call in world.calls_of(run.id)] == ["dropped"]


def test_the_undo_comes_before_the_ending(world: World) -> None:
    """Traffic goes back before anything else is tidied up."""
    world.open(one(step("serve")), workers=1)
    run = fired(world)
    world.settle(world.call(), Working(50))
    world.submit(said("cancel", run.id))
    undo = world.call()
    assert (undo.call.verb, undo.ending) == ("rollback", False)
    world.settle(undo, Done())
    assert world.call().ending


def test_a_busy_target_is_skipped(world: World) -> None:
    """`when_busy: skip`: the second firing starts nothing, says why, and leaves its rule armed."""
    world.open(one())
    fired(world)
    world.submit(landed(2))
    assert [decision.admission[:8].strip()[:8] if decision.run else "busy: " for decision in world.decisions()] == [
        "admitted",
        "busy: ",
    ]
    assert "is at work on training:churn" in world.decisions()[1].admission
    world.answer("train", Done())
    world.submit(landed(3))
    assert [bool(decision.run) for decision in world.decisions() if decision.verdict == "fired"] == [True, False, True]


def test_a_busy_target_is_waited_for(world: World) -> None:
    """`when_busy: queue`: the second run begins when the first has ended."""
    world.open(one(when_busy=WhenBusy.QUEUE))
    first, second = fired(world, 1), fired(world, 2)
    assert [decision.admission for decision in world.decisions()] == ["admitted", "queued"]
    assert State.PENDING is second.state
    world.answer("train", Done())
    assert second.id == world.answer("train", Done()).call.run
    assert [world.ended(run.id).state for run in (first, second)] == [State.SUCCEEDED, State.SUCCEEDED]


def test_waiting_for_a_target_ends(world: World) -> None:
    """A run that never gets its target expires."""
    world.open(one(step("long"), when_busy=WhenBusy.QUEUE))
    fired(world, 1)
    world.settle(world.call(), Working(1e6))
    second = fired(world, 2)
    world.later(QUEUE.total_seconds())
    assert State.EXPIRED is world.ended(second.id).state


@pytest.mark.parametrize(("verb", "end"), [("train", State.CANCELLED), ("serve", State.ROLLED_BACK)])
def test_a_busy_target_is_taken_over(world: World, verb: str, end: State) -> None:
    """`when_busy: replace`: the first run is cancelled, undone if it touched traffic, and then the second begins."""
    world.open(one(step(verb), when_busy=WhenBusy.REPLACE))
    first = fired(world, 1)
    world.settle(world.call(), Working(1000))
    second = fired(world, 2)
    assert world.decisions()[-1].admission == "replaces" or world.decisions()[1].admission == "replaces"
    if verb == "serve":
        assert (world.run(first.id).state, world.run(second.id).state) == (State.UNDOING, State.PENDING)
        world.answer("rollback", Done())
    assert end is world.ended(first.id).state
    assert second.id == world.answer(verb, Done()).call.run


def test_a_rollback_takes_over_and_is_first(world: World) -> None:
    """A rule that rolls back does not wait its turn: the run at work is undone, the queued one comes after it."""
    world.open(rules(
        rule("canary", on="data.landed", when=(), subject="new", steps=(step("serve"),), when_busy=WhenBusy.QUEUE),
        rule("alarm", on="data.landed", when=(), subject="bad", steps=(step("rollback"),)),
    ))  # fmt: skip
    world.submit(landed(1, "new"), landed(2, "new"))
    world.settle(world.call(), Working(1000))
    world.submit(landed(3, "bad"))
    world.submit(landed(4, "bad"))
    world.answer("rollback", Done())
    undone, queued, alarm = world.runs()[:3]
    assert State.ROLLED_BACK is world.ended(undone.id).state
    assert alarm.id == world.answer("rollback", Done()).call.run
    assert queued.id == world.answer("serve", Working(1)).call.run


def test_budgets_hold_runs_back(world: World) -> None:
    """A spent budget skips; with `queue` the run waits and begins once the budget has come back."""
    world.config = {"budgets": {"train": {"per_day": 1}}}
    world.open(one(when_busy=WhenBusy.QUEUE))
    fired(world, 1)
    world.answer("train", Done())
    waiting = fired(world, 2)
    assert waiting.why == "1 runs with train began within a day, 1 are allowed"
    world.later(86400 - 100)
    world.submit(measured(1))
    assert State.PENDING is world.run(waiting.id).state
    world.later(100 + QUEUE_LOOK.total_seconds())
    assert waiting.id == world.answer("train", Done()).call.run


def test_a_breaker_stops_what_keeps_failing(world: World) -> None:
    """After so many failures in a row nothing is started on the target, until its time is over."""
    world.config = {"breaker": {"failures": 2, "reset": "1h"}}
    world.open(one())
    for number in (1, 2):
        fired(world, number)
        world.answer("train", Failed("x"))
    world.submit(landed(3))
    assert "2 runs in a row failed" in world.decisions()[-1].admission
    world.later(3600)
    fired(world, 4)
    world.answer("train", Failed("x"))
    world.submit(landed(5))
    assert "3 runs in a row failed" in world.decisions()[-1].admission


def test_a_version_that_failed_for_its_quality_is_barred(world: World) -> None:
    """`Failed(quarantine=True)` writes the version's row, by creation time, number and digest; a person may release it."""
    world.open(one(step("train"), step("serve")))
    run = fired(world)
    world.answer("train", Done({"version": "7"}))
    world.answer("serve", Failed("worse", quarantine=True, barred={"created": "c", "digest": "d"}))
    ((model, created, version, digest, _at, by, reason, released),) = world.rows("quarantine")
    assert ("churn", "c", "7", "d", run.id, "worse", None) == (model, created, version, digest, by, reason, released)
    assert world.rows("quarantined", "churn", "7", "c", "") == [("worse",)]
    assert world.rows("quarantined", "churn", "8", "other", "d") == [("worse",)]
    assert world.rows("quarantined", "churn", "8", "other", "") == []
    world.submit(said("release", "churn@7"))
    assert world.rows("quarantined", "churn", "7", "c", "d") == []
    world.submit(said("quarantine", "churn@9"))
    assert world.rows("quarantined", "churn", "9", "", "") == [("ann: because",)]


def test_cancel(world: World) -> None:
    """An operator cancels a run; a rollback that is under way goes on."""
    world.open(one(step("serve")))
    run = fired(world)
    world.settle(world.call(), Working(1000))
    world.submit(said("cancel", run.id, number=1))
    world.submit(said("cancel", run.id, number=2))
    world.answer("rollback", Done())
    assert State.ROLLED_BACK is world.ended(run.id).state


def test_a_word_about_nothing_is_harmless(world: World) -> None:
    """Approving, rejecting or cancelling what is not there, or has ended, changes nothing."""
    world.open(one())
    run = fired(world)
    world.answer("train", Done())
    world.submit(*(said(word, target) for word in ("approve", "reject", "cancel") for target in (run.id, "nobody", "")))
    assert State.SUCCEEDED is world.run(run.id).state


def test_a_notice_runs_on_failure_only(world: World) -> None:
    """`on_unknown: notify`: `on_failure` runs, nothing else, and no target is held."""
    world.open(rules(rule(on_unknown=OnUnknown.NOTIFY, on_failure=TELL)))
    world.submit(measured(1, None), measured(2, None))
    assert [(one.verdict, one.admission) for one in world.decisions()] == [("unknown", "notice"), ("unknown", "")]
    told = world.answer("notify", Done())
    assert told.call.inputs == {"to": "ops"}
    assert world.run(told.call.run).why == "event.drifted_columns is absent"
    assert world.rows("locks") == []


def test_inputs_that_a_verb_refuses_are_a_problem(world: World) -> None:
    """A step whose computed input does not fit its verb starts nothing and is a visible problem; the rule stays armed."""
    world.open(one(step("train", level="high")))
    world.submit(landed(1))
    assert "invalid: level" in world.decisions()[0].admission
    assert "rule r: level" in world.rows("problems", 10)[0][2]
    assert world.runs() == []


def test_targets_are_locked_not_rules(world: World) -> None:
    """Two rules on one target share its lock; a third on another model does not wait."""
    world.open(rules(
        rule("a", on="data.landed", when=()), rule("b", on="data.landed", when=()),
        rule("c", on="data.landed", when=(), model="cars"),
    ))  # fmt: skip
    world.submit(landed(1))
    assert [bool(decision.run) for decision in world.decisions()] == [True, False, True]
    assert sorted((row[0],) for row in world.rows("locks")) == [("training:cars",), ("training:churn",)]


def test_urgent_outcomes_go_first(world: World) -> None:
    """Calls are handed out with rollbacks before anything else that is due."""
    world.open(rules(
        rule("a", on="data.landed", when=(), model="cars"), rule("b", on="data.landed", when=(), steps=(step("rollback"),)),
    ), workers=0)  # fmt: skip
    world.submit(landed(1))
    world.writer.serve(1, lambda claimed: [world.calls.put(one) for one in claimed] and None)
    assert world.call().call.verb == "rollback"


def test_the_end_of_a_run_starts_another(world: World) -> None:
    """A rule may listen to `run.finished`; the chain grows by each run, and the loop guard ends it."""
    world.open(rules(
        rule("first", on="data.landed", when=(), steps=(step("notify"),)),
        rule("next", on="run.finished", when=(), steps=(step("notify"),), include_own=True),
    ))  # fmt: skip
    world.submit(landed(1))
    for _ in range(9):
        world.answer("notify", Done())
    assert world.verdicts("next") == ["fired"] * 8 + ["loop"]
    assert world.calls.empty()


def test_a_replaced_run_is_recorded_after_all_decisions_of_the_event(world: World) -> None:
    """What an event causes in its own transaction comes after its own decisions, in order."""
    world.open(rules(
        rule("a", on="data.landed", when=(), when_busy=WhenBusy.REPLACE),
        rule("b", on="data.landed", when=()),
        rule("c", on="run.finished", when=(), model="cars"),
    ))  # fmt: skip
    world.submit(landed(1))
    world.settle(world.call(), Working(1000))
    world.submit(landed(2))
    order = [(one.event, one.rule) for one in world.decisions()]
    assert sorted(order) == order
    assert world.events()[-1].recorded.event.type == "run.finished"


def test_answers_are_kept_in_the_audit(world: World) -> None:
    """What outside services said is in the chain, with the outcome, also when it came too late."""
    world.open(one(step("train")))
    run = fired(world)
    world.answer("train", Working(1, answers=(Answer("registry", "register", {"version": "7"}),)))
    world.later(2)
    world.answer("train", Done({"version": "7"}))
    kinds = [row[1] for row in world.rows("audit_of", run.id)]
    assert kinds == ["firing", "run", "call", "outcome", "outcome", "run"]
    assert '"service":"registry"' in world.rows("audit_of", run.id)[3][3]
