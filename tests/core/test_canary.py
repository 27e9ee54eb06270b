"""Canary verdicts: worse, non-inferior or undecided; no data is never good, and nothing inconclusive promotes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.canary import GUARDS, Canary, Finding, Outlook, Plan, guard, observe, verdict, warm
from daemon.core.events import LATENCY_EDGES_MS

BUCKETS = len(LATENCY_EDGES_MS) + 1
EVEN = [0.05] * 20
COIN = [0.0] * 8 + [0.25] * 4 + [0.0] * 8
ALL = tuple(guard(name) for name in GUARDS)


def arm(
    random: np.random.Generator,
    units: int,
    failed: float = 0.0,
    scores: list[float] = EVEN,
    slower: int = 0,
    wrong: float = 0.07,
) -> dict[str, Any]:
    """One arm of a traffic.measured event: a unit is one request, latencies are lognormal in the event's buckets."""
    speeds = np.clip(np.round(random.normal(24, 3, units)).astype(int) + slower, 0, BUCKETS - 1)
    errors = int(random.binomial(units, failed))
    return {
        "requests": units,
        "errors": errors,
        "units": units,
        "failed_units": errors,
        "latency": np.bincount(speeds, minlength=BUCKETS).tolist(),
        "scores": random.multinomial(units, scores).tolist(),
        "labelled": units,
        "wrong": int(random.binomial(units, wrong)),
    }


def run(
    blocks: int, plan: Plan | None = None, units: tuple[int, int] = (40, 120), seed: int = 0, **ours: Any
) -> Canary:
    """A canary of so many blocks (it ends when it is rejected) after the champion's history."""
    random = np.random.default_rng(seed)
    canary = Canary(plan or Plan("1", "2", ALL))
    canary = warm(canary, {"1": arm(random, 400)})
    for _ in range(blocks):
        canary = observe(canary, {"1": arm(random, units[1]), "2": arm(random, units[0], **ours)})
        if verdict(canary).outlook is Outlook.REJECT:
            break
    return canary


def test_a_good_challenger_becomes_eligible() -> None:
    """With every guard non-inferior and enough requests the challenger may be promoted, each guard with its reason."""
    got = verdict(run(60))
    assert Outlook.ELIGIBLE is got.outlook
    assert dict.fromkeys(GUARDS, Finding.NON_INFERIOR) == {name: report.finding for name, report in got.guards.items()}
    assert got.requests == 2400
    assert len(GUARDS) == len(got.reasons)


@pytest.mark.parametrize(
    ("ours", "culprit", "within"),
    [
        ({"failed": 0.05}, "error_rate", 800),
        ({"failed": 1.0}, "error_rate", 240),
        ({"scores": COIN}, "prediction_shift", 240),
        ({"slower": 4}, "latency_p95", 800),
        ({"wrong": 0.5}, "accuracy", 320),
    ],
    ids=["5 % errors", "total failure", "coin flip", "slow", "wrong"],
)
def test_a_bad_challenger_is_rejected(ours: dict[str, Any], culprit: str, within: int) -> None:
    """Each fault is found by the guard for it, within some hundred requests, and the reason names it."""
    canary = run(60, **ours)
    got = verdict(canary)
    assert Outlook.REJECT is got.outlook
    assert Finding.WORSE is got.guards[culprit].finding
    assert canary.requests <= within
    assert any(reason.startswith(culprit) for reason in got.reasons)


def test_a_retrained_model_may_move_its_scores() -> None:
    """Quartile shares that moved by five points, as retraining after drift does, neither reject nor keep undecided."""
    moved = [0.06] * 5 + [0.04] * 5 + [0.04] * 5 + [0.06] * 5
    assert Outlook.ELIGIBLE is verdict(run(80, scores=moved)).outlook


COUNT = st.integers(0, 60)


@st.composite
def arms(draw: st.DrawFn) -> dict[str, Any]:
    """Any arm that could be measured."""
    units, labelled = draw(COUNT), draw(COUNT)
    return {
        "requests": units + draw(COUNT), "errors": 0, "units": units, "failed_units": draw(st.integers(0, units)),
        "latency": draw(st.lists(COUNT, min_size=BUCKETS, max_size=BUCKETS)) if draw(st.booleans()) else None,
        "scores": draw(st.lists(COUNT, min_size=4, max_size=4)) if draw(st.booleans()) else [],
        "labelled": labelled, "wrong": draw(st.integers(0, labelled)),
    }  # fmt: skip


BLOCK = st.dictionaries(st.sampled_from(["1", "2", "3"]), arms(), max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(BLOCK, max_size=6))
def test_any_traffic_has_a_verdict_that_survives_the_store(blocks: list[Mapping[str, Any]]) -> None:
    """Whatever is measured, there is a verdict with a reason; eligible means that every guard is non-inferior; a canary
    stored and restored between any two blocks goes on the same.
    """
    straight = stored = Canary(Plan("1", "2", ALL, baseline_units=30, min_requests=10))
    for block in blocks:
        straight = observe(straight, block)
        stored = observe(Canary.from_json(orjson.loads(orjson.dumps(stored.to_json()))), block)
    got = verdict(straight)
    orjson.dumps(got.to_json())
    findings = {report.finding for report in got.guards.values()}
    assert straight == stored
    assert all(report.reason for report in got.guards.values())
    assert got.reasons
    assert (Outlook.REJECT is got.outlook) == (Finding.WORSE in findings)
    if got.outlook is Outlook.ELIGIBLE:
        assert {Finding.NON_INFERIOR} == findings


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_without_the_challengers_data_is_undecided(name: str) -> None:
    """However much the champion serves, a challenger that serves nothing is never non-inferior, nor worse."""
    random = np.random.default_rng(0)
    canary = Canary(Plan("1", "2", (guard(name),), min_requests=0))
    for _ in range(30):
        canary = observe(canary, {"1": arm(random, 200, failed=0.1)})
    assert Finding.UNDECIDED is verdict(canary).guards[name].finding
    assert Outlook.UNDECIDED is verdict(canary).outlook


@pytest.mark.parametrize("field", ["latency", "scores", "labelled"])
def test_a_missing_measurement_never_promotes(field: str) -> None:
    """An outage of one measurement keeps the canary undecided, with the guard named."""
    random = np.random.default_rng(0)
    canary = Canary(Plan("1", "2", ALL))
    for _ in range(60):
        block = {"1": arm(random, 120), "2": arm(random, 40)}
        for each in block.values():
            each[field] = 0 if field == "labelled" else None
            each["wrong"] = 0 if field == "labelled" else each["wrong"]
        canary = observe(canary, block)
    got = verdict(canary)
    assert Outlook.UNDECIDED is got.outlook
    assert len(got.reasons) == 1


def test_too_few_requests_never_promote() -> None:
    """Non-inferior on every guard is not enough under `min_requests`."""
    got = verdict(run(60, Plan("1", "2", ALL, min_requests=5000)))
    assert Outlook.UNDECIDED is got.outlook
    assert got.reasons == ("2400 of at least 5000 requests so far",)


def test_no_guard_never_promotes() -> None:
    """A canary that checks nothing knows nothing."""
    assert Outlook.UNDECIDED is verdict(run(60, Plan("1", "2", ()))).outlook


def test_errors_under_the_tolerance_are_tolerated() -> None:
    """Rarely failing is fine under the absolute tolerance, even where the champion never fails."""
    got = verdict(run(300, Plan("1", "2", (guard("error_rate", tolerance=0.02),)), failed=0.003))
    assert Outlook.ELIGIBLE is got.outlook


def test_borders_are_frozen_before_they_are_tested() -> None:
    """Without history the first blocks set the champion's P95 and quartiles, and are not tested by those guards."""
    random = np.random.default_rng(0)
    canary = Canary(Plan("1", "2", ALL, baseline_units=100))
    first = observe(canary, {"1": arm(random, 120), "2": arm(random, 40)})
    assert "latency_p95" not in first.rates
    assert first.rates["error_rate"].challenger.units == 40
    second = observe(first, {"1": arm(random, 120), "2": arm(random, 40)})
    assert second.rates["latency_p95"].challenger.units == 40
    third = observe(second, {"1": arm(random, 120, slower=20), "2": arm(random, 40)})
    assert (second.slow_from, second.groups) == (third.slow_from, third.groups)


def test_scores_in_other_bins_are_left_out() -> None:
    """A block counted in the bins of another reference says nothing about the shift."""
    canary = run(3)
    assert canary.shift is not None
    other = observe(canary, {"1": {"scores": [5, 5]}, "2": {"scores": [5, 5]}})
    assert other.shift is not None
    assert canary.shift.challenger == other.shift.challenger


@pytest.mark.slow
@pytest.mark.parametrize("incident", [False, True], ids=["steady", "incidents"])
def test_false_rollbacks_stay_under_alpha(incident: bool) -> None:
    """Equal versions, all guards, a look after every block: at most 5 % of the canaries are ever rejected, also when an
    arm alone fails a fifth of its requests in 2 % of the blocks.
    """
    rejected, runs = 0, 100
    for seed in range(runs):
        random = np.random.default_rng(seed)
        canary = warm(Canary(Plan("1", "2", ALL)), {"1": arm(random, 400)})
        for _ in range(60):
            failed = [0.2 if incident and random.random() < 0.02 else 0.01 for _ in range(2)]
            canary = observe(canary, {"1": arm(random, 180, failed[0]), "2": arm(random, 20, failed[1])})
        rejected += verdict(canary).outlook is Outlook.REJECT
    assert rejected / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize(
    ("name", "tolerance", "margin"),
    [("errors", None, None), ("error_rate", 0.0, None), ("error_rate", 1.0, None), ("accuracy", None, 1.0)],
)
def test_senseless_guards_are_refused(name: str, tolerance: float | None, margin: float | None) -> None:
    """Unknown names, tolerances that are no share and margins that allow nothing are mistakes."""
    with pytest.raises(ValueError, match=name):
        guard(name, tolerance, margin)


def test_verdicts_need_the_standard_library_only() -> None:
    """The daemon process judges canaries without loading numpy or scipy."""
    program = "import sys, daemon.core.canary; print([m for m in ('numpy', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
