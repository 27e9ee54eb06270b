"""Drift: scores that are calibrated, effects that are zero without change, verdicts that need both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from daemon.core import events
from daemon.core.columns import Batch, FeatureKind, Records, column
from daemon.core.drift import Drift, Score, benjamini_hochberg, chi_square, histogram_scores, judge, measure, psi
from daemon.core.errors import BadInput
from daemon.core.histograms import added, coarsen, grouped, quantile_bin
from daemon.core.methods import METHODS, fit_null, sample_score
from daemon.core.panes import Pane, empty, observe
from daemon.core.reference import Reference, build_reference

KINDS: dict[str, FeatureKind] = {"amount": "number", "plan": "category"}


def stream(rows: int, seed: int, shift: float = 0.0) -> Records:
    """Records whose amount and plan move by `shift`, with well calibrated scores that follow them."""
    random = np.random.default_rng(seed)
    amount = random.normal(shift, 1, rows)
    plan = random.choice(np.array(["a", "b"], dtype=object), rows, p=[0.5 + shift / 4, 0.5 - shift / 4])
    score = 1 / (1 + np.exp(-3 * amount - shift))
    label = (random.random(rows) < score).astype(int)
    return Records(
        rows,
        {"amount": column("number", amount), "plan": column("category", plan)},
        column("category", (score >= 0.5).astype(int)),
        column("number", score),
        column("category", label),
    )


def window(reference: Reference, rows: int, seed: int, shift: float = 0.0) -> Pane:
    """A window of the stream."""
    numbers = np.arange(rows)
    batch = Batch(stream(rows, seed, shift), [str(number) for number in numbers], numbers, numbers)
    return observe(empty(reference), reference, batch)


@pytest.fixture(scope="module")
def reference() -> Reference:
    """A reference of 5000 rows."""
    return build_reference("binary", KINDS, stream(5000, 0))


def test_psi_is_what_the_formula_says() -> None:
    """Half a row is added to each bin; p-value and effect follow from 1/n + 1/m."""
    found = psi([50, 50], [30, 10])
    p, q = (50.5 / 101, 50.5 / 101), (30.5 / 41, 10.5 / 41)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    spread = 1 / 100 + 1 / 40
    assert found.score == pytest.approx(expected)
    assert found.effect == pytest.approx(expected - spread)
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(expected / spread / 2)))
    assert (found.method, found.basis, found.floor, found.rows) == ("psi", "histogram", 0.1, 40)


def test_chi_square_is_the_two_sample_test() -> None:
    """The statistic is that of the 2 x B table, as textbooks (and scipy) have it."""
    found = chi_square([50, 30, 20], [30, 10, 10])
    assert found.score == pytest.approx(1.875)
    assert found.p_value == pytest.approx(math.exp(-1.875 / 2))


@pytest.mark.parametrize("method", [psi, chi_square])
@pytest.mark.parametrize("shares", [[0.1] * 10, [0.45, 0.3, 0.2, 0.04, 0.009, 0.001]], ids=["quantiles", "skewed"])
@pytest.mark.parametrize(("rows", "reference_rows"), [(50, 5000), (500, 500), (500, 50_000)])
def test_p_values_are_calibrated(method: object, shares: list[float], rows: int, reference_rows: int) -> None:
    """Without change p is at most .05 in about 5 % of the windows, and the effect is 0 on average."""
    random = np.random.default_rng(1)
    draws = [
        (psi if method is psi else chi_square)(
            random.multinomial(reference_rows, shares).tolist(), random.multinomial(rows, shares).tolist()
        )
        for _ in range(1500)
    ]
    share = np.mean([score.p_value <= 0.05 for score in draws])
    assert 0.02 <= share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)
    assert abs(np.mean([score.effect for score in draws])) <= 0.2 * len(shares) / rows


@pytest.mark.parametrize(
    ("before", "now"),
    [([100, 0, 0], [60, 0, 0]), ([0], [50]), ([500, 500, 0], [250, 250, 0])],
    ids=["one bin", "no bins", "empty bin"],
)
def test_nothing_changed_is_no_drift(before: list[int], now: list[int]) -> None:
    """Equal shares, however few bins are filled, have no effect and a p-value of 1."""
    if sum(before) == 0:
        before = [50]
    found = psi(before, now)
    assert found.p_value == pytest.approx(1, abs=0.05)
    assert found.effect <= 0


def test_one_new_row_is_no_drift_but_many_are() -> None:
    """A single row where the reference has none decides nothing (facts: p = 0 with Evidently's chi-square)."""
    before = [25_000, 24_990, 10, 0]
    assert psi(before, [250, 249, 0, 1]).p_value > 0.01
    assert psi(before, [200, 200, 0, 100]).p_value < 1e-10
    assert psi(before, [200, 200, 0, 100]).effect > 0.1


def test_benjamini_hochberg() -> None:
    """Adjusted p-values ascend with the raw ones, and equal scipy's on a textbook case."""
    assert pytest.approx(benjamini_hochberg([0.005, 0.04, 0.03, 0.9])) == [0.02, 0.0533333333, 0.0533333333, 0.9]
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize(
    ("p_value", "effect", "drifted"),
    [(1e-6, 0.2, True), (1e-6, 0.05, False), (0.01, 0.5, False), (0.0005, 0.1, True)],
    ids=["both", "too small", "by chance", "at the borders"],
)
def test_a_column_drifts_when_significant_and_material(p_value: float, effect: float, drifted: bool) -> None:
    """Both the adjusted p-value and the effect must speak; the p-value is adjusted for the columns."""
    scores = {"x": Score("psi", "histogram", effect, effect, 0.1, p_value, 500)}
    others = {"y": replace(scores["x"], p_value=0.9, effect=0.0)}
    verdicts = judge({**scores, **others})
    assert drifted == verdicts["x"].drifted
    assert verdicts["x"].p_value == pytest.approx(2 * p_value)
    assert not verdicts["y"].drifted


def test_no_change_is_quiet_and_change_is_seen(reference: Reference) -> None:
    """A window like the reference has no drift; a moved one drifts in inputs and outputs."""
    same, moved = (measure(reference, window(reference, 500, 7, shift)) for shift in (0.0, 1.5))
    assert same.drifted_columns == 0
    assert same.prediction is not None
    assert not same.prediction.drifted
    assert {"amount", "plan"} == {name for name, found in moved.columns.items() if found.drifted}
    assert moved.prediction is not None
    assert moved.prediction.drifted


def test_few_values_are_no_statement(reference: Reference) -> None:
    """With fewer than 50 values nothing is said: neither drift nor its absence."""
    got = measure(reference, window(reference, 49, 1)).fields()
    assert got["columns"] == {}
    assert "drifted_columns" not in got
    assert {
        "columns.amount", "columns.plan", "drifted_columns", "prediction_drifted", "estimated_loss",
    } == set(got["unset"])  # fmt: skip
    assert got["unset"]["columns.amount"] == "the window has 49 values, 50 are needed"


def test_fields_fit_the_catalogue(reference: Reference) -> None:
    """Every field that is measured is in the catalogue of events, with the column fields in place."""
    declared = {field.name: field for field in events.CATALOGUE["drift.measured"].fields}
    got = measure(reference, window(reference, 500, 2, 1.0)).fields()
    assert set(got) <= set(declared)
    assert {field.name for field in declared["columns"].fields} == set(got["columns"]["amount"])
    assert got["unset"] == {}
    assert got["worst_column"] == "amount"
    assert got["drifted_share"] == 1.0


def test_the_estimated_loss_grows_with_the_loss(reference: Reference) -> None:
    """Scores that are less sure mean a larger estimated loss, with a small p-value; the same scores mean neither."""
    random = np.random.default_rng(5)
    rows = 500
    score = random.uniform(0.3, 0.7, rows)
    records = stream(rows, 5)
    unsure = replace(records, score=column("number", score), prediction=column("category", (score >= 0.5).astype(int)))
    numbers = np.arange(rows)
    pane = observe(empty(reference), reference, Batch(unsure, [str(n) for n in numbers], numbers, numbers))
    grown, same = measure(reference, pane).fields(), measure(reference, window(reference, 500, 6)).fields()
    assert grown["estimated_loss_ratio"] > 1.5
    assert grown["estimated_loss_p_value"] < 0.001
    assert 0.8 < same["estimated_loss_ratio"] < 1.25
    assert same["estimated_loss_p_value"] > 0.01


def test_a_pane_of_another_reference_is_refused(reference: Reference) -> None:
    """Counts in other bins mean nothing."""
    with pytest.raises(BadInput, match="another reference"):
        measure(replace(reference, panes="other"), window(reference, 60, 1))


def test_chi_square_can_be_chosen(reference: Reference) -> None:
    """The second histogram method gives the same verdict on a plain change."""
    scores, unset = histogram_scores(reference, window(reference, 500, 3, 1.5), "chi_square")
    drift: Mapping[str, bool] = {name: found.drifted for name, found in judge(scores).items()}
    assert unset == {}
    assert drift == {"amount": True, "plan": True}


def test_no_columns_are_no_drift_verdict() -> None:
    """Nothing measured is unknown, never zero."""
    assert Drift({}, None, unset={"drifted_columns": "why"}).fields() == {
        "columns": {},
        "unset": {"drifted_columns": "why"},
    }


def test_bins_are_put_together_by_size() -> None:
    """Neighbours form groups of like size; a large bin stays alone; counts are kept."""
    assert coarsen([1, 1, 1, 1], 2) == (0, 0, 1, 1)
    assert coarsen([9, 1, 1, 1], 2) == (0, 1, 1, 1)
    assert coarsen([5, 5, 5], 4) == (0, 1, 2)
    assert coarsen([], 4) == ()
    assert grouped([1, 1, 3, 1], (0, 0, 1, 1)) == (2, 4)
    assert max(coarsen([5] * 20, 5)) == 4


def test_quantile_of_a_histogram() -> None:
    """The bin in which the quantile lies; nothing has none."""
    assert [quantile_bin([50, 45, 5], share) for share in (0.5, 0.95, 0.96)] == [0, 1, 2]
    with pytest.raises(ValueError, match="empty"):
        quantile_bin([0, 0], 0.5)
    assert added((), [1, 2]) == (1, 2)
    assert added((1, 2), (1, 2)) == (2, 4)


def test_null_tables_have_tails() -> None:
    """Inside the draws their share counts; beyond them the tail falls on, so that a small alpha can be passed."""
    table = fit_null(np.random.default_rng(0).gamma(4, 1, 400))
    assert table.p_value(4.0) == pytest.approx(0.43, abs=0.06)
    assert 1e-5 < table.p_value(15.0) < 1e-3
    assert table.p_value(40.0) < 1e-9
    assert table.p_value(0.0) == pytest.approx(1)
    assert (fit_null(np.ones(9)).p_value(1.0), fit_null(np.ones(9)).p_value(2.0)) == (1.0, 0.0)


@pytest.mark.parametrize(("sign", "far"), [(1, 8.0), (-1, 4.0)], ids=["right skew", "left skew"])
def test_tails_follow_the_skew(sign: int, far: float) -> None:
    """A tail on the skewed side is heavier than a normal one, on the other side lighter."""
    draws = np.random.default_rng(0).gamma(4, 1, 5000) * sign
    table = fit_null(draws)
    normal = 0.5 * math.erfc(
        (far * sign + 6 - table.mean if sign < 0 else far + 6 - table.mean) / table.deviation / math.sqrt(2)
    )
    found = table.p_value(far + 6 if sign > 0 else 2.0)
    assert found > normal if sign > 0 else found < 1e-3


def test_scores_on_the_sample() -> None:
    """Distances are corrected by the null's mean; p-values borrow their size from PSI; open methods need a null."""
    size = Score("psi", "histogram", 0.5, 0.4, 0.1, 1e-9, 300)
    table = fit_null(np.random.default_rng(0).normal(0.05, 0.01, 400))
    distance = sample_score(METHODS["wasserstein"], 0.5, table, size)
    assert distance.effect == pytest.approx(0.45, abs=0.01)
    assert distance.p_value < 1e-9
    closed = sample_score(METHODS["ks"], 1e-7, None, size)
    assert (
        closed.basis, closed.score, closed.effect, closed.floor, closed.p_value, closed.rows,
    ) == ("sample", 1e-7, 0.4, 0.1, 1e-7, 300)  # fmt: skip
    with pytest.raises(ValueError, match="null"):
        sample_score(METHODS["wasserstein"], 0.5, None, size)
