"""Samples: the k rows of a stretch with the smallest hashes of their prediction id, for tests on raw values.

Which rows they are depends on the rows alone, not on their order or on how they were batched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.core.columns import Batch, Column, FeatureKind, Integers, output_kind
from daemon.core.hashes import Hashes, drawn, text_hashes

_USE = 0
"""See `hashes.drawn`: the numbers that choose samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """At most `most` rows as columns, ascending by (hash, position)."""

    most: int
    kinds: Mapping[str, FeatureKind]
    hashes: Hashes
    positions: Integers
    ids: NDArray[Any]
    """Object array of str."""
    features: Mapping[str, NDArray[Any]]
    """number: float64 with NaN for no usable value; category: object array of str with None."""
    prediction: NDArray[Any]
    score: NDArray[Any]
    """NaN where there is none."""

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.hashes)

    @classmethod
    def empty(cls, kinds: Mapping[str, FeatureKind], task: str, most: int) -> Sample:
        """A sample without rows."""
        features = {name: _blank(kind, 0) for name, kind in kinds.items()}
        outputs = (_blank(output_kind(task), 0), _blank("number", 0))
        numbers = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, object))
        return cls(most, dict(kinds), *numbers, features, *outputs)

    def in_order(self) -> Sample:
        """The same rows in the order of the stream."""
        return self.take(np.argsort(self.positions))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sample) and store(self) == store(other)

    def __hash__(self) -> int:
        return hash((self.most, self.hashes.tobytes(), self.positions.tobytes()))

    def take(self, rows: Integers) -> Sample:
        """The rows of these numbers, in this order."""
        features = {name: values[rows] for name, values in self.features.items()}
        outputs = (self.prediction[rows], self.score[rows])
        numbers = (self.hashes[rows], self.positions[rows], self.ids[rows])
        return Sample(self.most, self.kinds, *numbers, features, *outputs)


def sample(batch: Batch, kinds: Mapping[str, FeatureKind], task: str, most: int) -> Sample:
    """The sample of a batch."""
    records = batch.records
    hashes = drawn(text_hashes(batch.ids) if batch.hashes is None else batch.hashes, _USE)
    rows = _smallest(hashes, batch.positions, most)
    features = {name: _values(records.features.get(name), kind, rows) for name, kind in kinds.items()}
    ids = np.empty(len(rows), dtype=object)
    ids[:] = [batch.ids[row] for row in rows.tolist()]
    outputs = (_values(records.prediction, output_kind(task), rows), _values(records.score, "number", rows))
    return Sample(most, dict(kinds), hashes[rows], batch.positions[rows], ids, features, *outputs)


def join(left: Sample, right: Sample) -> Sample:
    """The sample of both stretches' rows."""
    if not right.rows or not left.rows:
        return left if left.rows else right
    if left.rows == left.most:  # most of a stream's rows can be seen at a glance not to matter
        right = right.take(np.flatnonzero(right.hashes <= left.hashes[-1]))
    hashes = np.concatenate((left.hashes, right.hashes))
    positions = np.concatenate((left.positions, right.positions))
    both = Sample(
        left.most, left.kinds, hashes, positions,
        np.concatenate((left.ids, right.ids)),
        {name: np.concatenate((values, right.features[name])) for name, values in left.features.items()},
        np.concatenate((left.prediction, right.prediction)),
        np.concatenate((left.score, right.score)),
    )  # fmt: skip
    return both.take(_smallest(hashes, positions, left.most))


def store(sample: Sample) -> dict[str, Any]:
    """As plain JSON (numpy arrays of numbers are left to the writer)."""
    return {
        "most": sample.most,
        "kinds": dict(sample.kinds),
        "hashes": sample.hashes.tolist(),
        "positions": sample.positions.tolist(),
        "ids": sample.ids.tolist(),
        "features": {name: _plain(values) for name, values in sorted(sample.features.items())},
        "prediction": _plain(sample.prediction),
        "score": _plain(sample.score),
        "regression": sample.prediction.dtype != object,
    }


def restore(stored: Mapping[str, Any]) -> Sample:
    """From plain JSON."""
    kinds: dict[str, FeatureKind] = stored["kinds"]
    ids = np.empty(len(stored["ids"]), dtype=object)
    ids[:] = stored["ids"]
    return Sample(
        stored["most"], kinds, np.array(stored["hashes"], np.uint64), np.array(stored["positions"], np.int64), ids,
        {name: _array(kind, stored["features"][name]) for name, kind in kinds.items()},
        _array("number" if stored["regression"] else "category", stored["prediction"]),
        _array("number", stored["score"]),
    )  # fmt: skip


def _smallest(hashes: Hashes, positions: Integers, most: int) -> Integers:
    """Row numbers of the `most` smallest by (hash, position), ascending."""
    rows = np.arange(len(hashes))
    if len(hashes) > most:
        border = np.partition(hashes, most - 1)[most - 1]
        rows = np.flatnonzero(hashes <= border)
    order = np.lexsort((positions[rows], hashes[rows]))
    return np.asarray(rows[order][:most], dtype=np.int64)


def _values(column: Column | None, kind: FeatureKind, rows: Integers) -> NDArray[Any]:
    return _blank(kind, len(rows)) if column is None else column.values[rows]


def _blank(kind: FeatureKind, rows: int) -> NDArray[Any]:
    return np.full(rows, np.nan) if kind == "number" else np.full(rows, None, dtype=object)


def _plain(values: NDArray[Any]) -> list[Any]:
    return values.tolist() if values.dtype == object else [None if v != v else v for v in values.tolist()]  # noqa: PLR0124 -- NaN


def _array(kind: FeatureKind, values: list[Any]) -> NDArray[Any]:
    filled = _blank(kind, len(values))
    filled[:] = [np.nan if value is None and kind == "number" else value for value in values]
    return filled
