"""The reference: bins that hold every kind of column, ranges, calibration and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daemon.core.columns import FeatureKind, Records, column
from daemon.core.errors import BadInput
from daemon.core.losses import expected_losses, isotonic, losses
from daemon.core.reference import Reference, bins, build_reference, trailing


def records(rows: int = 1000, seed: int = 0, **columns: Any) -> Records:
    """Binary records with well calibrated scores."""
    random = np.random.default_rng(seed)
    score = random.random(rows)
    label = (random.random(rows) < score).astype(int)
    return Records(
        rows,
        {name: column("category" if values.dtype == object else "number", values) for name, values in columns.items()},
        prediction=column("category", (score >= 0.5).astype(int)),
        score=column("number", score),
        label=column("category", label),
    )


def test_bins_lie_at_the_quantiles() -> None:
    """Distinct values are spread evenly over ten bins."""
    got = bins(column("number", np.random.default_rng(0).normal(size=1000)), 10)
    assert got.counts == (100,) * 10
    assert len(got.edges) == 9


@pytest.mark.parametrize(
    ("values", "counts"),
    [([5.0] * 8, (0, 8, 0)), ([0.0, 1.0, 1.0, 2.0], (1, 2, 1)), ([], (0,)), ([None, None], (0,))],
    ids=["constant", "few values", "empty", "all missing"],
)
def test_odd_number_columns_have_bins(values: list[float], counts: tuple[int, ...]) -> None:
    """A constant has a bin of its own and one on either side; few values have one each; nothing has one."""
    got = bins(column("number", values), 10)
    assert counts == got.counts
    assert len(got.edges) + 1 == len(got.counts)


def test_ties_stay_whole() -> None:
    """A value that half of the rows have is in one bin, and every bin has rows."""
    values = np.r_[np.zeros(500), np.random.default_rng(0).random(500)]
    got = bins(column("number", values), 10)
    assert got.counts[0] == 500
    assert 0 not in got.counts


def test_rare_and_new_categories_share_the_last_bin() -> None:
    """A category under half a percent has no bin of its own but is known."""
    got = bins(column("category", ["a"] * 600 + ["b"] * 398 + ["c"] * 2), 10)
    assert got.categories == ("a", "b")
    assert got.counts == (600, 398, 2)
    assert got.codes(column("category", ["c", "new", None, "a"])).tolist() == [2, 2, -1, 0]
    assert "c" in got.known


def test_a_column_of_the_other_kind_is_refused() -> None:
    """Bins of numbers cannot count categories."""
    with pytest.raises(BadInput, match="category column"):
        bins(column("number", [1, 2]), 10).codes(column("category", ["a"]))


def test_isotonic_bends_where_it_must() -> None:
    """The fit ascends, pools what falls, and keeps only the points where it bends."""
    fitted = isotonic(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0]))
    assert fitted.scores == (0.1, 0.2, 0.4, 0.5, 0.6)
    assert (0.0, pytest.approx(1 / 3), pytest.approx(1 / 3), 1.0, 1.0) == fitted.probabilities
    assert [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0] == fitted.apply(
        np.array([0.0, 0.25, 0.45, 9.0])
    ).tolist()


def test_the_positive_class_is_the_one_with_higher_scores() -> None:
    """Scores are probabilities of the class whose rows have the higher ones."""
    assert build_reference("binary", {}, records()).positive == "1"


def test_estimated_loss_is_near_the_realised_one() -> None:
    """On the reference itself the estimate is right: it was calibrated there."""
    reference = build_reference("binary", {}, records(20_000))
    assert reference.estimated is not None
    assert reference.loss is not None
    assert reference.estimated.mean == pytest.approx(reference.loss.mean, abs=0.002)
    assert reference.loss.mean == pytest.approx(0.25, abs=0.01)


def test_multiclass_is_calibrated_on_being_right() -> None:
    """With the score as probability of the predicted class, the expected accuracy is the mean calibrated score."""
    random = np.random.default_rng(0)
    score = random.uniform(0.4, 1, 20_000)
    right = random.random(20_000) < score**2  # over-confident
    prediction = random.choice(np.array(["a", "b", "c"], dtype=object), 20_000)
    label = np.where(right, prediction, "d")
    known = Records(20_000, {}, column("category", prediction), column("number", score), column("category", label))
    reference = build_reference("multiclass", {}, known)
    assert reference.calibration is not None
    expected = expected_losses(reference.calibration, "multiclass", "", known)
    assert float(expected.mean()) == pytest.approx(1 - right.mean(), abs=0.002)
    assert reference.output == "score"


def test_regression_has_absolute_errors_and_no_estimate() -> None:
    """Losses are absolute errors; 80 % of them are at most `large_error`."""
    truth = np.arange(100.0)
    known = Records(100, {}, column("number", truth + np.arange(100) / 10), label=column("number", truth))
    reference = build_reference("regression", {}, known)
    assert reference.loss is not None
    assert reference.loss.mean == pytest.approx(4.95)
    assert reference.large_error == pytest.approx(7.92)
    assert (reference.calibration, reference.output) == (None, "prediction")


def test_losses_need_prediction_and_label() -> None:
    """A row without one of the two has no loss; without predictions a binary score of .5 decides."""
    known = Records(3, {}, column("category", ["1", None, "0"]), None, column("category", ["1", "1", "1"]))
    assert [None if np.isnan(loss) else loss for loss in losses("binary", known)] == [0.0, None, 1.0]
    scored = Records(3, {}, None, column("number", [0.9, 0.1, None]), column("category", ["1", "1", "1"]))
    assert [None if np.isnan(loss) else loss for loss in losses("binary", scored, "1")] == [0.0, 1.0, None]


def test_equal_content_has_an_equal_digest() -> None:
    """The digest names the content: the same rows give it again, one other value does not."""
    kinds: dict[str, FeatureKind] = {"x": "number"}

    def digest(value: float) -> str:
        return build_reference("binary", kinds, records(x=np.r_[value, np.arange(999.0)])).digest

    assert digest(1.0) == digest(1.0)
    assert digest(1.0) != digest(-1.0)


def test_a_reference_without_rows_or_columns_is_refused() -> None:
    """BadInput names what is missing."""
    with pytest.raises(BadInput, match="no rows"):
        build_reference("binary", {}, records(0))
    with pytest.raises(BadInput, match="no column x"):
        build_reference("binary", {"x": "number"}, records())


def test_a_trailing_reference_keeps_bins_and_takes_counts() -> None:
    """Panes kept in the bins of the origin can be held against it; its digest is another."""
    origin: Reference = build_reference("binary", {"x": "number"}, records(x=np.arange(1000.0)))
    assert origin.outputs is not None
    moved = trailing(origin, {"x": (10,) * 10}, (5,) * len(origin.outputs.counts))
    assert origin.panes == moved.panes
    assert origin.digest != moved.digest
    assert moved.features["x"].counts == (10,) * 10
    assert origin.features["x"].edges == moved.features["x"].edges


def test_ties_at_the_top_leave_no_empty_bin() -> None:
    """Where half of the rows have the largest value, the last bin is theirs."""
    values = np.r_[np.ones(500), np.random.default_rng(0).random(500)]
    got = bins(column("number", values), 10)
    assert got.counts[-1] >= 500
    assert 0 not in got.counts
