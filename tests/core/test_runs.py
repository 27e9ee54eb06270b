"""The saga table, as a whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from daemon.core.errors import IllegalTransition
from daemon.core.runs import (
    AFTER_STEP,
    ASKING,
    ENDED,
    GOOD_ENDS,
    TABLE,
    TOUCHED,
    UNDO,
    UNDO_STEP,
    Run,
    RunStep,
    Signal,
    State,
    diagram,
    onward,
    run_id,
    transition,
)
from tests.builders import T0, measured

PLAIN = RunStep("train", {}, approve=False, traffic=False, seconds=1)
TRAFFIC = RunStep("canary", {}, approve=False, traffic=True, seconds=1)
ROLLBACK = RunStep("rollback", {}, approve=False, traffic=True, seconds=1)
ASKED = RunStep("train", {}, approve=True, traffic=False, seconds=1)
NOTIFY = RunStep("notify", {}, approve=False, traffic=False, seconds=1)


def a_run(
    *steps: RunStep, state: State = State.PENDING, position: int = 0, on_failure: tuple[RunStep, ...] = ()
) -> Run:
    """A run of these steps."""
    return Run(
        "1",
        "r",
        "v",
        "churn",
        "k",
        measured(1, 1),
        1,
        (),
        steps,
        on_failure,
        ("1",),
        T0,
        state=state,
        position=position,
    )


def reached(start: State, *, without: frozenset[Signal] = frozenset()) -> set[State]:
    """Every state that can come after a state, itself included."""
    found, new = {start}, [start]
    while new:
        state = new.pop()
        after = {to for (of, signal), to in TABLE.items() if of is state and signal not in without}
        new += after - found
        found |= after
    return found


@pytest.mark.parametrize("state", sorted(TOUCHED, key=str))
def test_from_traffic_on_a_run_ends_in_three_ways_only(state: State) -> None:
    """Once traffic may have been touched a run is PROMOTED, ROLLED_BACK or STUCK in the end, and can be one of them."""
    ends = reached(state) & ENDED
    assert ends <= {State.PROMOTED, State.ROLLED_BACK, State.STUCK}
    assert {State.ROLLED_BACK, State.STUCK} <= ends


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_nothing_waits_for_ever(state: State) -> None:
    """Every state that has not ended can expire."""
    assert (state, Signal.EXPIRED) in TABLE


def test_inconclusive_never_promotes() -> None:
    """Whatever a run does after a step could not tell, it does not end as a success."""
    for (_state, signal), after in TABLE.items():
        if signal is Signal.INCONCLUSIVE:
            assert not reached(after) & GOOD_ENDS


@pytest.mark.parametrize("signal", [Signal.FAILED, Signal.EXPIRED, Signal.REFUSED, Signal.CANCELLED])
def test_nothing_that_breaks_off_leads_to_success(signal: Signal) -> None:
    """Failure, expiry, a no and a cancellation never end as a success."""
    for (_state, of), after in TABLE.items():
        if of is signal:
            assert not reached(after) & GOOD_ENDS


def test_a_rollback_is_never_pre_empted() -> None:
    """UNDOING knows only its own end: no cancellation, no question, no step forward."""
    signals = {signal for state, signal in TABLE if state is State.UNDOING}
    assert {Signal.LAST_DONE, Signal.FAILED, Signal.INCONCLUSIVE, Signal.EXPIRED} == signals


@pytest.mark.parametrize("state", sorted(ENDED, key=str))
def test_the_end_is_the_end(state: State) -> None:
    """An ended run has no moves."""
    assert not [signal for of, signal in TABLE if of is state]


def test_every_state_is_reached() -> None:
    """There is a way from PENDING to every state."""
    assert set(State) == reached(State.PENDING)


def test_every_signal_is_used() -> None:
    """No signal is declared and never moves anything."""
    assert set(Signal) == {signal for _, signal in TABLE}


def test_traffic_is_never_forgotten() -> None:
    """No move leads from a state in which traffic may be split to one that says it was not, but through an end."""
    for (state, _signal), after in TABLE.items():
        if state in TOUCHED:
            assert after in TOUCHED | {State.PROMOTED, State.ROLLED_BACK, State.STUCK}


def test_success_without_traffic_is_not_called_promotion() -> None:
    """PROMOTED is reached through traffic only, SUCCEEDED without any."""
    assert {State.SERVING} == {of for (of, _), to in TABLE.items() if to is State.PROMOTED}
    assert not {of for (of, _), to in TABLE.items() if to is State.SUCCEEDED} & TOUCHED


def test_what_the_table_does_not_have_is_refused() -> None:
    """Any other pair of state and signal raises, and says which."""
    for state, signal in product(State, Signal):
        if (state, signal) in TABLE:
            assert TABLE[state, signal] is transition(state, signal)
        else:
            with pytest.raises(IllegalTransition, match=state.value):
                transition(state, signal)


STEPS = [PLAIN, TRAFFIC, ROLLBACK, ASKED, replace(TRAFFIC, approve=True), replace(ROLLBACK, approve=True), None]


@pytest.mark.parametrize("state", [State.PENDING, State.WAITING, State.RUNNING, State.SERVING, State.GATED])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_way_on_is_always_legal(state: State, step: RunStep | None) -> None:
    """Whatever step comes next, in every state that goes on by itself, the signal that leads to it is in the table."""
    steps = (PLAIN,) if step is None else (PLAIN, step)
    run = replace(a_run(*steps, state=state, position=1), approved=1 if state in ASKING else -1)
    if step is None and state in ASKING:
        return  # nobody is asked about the end
    after = transition(state, onward(run))
    if step is None:
        assert after in GOOD_ENDS
    elif step.approve and state not in ASKING:
        assert after in ASKING
    elif step.verb == "rollback":
        assert State.UNDOING is after
    else:
        assert (after is State.SERVING) == (step.traffic or state in TOUCHED)


def test_moves_are_remembered() -> None:
    """A move notes when, why and where to; the reason of the last one that had one stays."""
    run = a_run(PLAIN).moved(Signal.ADMITTED, T0, "").moved(Signal.FAILED, T0, "no rows").moves
    assert [(move.signal, move.state, move.note) for move in run] == [
        ("admitted", "running", ""),
        ("failed", "failed", "no rows"),
    ]


def test_a_run_without_steps_only_tells() -> None:
    """A notice: nothing to do is done at once."""
    assert State.SUCCEEDED is a_run().moved(onward(a_run()), T0, "").state


def test_steps_have_numbers() -> None:
    """The rule's own by position, the undo, and after the end those of `on_failure`, then the rule's own again."""
    run = a_run(PLAIN, TRAFFIC, on_failure=(NOTIFY,))
    assert tuple(run.step(number) for number in (0, 1, UNDO_STEP, AFTER_STEP, AFTER_STEP + 1, AFTER_STEP + 2)) == (
        PLAIN,
        TRAFFIC,
        UNDO,
        NOTIFY,
        PLAIN,
        TRAFFIC,
    )
    assert len({run.call_id(number) for number in (0, 1, UNDO_STEP, AFTER_STEP, AFTER_STEP + 1)}) == 5


def test_what_comes_after_the_end() -> None:
    """`on_failure` after a bad end, nothing after a good one, and the rule's own further steps after its own rollback."""
    run = a_run(ROLLBACK, PLAIN, NOTIFY, on_failure=(NOTIFY, PLAIN))
    assert replace(run, state=State.PROMOTED).afterwards() == ()
    assert tuple(run.step(n) for n in replace(run, state=State.ROLLED_BACK).afterwards()) == (PLAIN, NOTIFY)
    assert tuple(run.step(n) for n in replace(run, state=State.STUCK).afterwards()) == (NOTIFY, PLAIN)
    broken = replace(a_run(TRAFFIC, on_failure=(NOTIFY,)), state=State.ROLLED_BACK)
    assert tuple(broken.step(n) for n in broken.afterwards()) == (NOTIFY,)


def test_a_run_has_one_name() -> None:
    """The same firing has the same run id, another event another."""
    assert run_id("r", "k", measured(1), 1) == run_id("r", "k", measured(1), 1)
    assert run_id("r", "k", measured(1), 1) != run_id("r", "k", measured(1), 2)


def test_the_diagram_shows_every_move() -> None:
    """Each move of the table is in the diagram, under its signal; ends lead out."""
    lines = diagram().splitlines()
    for (state, signal), after in TABLE.items():
        arrow = f"{state.value.replace(' ', '_')} --> {after.value.replace(' ', '_')}: "
        assert [line for line in lines if arrow in line and signal.value in line.split(": ")[1].split(" or ")]
    assert len(ENDED) == sum(line.endswith("--> [*]") for line in lines)
