"""Panes: counts of every row, and merging that is exact whatever the order and the batches."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.columns import Batch, FeatureKind, Records, column
from daemon.core.errors import BadInput
from daemon.core.panes import Counts, Pane, empty, from_bytes, merge, merge_all, observe, output_codes, to_bytes
from daemon.core.reference import Reference, build_reference

KINDS: dict[str, FeatureKind] = {"amount": "number", "plan": "category"}
SAMPLE = 7


def records(amount: Any, plan: Any, score: Any) -> Records:
    """Binary records."""
    scores = column("number", score)
    predicted = column("category", ["" if np.isnan(value) else str(int(value >= 0.5)) for value in scores.values])
    return Records(
        len(score), {"amount": column("number", amount), "plan": column("category", plan)}, predicted, scores
    )


@cache
def reference() -> Reference:
    """A reference of 500 rows."""
    random = np.random.default_rng(0)
    score = random.random(500)
    known = records(random.normal(size=500), random.choice(["a", "b"], 500), score)
    label = column("category", (random.random(500) < score).astype(int))
    return build_reference("binary", KINDS, Records(500, known.features, known.prediction, known.score, label))


ROW = st.tuples(
    st.one_of(st.none(), st.floats(-4, 4), st.just(float("inf")), st.just("x")),
    st.sampled_from(["a", "b", "new", "", None]),
    st.one_of(st.none(), st.floats(0, 1)),
)


def batch(rows: list[tuple[Any, Any, Any]], first: int = 0) -> Batch:
    """Rows with ids that repeat now and then, as real ones do."""
    positions = np.arange(first, first + len(rows))
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    ids = [f"id-{position % 50}" for position in positions.tolist()]
    return Batch(records(*columns), ids, positions, positions * 1_000_000 - 5)


def pane(rows: list[tuple[Any, Any, Any]], first: int = 0) -> Pane:
    """The rows observed at once."""
    return observe(empty(reference(), SAMPLE), reference(), batch(rows, first))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=40), st.lists(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_panes_do_not_depend_on_batches_or_order(rows: list[Any], cuts: list[int], random: Any) -> None:
    """Rows cut into any batches and merged in any order give bit for bit the same pane."""
    borders = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [pane(rows[a:b], a) for a, b in pairwise(borders)]
    random.shuffle(parts)
    assert to_bytes(pane(rows)) == to_bytes(merge_all(parts))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=20), st.lists(ROW, max_size=20), st.lists(ROW, max_size=20))
def test_merging_is_associative_and_commutative(one: list[Any], two: list[Any], three: list[Any]) -> None:
    """merge(a, merge(b, c)) == merge(merge(a, b), c), merge(a, b) == merge(b, a), and the empty pane changes nothing."""
    a, b, c = pane(one), pane(two, 100), pane(three, 200)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, b) == merge(b, a)
    assert a == merge(a, empty(reference(), SAMPLE))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=40))
def test_every_row_is_counted_once_in_every_column(rows: list[Any]) -> None:
    """A row is in a bin, missing or invalid; new and out-of-range rows are in bins too; bytes give the pane back."""
    got = pane(rows)
    for counts in got.features.values():
        assert len(rows) == counts.values + counts.missing + counts.invalid
        assert counts.values >= counts.new + counts.below + counts.above
    assert len(rows) == got.rows
    assert min(len(rows), SAMPLE) == got.sample.rows
    assert got == from_bytes(to_bytes(got))


def test_counts_of_odd_rows() -> None:
    """Each oddity is counted where the quality gate looks for it."""
    got = pane([(99.0, "a", 0.1), (-99.0, "new", 0.2), (None, None, None), ("x", "", 0.9), (float("inf"), "b", 0.5)])
    amount, plan = got.features["amount"], got.features["plan"]
    assert (amount.missing, amount.invalid, amount.new, amount.below, amount.above) == (1, 2, 0, 1, 1)
    assert (plan.missing, plan.invalid, plan.new) == (2, 0, 1)
    assert (got.first, got.last, got.start, got.end) == (0, 4, -5, 3_999_995)
    assert got.scored == 4


def test_an_absent_column_is_counted_as_such() -> None:
    """Rows of a batch without the column are absent and missing."""
    without = Batch(Records(2, {"amount": column("number", [1, 2])}), ["a", "b"], np.arange(2), np.arange(2))
    got = observe(empty(reference(), SAMPLE), reference(), without)
    assert (got.features["plan"].absent, got.features["plan"].missing) == (2, 2)
    assert got.outputs is not None
    assert got.outputs.absent == 2


def test_expected_loss_is_the_mean_of_the_rows() -> None:
    """The fixed-point sums give mean and variance of the calibrated losses."""
    from daemon.core.losses import expected_losses  # noqa: PLC0415

    random = np.random.default_rng(3)
    rows = [(0.0, "a", value) for value in random.random(300)]
    got, known = pane(rows), reference()
    assert known.calibration is not None
    expected = expected_losses(known.calibration, "binary", known.positive, batch(rows).records)
    assert got.expected_loss == pytest.approx(expected.mean(), abs=1e-11)
    assert got.expected_variance == pytest.approx(expected.var(ddof=1), abs=1e-11)


def test_the_sample_holds_the_rows_themselves() -> None:
    """A sampled row is one of the rows, with gaps as gaps, and the order of the stream can be had again."""
    rows = [(float(number), None if number % 2 else "a", number / 10) for number in range(5)]
    got = pane(rows).sample.in_order()
    assert got.positions.tolist() == [0, 1, 2, 3, 4]
    assert [f"id-{number}" for number in range(5)] == got.ids.tolist()
    assert got.features["amount"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert got.features["plan"].tolist() == ["a", None, "a", None, "a"]
    assert got.score.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_panes_of_another_reference_are_refused() -> None:
    """Neither rows nor panes mix between references."""
    other = build_reference("binary", KINDS, records([1.0] * 10, ["a"] * 10, [0.5] * 10))
    with pytest.raises(BadInput, match="another reference"):
        observe(empty(other), reference(), batch([(1.0, "a", 0.1)]))
    with pytest.raises(BadInput, match="different references"):
        merge(empty(other), empty(reference()))


@pytest.mark.parametrize("raw", [b"", b"x", b"x\x9c"], ids=["empty", "text", "cut"])
def test_bytes_that_are_no_pane_are_bad_input(raw: bytes) -> None:
    """A broken checkpoint is an error with a reason."""
    with pytest.raises(BadInput):
        from_bytes(raw)


def test_output_codes_are_bins_of_the_reference() -> None:
    """traffic.measured counts units in the 20 output bins; without scores there is nothing to count."""
    known = reference()
    assert known.outputs is not None
    codes = output_codes(known, column("number", [0.0, 1.0, None]), None)
    assert codes is not None
    assert [0, len(known.outputs.counts) - 1, -1] == codes.tolist()
    assert output_codes(known, None, column("category", ["1"])) is None


def test_counts_add_up() -> None:
    """Counts of two panes add field by field."""
    assert Counts((1, 5), 2, 2, 2, 2, 2, 2) == Counts((1, 2), 1, 1, 1, 1, 1, 1) + Counts((0, 3), 1, 1, 1, 1, 1, 1)
