"""The split, alone: who goes where, and what a change of weights moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import BadInput, Conflict
from daemon.gateway.split import Split

UNITS = [f"unit-{number}" for number in range(4000)]


def served(split: Split) -> dict[str, set[str]]:
    """Which units each version has."""
    found: dict[str, set[str]] = {}
    for unit in UNITS:
        found.setdefault(split.route(unit), set()).add(unit)
    return found


@given(st.floats(min_value=0.5, max_value=99.5))
def test_shares_are_as_asked(percent: float) -> None:
    """Each version gets its percent of the units, within five standard deviations of chance."""
    split = Split("t").shifted({"1": 100 - percent, "2": percent}, 0, "a")

    expected = len(UNITS) * percent / 100
    margin = 5 * math.sqrt(expected * (1 - percent / 100)) + 1
    assert abs(len(served(split).get("2", ())) - expected) <= margin


@given(st.lists(st.floats(min_value=0.01, max_value=99.99), min_size=1, max_size=5))
def test_a_growing_challenger_keeps_the_units_it_has(shares: list[float]) -> None:
    """While the challenger's weight grows no unit goes back to the champion; while it shrinks none comes new to it."""
    split = Split("t").shifted({"1": 100}, 0, "start")
    before: set[str] = set()
    for step, share in enumerate(sorted(set(shares))):
        split = split.shifted({"1": 100 - share, "2": share}, split.epoch, f"step-{step}")
        now = served(split).get("2", set())
        assert before <= now
        before = now


def test_the_champions_holdback_in_soak_is_a_part_of_its_units() -> None:
    """When champion and challenger change roles, the champion keeps units that it had."""
    canary = Split("t").shifted({"1": 100}, 0, "a").shifted({"1": 50, "2": 50}, 1, "b")
    soak = canary.shifted({"2": 95, "1": 5}, 2, "c")

    assert served(soak)["1"] < served(canary)["1"]


def test_each_challenger_meets_other_units() -> None:
    """The first 5 % of one canary are not the first 5 % of the next: the same customers do not bear every canary."""
    base = Split("t").shifted({"1": 100}, 0, "a")
    first = served(base.shifted({"1": 95, "2": 5}, 1, "b"))["2"]
    second = served(base.shifted({"1": 95, "3": 5}, 1, "b"))["3"]

    assert len(first & second) < 0.3 * len(first)


def test_a_change_needs_the_epoch_that_stands() -> None:
    """A change that was decided on an older epoch is a Conflict and says who changed it."""
    split = Split("t").shifted({"1": 100}, 0, "a")

    with pytest.raises(Conflict, match="epoch is 1, not 0: last by a"):
        split.shifted({"1": 90, "2": 10}, 0, "b")


def test_the_same_change_again_is_the_same_change() -> None:
    """Who repeats a change after a crash gets what it made, whatever epoch it thinks; a nameless one is no repeat."""
    split = Split("t").shifted({"1": 90, "2": 10}, 0, "a")

    assert split.shifted({"1": 90.0, "2": 10, "3": 0}, 0, "a") is split
    with pytest.raises(Conflict):
        split.shifted({"1": 91, "2": 9}, 0, "a")
    with pytest.raises(Conflict):
        Split("t").shifted({"1": 100}, 0, "").shifted({"1": 100}, 0, "")


@pytest.mark.parametrize("weights", [{}, {"1": 99}, {"1": 101}, {"1": 110, "2": -10}, {"1": math.nan}, {"1": math.inf}])
def test_weights_that_are_no_split_are_bad_input(weights: dict[str, float]) -> None:
    """Weights are finite, not negative, and sum to 100."""
    with pytest.raises(BadInput):
        Split("t").shifted(weights, 0, "a")


def test_nothing_is_served_before_the_first_shift() -> None:
    """A target that was never shifted routes nobody."""
    assert Split("t").route("anybody") == ""
