"""Raw values of any source become typed columns; what was missing or of the wrong type is known."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from daemon.core.columns import FeatureKind, Records, column


@pytest.mark.parametrize(
    ("raw", "values", "invalid"),
    [
        ([1, 2.5, None], [1.0, 2.5, None], [False, False, False]),
        (["1.5", "", " ", "x"], [1.5, None, None, None], [False, False, False, True]),
        ([float("inf"), float("nan"), True], [None, None, 1.0], [True, False, False]),
        ([{"a": 1}, [1, 2], 3], [None, None, 3.0], [True, True, False]),
        (np.array([1, 2], dtype=np.uint8), [1.0, 2.0], [False, False]),
        ([Decimal("0.5"), 10**400], [0.5, None], [False, True]),
        ([[1.0], [2.0]], [None, None], [True, True]),
        ([], [], []),
    ],
    ids=["plain", "text", "not finite", "nested", "unsigned", "odd", "all nested", "empty"],
)
def test_numbers(raw: Any, values: list[float | None], invalid: list[bool]) -> None:
    """Numeric text and booleans are numbers; gaps are missing; other text, infinities and nested values are invalid."""
    got = column("number", raw)
    assert values == [None if np.isnan(value) else value for value in got.values]
    assert invalid == got.invalid.tolist()
    assert got.values.dtype == np.float64


@pytest.mark.parametrize(
    ("raw", "values", "invalid"),
    [
        (["a", "", None, float("nan")], ["a", None, None, None], [False, False, False, False]),
        ([True, 1, 1.0, 1.5], ["True", "1", "1", "1.5"], [False, False, False, False]),
        ([{"a": 1}, "b"], [None, "b"], [True, False]),
        (np.array([1.0, np.nan]), ["1", None], [False, False]),
    ],
    ids=["text", "numbers", "nested", "floats"],
)
def test_categories(raw: Any, values: list[str | None], invalid: list[bool]) -> None:
    """Numbers count as their text, whole floats as the integer's; nested values are invalid."""
    got = column("category", raw)
    assert values == got.values.tolist()
    assert invalid == got.invalid.tolist()


@pytest.mark.parametrize("kind", ["number", "category"])
def test_every_row_is_usable_missing_or_invalid(kind: FeatureKind) -> None:
    """The three masks part the rows."""
    got = column(kind, [1, None, {"a": 1}, "", "2"])
    assert (got.usable.astype(int) + got.missing + got.invalid).tolist() == [1] * 5


def test_records_are_taken_by_mask_slice_and_number() -> None:
    """A mask, a slice and row numbers take the same rows of every column."""
    records = Records(4, {"x": column("number", [0, 1, 2, 3])}, score=column("number", [0.0, 0.1, 0.2, 0.3]))
    for index in (np.array([False, True, True, False]), slice(1, 3), np.array([1, 2])):
        taken = records.take(index)
        assert taken.rows == 2
        assert taken.features["x"].values.tolist() == [1.0, 2.0]
        assert taken.score is not None
        assert taken.score.values.tolist() == [0.1, 0.2]
        assert taken.label is None
