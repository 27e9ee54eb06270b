"""Panes: disjoint stretches of a prediction stream, as counts. Windows are merged panes.

Everything in a pane is an integer or a sum in fixed point, and the sample is "the k smallest of a total order", so merging
is exact, associative and commutative: panes put together in any order, by any number of replicas, are bit-identical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from daemon.core.columns import Batch
from daemon.core.reference import Reference

SAMPLE_ROWS = 1000
"""Rows that a pane keeps for tests on raw values."""
FORMAT = 1
"""Version of the bytes of a pane."""

_FRACTION = 40
_UNIT = float(2**_FRACTION)


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
class SampledRow:
    """One raw row; the order of (hash, position) decides which rows a sample keeps."""

    hash: int
    """64 bits of the prediction id's hash: the same rows are sampled wherever they are seen."""
    position: int
    id: str
    features: tuple[float | str | None, ...]
    """In the order of the reference's features; None where there is no usable value."""
    prediction: float | str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Pane:
    """One stretch of one stream (or segment), held in the bins of one reference. Never changes; `observe` makes another."""

    reference: str
    """The `panes` digest of the reference whose bins these are."""
    features: Mapping[str, Counts]
    outputs: Counts | None
    rows: int = 0
    first: int | None = None
    """Smallest and largest position; None while empty."""
    last: int | None = None
    start: int | None = None
    """Earliest and latest event time, microseconds since the epoch; None while empty."""
    end: int | None = None
    scored: int = 0
    """Rows with an expected loss, and its sum and sum of squares in units of 2**-40."""
    expected: int = 0
    expected_squares: int = 0
    sample: tuple[SampledRow, ...] = ()
    """The `sample_rows` rows with the smallest (hash, position), ascending."""
    sample_rows: int = SAMPLE_ROWS

    @property
    def expected_loss(self) -> float | None:
        """Mean expected loss (CBPE); None when no row has one."""
        return self.expected / _UNIT / self.scored if self.scored else None

    @property
    def expected_variance(self) -> float | None:
        """Variance of the rows' expected loss; None for fewer than two rows."""
        if self.scored < 2:
            return None
        spread = self.scored * self.expected_squares * 2**_FRACTION - self.expected**2
        return float(spread / 4**_FRACTION) / self.scored / (self.scored - 1)


def empty(reference: Reference, sample_rows: int = SAMPLE_ROWS) -> Pane:
    """A pane without rows; merging it changes nothing."""
    features = {name: Counts((0,) * len(b.counts)) for name, b in reference.features.items()}
    outputs = Counts((0,) * len(reference.outputs.counts)) if reference.outputs else None
    return Pane(reference.panes, features, outputs, sample_rows=sample_rows)


def observe(pane: Pane, reference: Reference, batch: Batch) -> Pane:
    """The pane with the batch's rows added. BadInput when the pane is another reference's."""
    raise NotImplementedError


def merge(left: Pane, right: Pane) -> Pane:
    """Both panes' rows together. BadInput when they belong to different references."""
    raise NotImplementedError


def merge_all(panes: Sequence[Pane]) -> Pane:
    """All the panes together; at least one."""
    raise NotImplementedError


def to_bytes(pane: Pane) -> bytes:
    """The pane for a checkpoint; equal panes give equal bytes."""
    raise NotImplementedError


def from_bytes(raw: bytes) -> Pane:
    """The pane again. BadInput when the bytes are no pane or of another version."""
    raise NotImplementedError


def sample_columns(reference: Reference, pane: Pane) -> dict[str, NDArray[Any]]:
    """The sample as columns, in stream order: each feature, then `prediction`, `score` where there are any, and `id`.

    number: float64 with NaN; category: object array with None.
    """
    raise NotImplementedError
