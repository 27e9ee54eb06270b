"""Panes: disjoint stretches of a prediction stream, as counts. Windows are merged panes.

Everything in a pane is an integer, a sum in fixed point, or "the k smallest of a total order" (the sample), so merging is
exact, associative and commutative: panes put together in any order, by any number of replicas, are bit-identical.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import orjson

from daemon.core.columns import Batch, Bools, Column, Floats, Integers
from daemon.core.errors import BadInput
from daemon.core.losses import expected_losses
from daemon.core.reference import Bins, Reference
from daemon.core.samples import Sample, join, restore, sample, store

SAMPLE_ROWS = 1000
"""Rows that a pane keeps for tests on raw values."""
FORMAT = 1
"""Version of the bytes of a pane."""

_FRACTION = 40
"""Losses are summed in units of 2**-40."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How the rows of one column fall; every row is in exactly one of `bins`, `missing`, `invalid`."""

    bins: tuple[int, ...]
    missing: int = 0
    """No value, those without the field included."""
    invalid: int = 0
    """A value of the wrong type."""
    absent: int = 0
    """Rows of batches that did not have the column at all; part of `missing`."""
    new: int = 0
    """Rows with a category that the reference does not have; part of the last bin."""
    below: int = 0
    """Rows under the reference's smallest value; part of the first bin."""
    above: int = 0
    """Rows over its largest; part of the last bin."""

    @property
    def values(self) -> int:
        """Rows with a usable value."""
        return sum(self.bins)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            tuple(a + b for a, b in zip(self.bins, other.bins, strict=True)),
            self.missing + other.missing, self.invalid + other.invalid, self.absent + other.absent,
            self.new + other.new, self.below + other.below, self.above + other.above,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pane:
    """One stretch of one stream (or segment), in the bins of one reference. It never changes; `observe` makes another."""

    reference: str
    """The `panes` digest of the reference whose bins these are."""
    features: Mapping[str, Counts]
    outputs: Counts | None
    sample: Sample
    rows: int = 0
    first: int | None = None
    """Smallest and largest position in the stream; None while empty."""
    last: int | None = None
    start: int | None = None
    """Earliest and latest event time, microseconds since the epoch; None while empty."""
    end: int | None = None
    scored: int = 0
    """Rows with an expected loss, and its sum and sum of squares in units of 2**-40."""
    expected: int = 0
    expected_squares: int = 0

    @property
    def expected_loss(self) -> float | None:
        """Mean expected loss (CBPE); None when no row has one."""
        return self.expected / 2**_FRACTION / self.scored if self.scored else None

    @property
    def expected_variance(self) -> float | None:
        """Variance of the rows' expected loss; None for fewer than two rows."""
        if self.scored < 2:
            return None
        spread: int = self.scored * self.expected_squares * 2**_FRACTION - self.expected**2
        return spread / (self.scored * (self.scored - 1)) / float(4**_FRACTION)


def empty(reference: Reference, sample_rows: int = SAMPLE_ROWS) -> Pane:
    """A pane without rows that will keep a sample of so many; merging it changes nothing."""
    features = {name: Counts((0,) * len(b.counts)) for name, b in reference.features.items()}
    outputs = Counts((0,) * len(reference.outputs.counts)) if reference.outputs else None
    kinds = {name: b.kind for name, b in reference.features.items()}
    return Pane(reference.panes, features, outputs, Sample.empty(kinds, reference.task, sample_rows))


def observe(pane: Pane, reference: Reference, batch: Batch) -> Pane:
    """The pane with the batch's rows added. BadInput when the pane is another reference's."""
    if pane.reference != reference.panes:
        raise BadInput("the pane was kept in the bins of another reference")
    rows = batch.records.rows
    if rows == 0:
        return pane
    return merge(pane, _summary(reference, batch, pane.sample.most))


def merge(left: Pane, right: Pane) -> Pane:
    """Both panes' rows together. BadInput when they belong to different references or keep samples of different sizes."""
    if left.reference != right.reference or left.sample.most != right.sample.most:
        raise BadInput("panes of different references, or with samples of different sizes, cannot be merged")
    return Pane(
        reference=left.reference,
        features={name: counts + right.features[name] for name, counts in left.features.items()},
        outputs=left.outputs + right.outputs if left.outputs and right.outputs else None,
        sample=join(left.sample, right.sample),
        rows=left.rows + right.rows,
        first=_least(left.first, right.first), last=_most(left.last, right.last),
        start=_least(left.start, right.start), end=_most(left.end, right.end),
        scored=left.scored + right.scored,
        expected=left.expected + right.expected,
        expected_squares=left.expected_squares + right.expected_squares,
    )  # fmt: skip


def merge_all(panes: Iterable[Pane]) -> Pane:
    """All the panes together; at least one."""
    return reduce(merge, panes)


def to_bytes(pane: Pane) -> bytes:
    """The pane for a checkpoint; equal panes give equal bytes."""
    stored = {
        "format": FORMAT,
        "reference": pane.reference,
        "features": {name: _counts_row(counts) for name, counts in sorted(pane.features.items())},
        "outputs": pane.outputs and _counts_row(pane.outputs),
        "sample": store(pane.sample),
        "numbers": [pane.rows, pane.first, pane.last, pane.start, pane.end],
        "losses": [pane.scored, str(pane.expected), str(pane.expected_squares)],  # may pass 64 bits
    }
    return zlib.compress(orjson.dumps(stored, option=orjson.OPT_SERIALIZE_NUMPY), level=1)


def from_bytes(raw: bytes) -> Pane:
    """The pane again. BadInput when the bytes are no pane or of another version."""
    try:
        stored = orjson.loads(zlib.decompress(raw))
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise BadInput(f"these bytes are no pane: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise BadInput(f"a pane of another version than {FORMAT}")
    rows, first, last, start, end = stored["numbers"]
    scored, expected, squares = stored["losses"]
    return Pane(
        reference=stored["reference"],
        features={name: _counts(row) for name, row in stored["features"].items()},
        outputs=stored["outputs"] and _counts(stored["outputs"]),
        sample=restore(stored["sample"]),
        rows=rows, first=first, last=last, start=start, end=end,
        scored=scored, expected=int(expected), expected_squares=int(squares),
    )  # fmt: skip


def output_codes(reference: Reference, score: Column | None, prediction: Column | None) -> Integers | None:
    """Each row's output bin of the reference, as `traffic.measured` counts `scores`, -1 for none; None without such bins."""
    output = score if reference.output == "score" else prediction
    if reference.outputs is None or output is None:
        return None
    return reference.outputs.codes(output)


def _summary(reference: Reference, batch: Batch, sample_rows: int) -> Pane:
    records, rows = batch.records, batch.records.rows
    output = records.score if reference.output == "score" else records.prediction
    scored, expected, squares = 0, 0, 0
    if reference.calibration is not None:
        losses = expected_losses(reference.calibration, reference.task, reference.positive, records)
        losses = losses[~np.isnan(losses)]
        scored, expected, squares = len(losses), _fixed_sum(losses), _fixed_sum(losses * losses)
    kinds = {name: b.kind for name, b in reference.features.items()}
    return Pane(
        reference=reference.panes,
        features={name: _count(b, records.features.get(name), rows) for name, b in reference.features.items()},
        outputs=_count(reference.outputs, output, rows) if reference.outputs else None,
        sample=sample(batch, kinds, reference.task, sample_rows),
        rows=rows,
        first=int(batch.positions.min()), last=int(batch.positions.max()),
        start=int(batch.times.min()), end=int(batch.times.max()),
        scored=scored, expected=expected, expected_squares=squares,
    )  # fmt: skip


def _count(bins: Bins, column: Column | None, rows: int) -> Counts:
    size = len(bins.counts)
    if column is None:
        return Counts((0,) * size, missing=rows, absent=rows)
    codes = bins.codes(column)
    used = codes[codes >= 0]
    filled = tuple(np.bincount(used, minlength=size).tolist())
    invalid = int(np.count_nonzero(column.invalid))
    missing = rows - len(used) - invalid
    if bins.kind == "category":
        return Counts(filled, missing, invalid, new=_new(bins, column, codes == size - 1) if bins.known else 0)
    if bins.low is None:
        return Counts(filled, missing, invalid)
    below, above = np.count_nonzero(column.values < bins.low), np.count_nonzero(column.values > bins.high)
    return Counts(filled, missing, invalid, below=int(below), above=int(above))


def _new(bins: Bins, column: Column, rest: Bools) -> int:
    """Rows among `rest` whose category the reference does not have."""
    if column.coded is None:
        return sum(value not in bins.known for value in column.values[rest])
    strange = np.array([*(level not in bins.known for level in column.coded.levels), False], dtype=np.bool_)
    return int(np.count_nonzero(strange[column.coded.codes] & rest))


def _fixed_sum(values: Floats) -> int:
    """The sum of values in [0, 1], each rounded to 2**-40 first, so that it does not depend on the order."""
    units = np.rint(values * 2.0**_FRACTION).astype(np.int64)
    return (int((units >> 20).sum()) << 20) + int((units & 0xFFFFF).sum())  # in two halves: no overflow at any length


def _counts_row(counts: Counts) -> list[Any]:
    return [
        list(counts.bins), counts.missing, counts.invalid, counts.absent, counts.new, counts.below, counts.above,
    ]  # fmt: skip


def _counts(row: list[Any]) -> Counts:
    bins, *others = row
    return Counts(tuple(bins), *others)


def _least(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else min(left, right)


def _most(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else max(left, right)
