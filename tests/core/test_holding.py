"""What holds runs back before their start: storms of firings, and freezes of production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.holding import Frozen, Guards, Holder, StormLimit, frozen_back, hold_back
from daemon.core.runs import Run, RunStep
from tests.builders import at, measured

LIMIT = StormLimit(3, timedelta(seconds=100))
FREEZE = Frozen("weekend", at(1000))


def a_run(name: str, verb: str = "train", seconds: float = 0, *, asks: bool = False, changes: bool = True) -> Run:
    """A run whose rule has just fired."""
    step = RunStep(verb, {}, approve=asks, traffic=False, seconds=1)
    return Run(
        name, "r", "v", "churn", "k", measured(1), 1, (), (step,), (), (name,), at(seconds), changes=changes
    )  # fmt: skip


@dataclass
class Life:
    """Firings one after the other, held or started as the guard says."""

    limit: StormLimit = LIMIT
    calm: float | None = None
    runs: list[Run] = field(default_factory=list)
    began: list[float] = field(default_factory=list)

    def fire(self, seconds: float, verb: str = "train", chance: Random | None = None) -> Run:
        """One firing; the run as it is kept."""
        run = a_run(f"{len(self.runs)}", verb, seconds)
        others = list(self.runs)
        if chance is not None:
            chance.shuffle(others)
        guards = Guards(self.limit, at(self.calm) if self.calm is not None else None)
        hold = hold_back(run, others, guards, at(seconds))
        if hold is not None:
            assert hold.by is Holder.STORM
            run = replace(run, held=hold.by.value, storm=hold.storm)
            if hold.begins(run):
                self.began.append(seconds)
        self.runs.append(run)
        return run

    def trains(self) -> list[tuple[float, bool]]:
        """The trainings: when each fired, in seconds, and whether it was held."""
        trains = (run for run in self.runs if run.steps[0].verb == "train")
        return [((run.created - at(0)).total_seconds(), bool(run.held)) for run in trains]

    def started(self) -> list[float]:
        """When trainings were started."""
        return [when for when, held in self.trains() if not held]

    def held(self) -> list[float]:
        """When trainings were held."""
        return [when for when, held in self.trains() if held]


def test_what_fires_beyond_the_limit_is_held() -> None:
    """The first three start, all further ones within the time are held and belong to one storm, which begins once."""
    life = Life()
    for seconds in range(6):
        life.fire(seconds)
    assert (life.started(), life.held(), life.began) == ([0, 1, 2], [3, 4, 5], [3])
    assert {run.storm for run in life.runs if run.held} == {life.runs[3].id}


def test_a_storm_lasts_as_long_as_the_firings_come() -> None:
    """Held ones count too, so a flood does not leak three runs per stretch; when it has been calm the next starts."""
    life = Life()
    for seconds in range(0, 400, 10):
        life.fire(seconds)
    assert life.started() == [0, 10, 20]
    assert life.began == [30]
    life.fire(390 + 100)
    assert life.started()[-1] == 490


def test_a_person_ends_a_storm() -> None:
    """What fired before an operator's word does not count, and a storm after it is another storm."""
    life = Life()
    for seconds in range(5):
        life.fire(seconds)
    life.calm = 5
    for seconds in range(6, 11):
        life.fire(seconds)
    assert life.started() == [0, 1, 2, 6, 7, 8]
    assert life.began == [3, 9]


@pytest.mark.parametrize("verb", ["rollback", "notify"])
def test_who_is_exempt_counts_for_nothing(verb: str) -> None:
    """A rollback starts in any storm, and so does what only tells; neither uses up the limit."""
    life = Life()
    for seconds in range(20):
        assert not life.fire(seconds, verb).held
    assert not life.fire(20).held
    for seconds in range(21, 30):
        life.fire(seconds)
    assert life.held()
    assert not life.fire(31, verb).held


def test_without_limits_nothing_is_held() -> None:
    """No `storm:` and no freeze: every firing starts."""
    assert hold_back(a_run("x"), [a_run(str(n)) for n in range(50)], Guards(), at(1)) is None


def test_the_storm_is_asked_first() -> None:
    """In a freeze, too, a storm waits for a person: else all of it would start when the freeze ends."""
    others = [a_run(str(n)) for n in range(3)]
    both = Guards(LIMIT, None, FREEZE)
    hold = hold_back(a_run("x"), others, both, at(1))
    assert hold is not None
    assert hold.by is Holder.STORM
    hold = hold_back(a_run("x"), others[:2], both, at(1))
    assert hold is not None
    assert (hold.by, hold.storm) == (Holder.FREEZE, "")
    assert "weekend" in hold.why


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (a_run("x"), True),
        (a_run("x", changes=False), False),
        (a_run("x", asks=True), False),
        (replace(a_run("x", asks=True), approved=0), True),
        (a_run("x", "rollback"), False),
        (a_run("x", "notify"), False),
    ],
)
def test_whom_a_freeze_holds(run: Run, held: bool) -> None:
    """What would change production by itself; not a rollback, not what a person is asked for first."""
    assert bool(frozen_back(run, Guards(frozen=FREEZE))) == held
    assert frozen_back(run, Guards()) is None


MOMENTS = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from(["train", "train", "rollback", "notify"])), max_size=30
)


@given(gaps=MOMENTS, firings=st.integers(1, 5), within=st.integers(1, 200), seed=st.integers(0, 9))
def test_promises_of_the_storm_guard(gaps: Sequence[tuple[int, str]], firings: int, within: int, seed: int) -> None:
    """In any course: no stretch has more starts than allowed, nothing is held without need, each storm is told once, and
    the order in which other runs are listed does not matter.
    """
    life, chance = Life(StormLimit(firings, timedelta(seconds=within))), Random(seed)
    now = 0
    for gap, verb in gaps:
        now += gap
        assert not life.fire(now, verb, chance).held or verb == "train"
    started, held = life.started(), life.held()
    assert sorted(started + held) == [when for when, _ in life.trains()]
    for when in started:
        assert sum(when - within < other <= when for other in started) <= firings
    for when in held:
        assert sum(when - within < other < when for other, _ in life.trains()) >= firings
    assert life.began == [*held[:1], *(later for earlier, later in pairwise(held) if later - earlier >= within)]
