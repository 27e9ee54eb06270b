"""May this run start: locks, budgets, the breaker."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daemon.core.admission import DAY, Admitted, Allowance, Allowances, admit, takes_over
from daemon.core.runs import Run, RunStep, Signal, State
from tests.builders import at, measured

FREE = Allowances({}, 2, timedelta(seconds=100))
TARGET = ("serving:churn",)


def a_run(name: str, verb: str = "train", targets: tuple[str, ...] = TARGET, created: float = 0) -> Run:
    """A run that has not begun."""
    step = RunStep(verb, {}, approve=False, traffic=verb != "train", seconds=1)
    return Run(name, "r", "v", "churn", "k", measured(1), 1, targets, (step,), (), (name,), at(created))


def moved(run: Run, *signals: Signal, seconds: float = 0) -> Run:
    """A run after some signals."""
    for signal in signals:
        run = run.moved(signal, at(seconds), signal.value)
    return run


def working(name: str, **how: object) -> Run:
    """A run at work."""
    return moved(a_run(name, **how), Signal.ADMITTED)  # type: ignore[arg-type]


def failed(name: str, seconds: float = 0) -> Run:
    """A run that failed."""
    return moved(a_run(name), Signal.ADMITTED, Signal.FAILED, seconds=seconds)


def verdict(run: Run, *others: Run, allowances: Allowances = FREE, seconds: float = 0) -> Admitted:
    """What becomes of a run beside others."""
    return admit(run, others, allowances, at(seconds)).verdict


def test_nothing_in_the_way() -> None:
    """An idle target admits."""
    assert Admitted.YES is verdict(a_run("new"))


def test_a_target_has_one_run() -> None:
    """A target at which a run is at work is busy, and says whose it is; another target is not."""
    answer = admit(a_run("new"), (working("old"),), FREE, at(0))
    assert (answer.verdict, answer.holders) == (Admitted.BUSY, ("old",))
    assert "old" in answer.why
    assert Admitted.YES is verdict(a_run("new", targets=("serving:cars",)), working("old"))
    assert Admitted.YES is verdict(a_run("new", targets=()), working("old", targets=()))


def test_who_only_waits_holds_nothing() -> None:
    """A queued run has no lock; one that waits for a person has."""
    assert Admitted.YES is verdict(a_run("new"), a_run("queued"))
    assert Admitted.BUSY is verdict(a_run("new"), moved(a_run("asking"), Signal.ASKED))


def test_a_run_is_not_in_its_own_way() -> None:
    """Asked again later, a run does not find itself."""
    assert Admitted.YES is verdict(a_run("new"), a_run("new"))


@pytest.mark.parametrize(
    ("allowance", "others", "expected"),
    [
        (Allowance(concurrent=2), [working("a", targets=("x",))], Admitted.YES),
        (Allowance(concurrent=2), [working("a", targets=("x",)), working("b", targets=("y",))], Admitted.BUDGET),
        (Allowance(concurrent=1), [failed("a")], Admitted.YES),
        (Allowance(per_day=1), [failed("a")], Admitted.BUDGET),
        (Allowance(per_day=1), [a_run("a")], Admitted.YES),
        (Allowance(per_day=1), [moved(a_run("a"), Signal.EXPIRED)], Admitted.YES),
        (Allowance(per_target=1), [failed("a")], Admitted.BUDGET),
        (Allowance(per_target=1), [working("a", targets=("x",))], Admitted.YES),
    ],
)
def test_budgets(allowance: Allowance, others: list[Run], expected: Admitted) -> None:
    """Runs at once, a day, and a day on one target: those count that began."""
    allowances = replace(FREE, verbs={"train": allowance}, failures=9)
    assert expected is verdict(a_run("new"), *others, allowances=allowances)


def test_a_budget_comes_back_after_a_day() -> None:
    """What began a day ago no longer counts."""
    allowances = replace(FREE, verbs={"train": Allowance(per_day=1)}, failures=9)
    day = DAY.total_seconds()
    assert Admitted.BUDGET is verdict(a_run("new"), failed("a"), allowances=allowances, seconds=day - 1)
    assert Admitted.YES is verdict(a_run("new"), failed("a"), allowances=allowances, seconds=day)


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    """Two failures in a row open it; a success between them does not let it."""
    good = moved(a_run("good"), Signal.ADMITTED, Signal.LAST_DONE)
    assert Admitted.YES is verdict(a_run("new"), failed("a"))
    assert Admitted.BREAKER is verdict(a_run("new"), failed("a"), failed("b"))
    assert Admitted.YES is verdict(a_run("new"), failed("a"), good, failed("b"))


def test_the_breaker_is_half_open_after_its_reset() -> None:
    """One run may try; if that fails too it is open again, if not it is closed."""
    once = (failed("a"), failed("b", 10))
    assert Admitted.BREAKER is verdict(a_run("new"), *once, seconds=109)
    assert Admitted.YES is verdict(a_run("new"), *once, seconds=110)
    assert Admitted.BUSY is verdict(a_run("new"), *once, working("trial", created=110), seconds=111)
    assert Admitted.BREAKER is verdict(a_run("new"), *once, failed("trial", 120), seconds=121)
    good = moved(a_run("trial"), Signal.ADMITTED, Signal.LAST_DONE, seconds=120)
    assert Admitted.YES is verdict(a_run("new"), *once, good, seconds=121)


def test_one_stuck_run_opens_the_breaker() -> None:
    """A rollback that could not be finished stops everything on its target until a person has looked, or the reset."""
    stuck = moved(a_run("s", "canary"), Signal.ADMITTED_TRAFFIC, Signal.FAILED, Signal.EXPIRED)
    assert Admitted.BREAKER is verdict(a_run("new"), stuck)
    assert Admitted.YES is verdict(a_run("new", targets=("serving:cars",)), stuck)


@pytest.mark.parametrize(
    ("signals", "counts"),
    [
        ((Signal.ADMITTED, Signal.FAILED), True),
        ((Signal.ADMITTED, Signal.EXPIRED), True),
        ((Signal.ADMITTED_TRAFFIC, Signal.FAILED, Signal.LAST_DONE), True),
        ((Signal.ADMITTED_TRAFFIC, Signal.EXPIRED, Signal.LAST_DONE), True),
        ((Signal.ADMITTED_TRAFFIC, Signal.INCONCLUSIVE, Signal.LAST_DONE), False),
        ((Signal.ADMITTED_TRAFFIC, Signal.CANCELLED, Signal.LAST_DONE), False),
        ((Signal.ADMITTED_TRAFFIC, Signal.ASKED, Signal.REFUSED, Signal.LAST_DONE), False),
        ((Signal.ADMITTED_TRAFFIC, Signal.ASKED, Signal.EXPIRED, Signal.LAST_DONE), False),
        ((Signal.ADMITTED_ROLLBACK, Signal.LAST_DONE), False),
        ((Signal.ADMITTED, Signal.INCONCLUSIVE), False),
        ((Signal.ADMITTED, Signal.CANCELLED), False),
        ((Signal.ASKED, Signal.REFUSED), False),
        ((Signal.ASKED, Signal.EXPIRED), False),
        ((Signal.EXPIRED,), False),
    ],
)
def test_what_counts_as_a_failure(signals: tuple[Signal, ...], counts: bool) -> None:
    """Steps that failed or took too long count; people, cancellations, doubt and rollbacks that were asked for do not."""
    others = [moved(a_run(name, "canary"), *signals) for name in ("a", "b")]
    assert (verdict(a_run("new"), *others) is Admitted.BREAKER) == counts


def test_a_rollback_is_held_back_by_no_budget_and_no_breaker() -> None:
    """It starts at once on a free target, and takes over a busy one."""
    allowances = replace(FREE, verbs={"rollback": Allowance(concurrent=1, per_day=1)})
    spent = moved(a_run("x", "rollback", ("other",)), Signal.ADMITTED_ROLLBACK)
    assert Admitted.YES is verdict(a_run("new", "rollback"), failed("a"), failed("b"), spent, allowances=allowances)
    busy = working("old")
    assert Admitted.BUSY is verdict(a_run("new", "rollback"), busy)
    assert takes_over(a_run("new", "rollback"), (busy,), replace=False)


def test_nothing_takes_over_from_a_rollback_that_was_asked_for() -> None:
    """Two alarms are one rollback, and a retraining does not cancel it."""
    rolling = moved(a_run("old", "rollback"), Signal.ADMITTED_ROLLBACK)
    assert not takes_over(a_run("new", "rollback"), (rolling,), replace=False)
    assert not takes_over(a_run("new"), (rolling,), replace=True)
    assert takes_over(a_run("new"), (working("old"),), replace=True)
    assert not takes_over(a_run("new"), (working("old"),), replace=False)


def test_the_order_of_reasons() -> None:
    """Budget before breaker before busy: what lasts longest is said first."""
    tight = replace(FREE, verbs={"train": Allowance(per_day=1)})
    others = (failed("a"), failed("b"), working("old", created=1))
    assert Admitted.BUDGET is verdict(a_run("new"), *others, allowances=tight)
    assert Admitted.BREAKER is verdict(a_run("new"), *others)


def test_pending_is_not_at_work() -> None:
    """The state that holds no lock is PENDING alone, of those that have not ended."""
    assert State.PENDING is a_run("x").state
