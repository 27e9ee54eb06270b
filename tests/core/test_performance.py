"""Performance: exact sums of losses, intervals, and an e-CUSUM that seldom cries wolf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import events
from daemon.core.columns import Records
from daemon.core.losses import Moments
from daemon.core.performance import (
    CAP,
    LIMIT,
    Cusum,
    Losses,
    accumulate,
    fields,
    mean_loss,
    performance,
    sum_losses,
    wilson,
)  # fmt: skip
from daemon.core.reference import Reference, build_reference


def reference(task: str = "binary", mean: float = 0.1, variance: float = 0.09) -> Reference:
    """A reference of which only the losses matter."""
    blank = build_reference("regression" if task == "regression" else "binary", {}, Records(1, {}))
    return replace(blank, loss=Moments(50_000, mean, variance))


@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(0, 30))
def test_losses_add_up_exactly(values: list[float], cut: int) -> None:
    """Sums of parts equal the sum of all, bit for bit, also for regression."""
    known = reference("regression", 3.7, 2.0)
    whole = np.array(values, dtype=np.float64)
    assert sum_losses(known, whole) == sum_losses(known, whole[:cut]) + sum_losses(known, whole[cut:])


def test_mean_loss_is_that_of_the_rows() -> None:
    """Mean and variance are near the floating-point ones; rows without a loss are left out."""
    values = np.random.default_rng(0).gamma(2, 3, 1000)
    got = mean_loss(
        reference("regression", 6.0, 18.0), sum_losses(reference("regression", 6.0, 18.0), np.r_[values, np.nan])
    )
    assert got is not None
    assert got.rows == 1000
    assert got.mean == pytest.approx(values.mean(), rel=1e-6)
    assert got.variance == pytest.approx(values.var(ddof=1), rel=1e-5)


def test_accuracy_has_wilsons_interval() -> None:
    """90 of 100: .826 to .945 (Wilson 1927)."""
    got = performance(reference(), Losses(100, 10 << 24, 10 << 24))
    assert got is not None
    assert (got.metric, got.labelled) == ("accuracy", 100)
    assert (got.value, pytest.approx(got.lower, abs=1e-4), pytest.approx(got.upper, abs=1e-4)) == (0.9, 0.8256, 0.9448)
    assert (wilson(0, 5)[0], wilson(5, 5)[1]) == (0.0, 1.0)


def test_mae_has_students_interval() -> None:
    """Mean absolute error with its t interval; one row says nothing of the spread."""
    known = reference("regression", 2.0, 1.0)
    got = performance(known, sum_losses(known, np.array([1.0, 2.0, 3.0])))
    assert got is not None
    assert (got.metric, got.value) == ("mae", 2.0)
    assert got.upper == pytest.approx(2 + 4.302652 / 3**0.5, abs=1e-5)
    single = performance(known, sum_losses(known, np.array([1.0])))
    assert single is not None
    assert (single.lower, single.upper) == (None, None)


def test_no_labels_are_no_evidence() -> None:
    """A window without labels changes nothing and says nothing; nor does a reference without labels."""
    state = Cusum()
    assert (state, None) == accumulate(state, reference(), Losses(), 0)
    assert (state, None) == accumulate(state, replace(reference(), loss=None), Losses(10, 1 << 24, 1 << 24), 0)
    assert performance(reference(), Losses()) is None


def run(rates: list[float], rows: int, seed: int, known: Reference) -> list[tuple[Cusum, bool, float, float | None]]:
    """Windows with these error rates through the e-CUSUM."""
    random, state, seen = np.random.default_rng(seed), Cusum(), []
    for number, rate in enumerate(rates):
        state, alarm = accumulate(state, known, sum_losses(known, (random.random(rows) < rate).astype(float)), number)
        assert alarm is not None
        seen.append((state, alarm.alarm, alarm.evidence, alarm.loss_ratio_since_onset))
    return seen


def test_false_alarms_are_rare() -> None:
    """In 4000 windows without change there are at most a few alarms (one in 1000 at most on average)."""
    assert sum(alarm for _, alarm, _, _ in run([0.1] * 4000, 200, 0, reference())) <= 4


def test_a_grown_loss_is_found_with_its_onset() -> None:
    """After the error rate grows by half the alarm comes, the onset is near the change and the ratio near 1.5."""
    seen = run([0.1] * 20 + [0.15] * 15, 500, 1, reference())
    first = next(number for number, (_, alarm, _, _) in enumerate(seen) if alarm)
    state, _, evidence, ratio = seen[-1]
    assert 20 <= first <= 27
    assert state.leading.onset is not None
    assert abs(state.leading.onset - 20) <= 3
    assert ratio == pytest.approx(1.5, abs=0.15)
    assert LIMIT < evidence <= CAP


def test_a_mended_model_is_believed_again() -> None:
    """Evidence is capped, so a while after the loss is back there is no alarm any more."""
    seen = run([0.3] * 200 + [0.1] * 20, 500, 2, reference())
    assert seen[199][1]
    assert not seen[-1][1]


def test_regression_losses_are_gaussian() -> None:
    """The Gaussian log-likelihood ratio of the facts: n/s² (μ1 − μ0)(L − (μ0+μ1)/2) for each ratio."""
    known = reference("regression", 2.0, 1.0)
    state, alarm = accumulate(Cusum(), known, sum_losses(known, np.full(10, 3.0)), 5)
    gains = [10 / 1.0 * (2 * r - 2) * (3 - (2 + 2 * r) / 2) for r in (1.1, 1.25, 1.5, 2.0, 3.0)]
    assert gains == pytest.approx([track.log for track in state.tracks])
    assert alarm is not None
    assert (alarm.onset, pytest.approx(alarm.loss_ratio_since_onset)) == (5, 1.5)


def test_the_state_survives_the_store() -> None:
    """JSON gives the very same state back."""
    state = run([0.2] * 5, 100, 3, reference())[-1][0]
    assert state == Cusum.from_json(orjson.loads(orjson.dumps(state.to_json())))


def test_fields_fit_the_catalogue() -> None:
    """All measured fields are in the catalogue; coverage is labelled over eligible rows; gaps have reasons."""
    known = reference()
    losses = Losses(100, 10 << 24, 10 << 24)
    got = fields(performance(known, losses), accumulate(Cusum(), known, losses, 0)[1], 200)
    assert set(got) <= {field.name for field in events.CATALOGUE["performance.measured"].fields}
    assert (got["coverage"], pytest.approx(got["loss_ratio"]), got["unset"]) == (0.5, 1.0, {})
    blank = replace(known, loss=None)
    bare = fields(performance(blank, losses), None, 0)
    assert {"loss_ratio", "evidence"} == set(bare["unset"])
    assert bare["coverage"] is None
    assert fields(None, None, 3)["unset"] == {"value": "no row has a label"}


def test_a_reference_without_errors_has_no_ratios() -> None:
    """Where the reference made no error, no number of errors is a ratio: no evidence, no division by zero."""
    state, alarm = accumulate(Cusum(), reference(mean=0.0, variance=0.0), Losses(10, 10 << 24, 10 << 24), 0)
    assert (state.evidence, alarm.alarm if alarm else None) == (0.0, False)


def test_good_windows_buy_no_credit() -> None:
    """However long all was well before, a bad window counts as much as at the start."""
    known, bad = reference(), Losses(100, 30 << 24, 30 << 24)
    fresh, _ = accumulate(Cusum(), known, bad, 0)
    state = Cusum()
    for start in range(50):
        state, _ = accumulate(state, known, Losses(100, 5 << 24, 5 << 24), start)
    used, alarm = accumulate(state, known, bad, 50)
    assert [track.log for track in used.tracks] == pytest.approx([track.log for track in fresh.tracks])
    assert alarm is not None
    assert alarm.onset == 50
