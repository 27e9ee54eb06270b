"""Anytime-valid evidence: exact values, and few false alarms however often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from daemon.core.sequential import (
    BLOCK_CAP,
    KEPT,
    ORDINARY,
    RATIOS,
    Arm,
    RateEvidence,
    ShareEvidence,
    Tracks,
    beyond_gain,
    margin_gains,
    mix,
    rate_gains,
    upper_bound,
)  # fmt: skip

LIMIT = math.log(20)
RUNS = 200
SLACK = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Type-I error at 5 % plus three standard errors of the simulation."""


def test_rate_gains_are_those_of_the_paper() -> None:
    """The block's log likelihood ratio of (ratio times p, p) against their pooled rate."""
    ours, theirs, seen = Arm(100, 3), Arm(300, 2), Arm(950, 9)
    base = 9.5 / 1000
    raised, pooled = 2 * base, (100 * 2 * base + 300 * base) / 400
    expected = (
        3 * math.log(raised / pooled) + 97 * math.log((1 - raised) / (1 - pooled))
        + 2 * math.log(base / pooled) + 298 * math.log((1 - base) / (1 - pooled))
    )  # fmt: skip
    assert rate_gains(ours, theirs, seen)[RATIOS.index(2.0)] == pytest.approx(expected)
    assert (0.0,) * len(RATIOS) == rate_gains(Arm(), Arm(), seen)


def test_margin_gains_condition_on_the_events() -> None:
    """Each event is the challenger's with a probability that only ratio and split decide."""
    at_margin, equal = 100 * 1.5 / (100 * 1.5 + 300), 100 / 400
    expected = math.log(equal / at_margin) + 4 * math.log((1 - equal) / (1 - at_margin))
    assert margin_gains(Arm(100, 1), Arm(300, 4), 1.5)[2] == pytest.approx(expected)
    assert expected > 0
    assert margin_gains(Arm(100, 0), Arm(300, 0), 1.5) == (0.0, 0.0, 0.0)
    assert margin_gains(Arm(0, 0), Arm(300, 5), 1.5) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("units", [1, 10, 1000, 100_000])
def test_no_event_in_n_units_has_a_closed_bound(units: int) -> None:
    """Zero events: 1 - (alpha / (n + 1)) ** (1 / n); no data or nothing but events: 1."""
    assert upper_bound(Arm(units, 0), 0.05) == pytest.approx(1 - (0.05 / (units + 1)) ** (1 / units))
    assert 1.0 == upper_bound(Arm(0, 0), 0.05) == upper_bound(Arm(units, units), 0.05)


def test_the_bound_is_where_the_mixture_says() -> None:
    """At the bound the uniform mixture's likelihood is 1/alpha times that of the rate."""
    bound = upper_bound(Arm(200, 7), 0.05)
    mixture = math.lgamma(8) + math.lgamma(194) - math.lgamma(202)
    assert mixture - 7 * math.log(bound) - 193 * math.log(1 - bound) == pytest.approx(LIMIT)
    assert 7 / 200 < upper_bound(Arm(200, 7), 0.5) < bound < upper_bound(Arm(200, 8), 0.05)


def test_the_bound_holds_at_every_look() -> None:
    """In at most 5 % of the runs the bound is ever under the true rate."""
    random, failures = np.random.default_rng(0), 0
    for _ in range(RUNS):
        events = np.cumsum(random.random((60, 20)) < 0.05)[19::20]
        failures += any(upper_bound(Arm(20 * (n + 1), int(k)), 0.05) < 0.05 for n, k in enumerate(events))
    assert failures / RUNS <= SLACK


@pytest.mark.parametrize(
    ("alternative", "difference"), [((0.6, 0.2), 0.1), ((0.2, 0.2), 0.1), ((0.15, 0.2), 0.1), ((0.3, 0.01), 0.05)]
)
@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (5, 20), (30, 4)])
def test_shares_are_tested_against_all_of_the_null(
    alternative: tuple[float, float], difference: float, ours: int, theirs: int
) -> None:
    """The likelihood ratio has expectation at most 1 under every pair of rates of its null hypothesis."""
    beyond = alternative[0] - alternative[1] > difference

    def factor(units: int, rate: float, own: bool) -> float:
        hit, miss = (
            beyond_gain(Arm(ours, k if own else 0), Arm(theirs, 0 if own else k), alternative, difference)
            for k in (1, 0)
        )
        none = beyond_gain(Arm(ours, 0), Arm(theirs, 0), alternative, difference)
        return sum(
            math.comb(units, k) * rate**k * (1 - rate) ** (units - k) * math.exp(k * (hit - none))
            for k in range(units + 1)
        ) * (1.0 if miss == none else math.nan)

    for before in np.linspace(0.01, 0.99, 25):
        for now in np.linspace(0.01, 0.99, 25):
            inside = now - before <= difference if beyond else now - before >= difference
            if inside:
                start = math.exp(beyond_gain(Arm(ours, 0), Arm(theirs, 0), alternative, difference))
                expectation = start * factor(ours, now, own=True) * factor(theirs, before, own=False)
                assert expectation <= 1 + 1e-6


def test_what_cannot_be_is_no_evidence() -> None:
    """A share cannot pass 1, and a difference of 1 or more cannot be: such an alternative adds nothing."""
    assert beyond_gain(Arm(10, 10), Arm(10, 0), (1.4, 0.95), 0.3) == 0.0
    assert beyond_gain(Arm(10, 10), Arm(10, 0), (1.4, 0.2), 1.0) == 0.0
    assert beyond_gain(Arm(), Arm(), (0.6, 0.2), 0.1) == 0.0


def test_loud_blocks_are_held_down() -> None:
    """A block adds at most the cap; so many of the loudest add no more than an ordinary one; few are kept."""
    tracks = Tracks.start(1)
    for gain in (50.0, 0.5, -0.25, 1.0):
        tracks = tracks.add([gain])
    assert tracks.evidence() == pytest.approx(BLOCK_CAP + 1.25)
    assert tracks.evidence(1) == pytest.approx(ORDINARY + 1.25)
    assert tracks.evidence(9) == pytest.approx(2 * ORDINARY + 0.25)
    for _ in range(20):
        tracks = tracks.add([0.1 + ORDINARY])
    assert len(tracks.tops[0]) == KEPT
    assert mix([0.0, math.log(3)]) == pytest.approx(math.log(2))


def rate_run(
    seed: int, rates: tuple[float, float], looks: int, incidents: tuple[float, float] = (0, 0)
) -> RateEvidence:
    """Blocks of 30 and 120 units at these rates; with a chance an arm alone has an incident in a block."""
    random, evidence = np.random.default_rng(seed), RateEvidence()
    for _ in range(looks):
        now = [incidents[1] if random.random() < incidents[0] else rate for rate in rates]
        ours, theirs = (
            Arm(units, int(random.binomial(units, rate))) for units, rate in zip((30, 120), now, strict=True)
        )
        evidence = evidence.observe(ours, theirs, 1.5, incidents[0])
    return evidence


def test_equal_rates_are_seldom_called_worse() -> None:
    """Under a look after each of 60 blocks, at most 5 % of the runs ever call equal rates worse."""
    assert np.mean([rate_run(seed, (0.03, 0.03), 60).peak >= LIMIT for seed in range(RUNS)]) <= SLACK


def test_incidents_on_one_arm_are_seldom_called_worse() -> None:
    """Nor when in 2 % of the blocks one arm alone fails half of its requests."""
    found = [rate_run(seed, (0.01, 0.01), 60, (0.02, 0.5)).peak >= LIMIT for seed in range(RUNS)]
    assert np.mean(found) <= SLACK


def test_a_worse_rate_is_found() -> None:
    """Three times the rate is found in nearly all runs."""
    assert np.mean([rate_run(seed, (0.09, 0.03), 60, (0.02, 0.03)).peak >= LIMIT for seed in range(50)]) >= 0.9


@pytest.mark.parametrize("incident", [(0, 0), (0.02, 0.5)], ids=["steady", "incidents"])
def test_a_rate_at_the_margin_is_seldom_called_fine(incident: tuple[float, float]) -> None:
    """At the margin at most 5 % of the runs end in "not worse by the margin", also when incidents make the champion look
    bad; at equal rates most do, in time.
    """
    at_margin = [rate_run(seed, (0.15, 0.1), 60, incident).fine >= LIMIT for seed in range(RUNS)]
    equal = [rate_run(seed, (0.1, 0.1), 60, incident).fine >= LIMIT for seed in range(40)]
    assert np.mean(at_margin) <= SLACK
    assert np.mean(equal) >= 0.8


def share_run(seed: int, ours: list[float], looks: int, tolerance: float = 0.15) -> ShareEvidence:
    """Blocks of 5 and 20 units; the champion's shares are quarters."""
    random, evidence = np.random.default_rng(seed), ShareEvidence.start([50, 50, 50, 50])
    for _ in range(looks):
        shares = random.multinomial(5, ours).tolist(), random.multinomial(20, [0.25] * 4).tolist()
        evidence = evidence.observe(*shares, tolerance)
    return evidence


def test_a_tolerated_move_is_seldom_called_worse() -> None:
    """A share that moved by just the tolerance is called moved in at most 5 % of the runs, and one that stayed in fewer."""
    at_border = [share_run(seed, [0.4, 0.2, 0.2, 0.2], 40).peak >= LIMIT for seed in range(60)]
    assert np.mean(at_border) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def test_a_coin_flip_is_found_within_a_few_dozen_units() -> None:
    """A model whose scores all fall in one quartile is found after 30 of its units."""
    assert all(share_run(seed, [0.0, 1.0, 0.0, 0.0], 6).peak >= LIMIT for seed in range(20))


def test_equal_shares_are_surely_the_same_in_time() -> None:
    """Equal shares become "no share moved by the tolerance", and a move by the tolerance never does."""
    assert all(share_run(seed, [0.25] * 4, 160).same >= LIMIT for seed in range(5))
    assert not any(share_run(seed, [0.45, 0.25, 0.15, 0.15], 100).same >= LIMIT for seed in range(5))
    assert share_run(0, [0.25] * 4, 160).largest_move == pytest.approx(0, abs=0.06)


def test_a_ratio_that_is_not_under_the_margin_is_no_alternative() -> None:
    """With a margin of 1 (superiority) equal rates add nothing; only lower ones are evidence."""
    lower, low, equal = margin_gains(Arm(100, 1), Arm(300, 9), 1.0)
    assert (lower > 0, low > 0, equal) == (True, True, 0.0)
    assert margin_gains(Arm(100, 1), Arm(300, 9), 0.75)[1:] == (0.0, 0.0)
