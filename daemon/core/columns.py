"""Prediction records as columns: raw values of any source -> typed arrays, with what was missing or of the wrong type.

Everything that measures works on these columns, never row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FeatureKind = Literal["number", "category"]
"""As config.yaml names them."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Categories as numbers: what a columnar decoder gives, and what is fast to count."""

    codes: NDArray[np.int32]
    """Index into `levels` per row, -1 where there is no value."""
    levels: tuple[str, ...]
    """Distinct."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one field in rows."""

    kind: FeatureKind
    values: NDArray[Any]
    """number: float64, NaN where there is no usable value; category: object array of str, None where there is none."""
    invalid: Bools
    """Rows whose value is there but has the wrong type (text in a number column, an infinity, a nested value)."""
    coded: Coded | None = None
    """category: the same values once more as numbers, where they are known."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def usable(self) -> Bools:
        """Rows with a value of the right type."""
        if self.kind == "number":
            return np.asarray(~np.isnan(self.values))
        if self.coded is not None:
            return np.asarray(self.coded.codes >= 0)
        return np.asarray(np.not_equal(self.values, None), dtype=np.bool_)  # type: ignore[call-overload]

    @property
    def missing(self) -> Bools:
        """Rows without a value."""
        return ~(self.usable | self.invalid)

    def take(self, index: slice | NDArray[Any]) -> Column:
        """Some of the rows: a slice, a mask or row numbers."""
        coded = None if self.coded is None else Coded(self.coded.codes[index], self.coded.levels)
        return Column(self.kind, self.values[index], self.invalid[index], coded)

    def equals(self, text: str) -> Bools:
        """category: the rows with this value."""
        if self.coded is None:
            return np.asarray(self.values == text, dtype=np.bool_)
        levels = self.coded.levels
        return np.asarray(self.coded.codes == (levels.index(text) if text in levels else -2), dtype=np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Rows of predictions as columns of equal length. A field that the stream does not have is None."""

    rows: int
    features: Mapping[str, Column]
    """A declared feature that is not here counts as absent in every row."""
    prediction: Column | None = None
    """Category for the tasks binary and multiclass, number for regression."""
    score: Column | None = None
    """Number: probability of the positive class (binary) or of the predicted class (multiclass)."""
    label: Column | None = None
    """Of the same kind as the prediction."""

    def take(self, index: slice | NDArray[Any]) -> Records:
        """Some of the rows."""
        columns = {name: column.take(index) for name, column in self.features.items()}
        rows = len(np.arange(self.rows)[index])
        return Records(rows, columns, *(c and c.take(index) for c in (self.prediction, self.score, self.label)))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records with who and when; `positions` are unique in their stream."""

    records: Records
    ids: Sequence[str]
    """Prediction ids."""
    positions: Integers
    """Positions in the stream: unique, ascending in the order of the stream."""
    times: Integers = field(repr=False)
    """Event times in microseconds since the epoch, UTC."""
    hashes: NDArray[np.uint64] | None = field(default=None, repr=False)
    """`text_hashes` of the ids, where they are known."""

    def take(self, index: slice | NDArray[Any]) -> Batch:
        """Some of the rows, e.g. those of a pane or of a segment."""
        rows = np.arange(self.records.rows)[index]
        ids = [self.ids[row] for row in rows.tolist()]
        hashes = None if self.hashes is None else self.hashes[index]
        return Batch(self.records.take(index), ids, self.positions[index], self.times[index], hashes)


def column(kind: FeatureKind, raw: Sequence[Any] | NDArray[Any]) -> Column:
    """Raw values (JSON, CSV text, or an array) as a column of the kind.

    number: numeric text counts as a number (CSV knows nothing else), booleans as 0 and 1; None, NaN and empty text are
    missing; other text, infinities and nested values are invalid.
    category: numbers and booleans count as their text, whole floats as the integer's (a column with gaps often arrives as
    floats); None, NaN and empty text are missing; nested values are invalid.
    """
    return _numbers(raw) if kind == "number" else _categories(raw)


def coded(codes: NDArray[Any], names: Sequence[str | None]) -> Column:
    """Categories as they come from a decoder's dictionary: `codes` (-1: none) into `names`, None or repeated ones too."""
    levels = tuple(dict.fromkeys(name for name in names if name))
    index = {name: number for number, name in enumerate(levels)}
    table = np.array([*(index.get(name or "", -1) for name in names), -1], dtype=np.int32)
    numbers = table[codes]
    objects = np.empty(len(levels) + 1, dtype=object)
    objects[:-1] = levels
    return Column("category", objects[numbers], np.zeros(len(numbers), np.bool_), Coded(numbers, levels))


def output_kind(task: str) -> FeatureKind:
    """The kind of predictions and labels of a task."""
    return "number" if task == "regression" else "category"


def category_text(value: Any) -> str | None:
    """The text of one categorical value, None when it is missing. ValueError for nested values."""
    if value is None or value == "" or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list | tuple | set):
        raise ValueError("a nested value is no category")  # noqa: TRY004 -- bad data, not a bad call
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _numbers(raw: Sequence[Any] | NDArray[Any]) -> Column:
    values, invalid = _numbers_at_once(raw) or _numbers_one_by_one(raw)
    values[invalid] = np.nan
    return Column("number", values, invalid)


def _numbers_at_once(raw: Sequence[Any] | NDArray[Any]) -> tuple[Floats, Bools] | None:
    try:
        values = np.array(raw, dtype=np.float64)  # None becomes NaN, numeric text becomes its number
    except (TypeError, ValueError, OverflowError):
        return None
    return (values, np.isinf(values)) if values.ndim == 1 else None


def _numbers_one_by_one(raw: Sequence[Any] | NDArray[Any]) -> tuple[Floats, Bools]:
    values = np.full(len(raw), np.nan)
    invalid = np.zeros(len(raw), dtype=np.bool_)
    for row, value in enumerate(raw):
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            values[row] = float(value)
        except (TypeError, ValueError, OverflowError):
            invalid[row] = True
    return values, invalid | np.isinf(values)


def _categories(raw: Sequence[Any] | NDArray[Any]) -> Column:
    plain = raw.tolist() if isinstance(raw, np.ndarray) else raw
    values = np.empty(len(plain), dtype=object)
    invalid = np.zeros(len(plain), dtype=np.bool_)
    try:
        values[:] = [value if type(value) is str and value else category_text(value) for value in plain]
    except ValueError:
        for row, value in enumerate(plain):
            try:
                values[row] = category_text(value)
            except ValueError:
                invalid[row] = True
    return Column("category", values, invalid)
