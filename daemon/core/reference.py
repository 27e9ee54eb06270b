"""The reference: what a model's inputs, outputs and losses looked like when it was trained, as bins and a few numbers.

Bins lie at the reference's quantiles, so every window's histogram can be held against it, and windows merge by adding
counts. `digest` names the content; panes belong to one reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from daemon.core.canonical import content_id
from daemon.core.columns import Column, FeatureKind, Floats, Integers, Records
from daemon.core.errors import BadInput
from daemon.core.losses import Calibration, Moments, Task, expected_losses, isotonic, losses, moments

FEATURE_BINS = 10
OUTPUT_BINS = 20
"""Bins of the score (or the regression's prediction): `traffic.measured` counts in them."""
CATEGORY_BINS = 50
"""At most so many categories have a bin of their own, each with at least RARE of the rows; the others share one."""
RARE = 0.005
KNOWN_CATEGORIES = 1000
"""A column with more categories than this is open: a new one there is nothing new."""
CALIBRATION_ROWS = 100
"""With fewer scored and labelled reference rows there is no estimate."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of one column and how the reference fills them."""

    kind: FeatureKind
    edges: tuple[float, ...]
    """number: upper edges (inclusive) of all bins but the last, ascending."""
    categories: tuple[str, ...]
    """category: those with a bin of their own; one more bin, the last, takes rare and new ones."""
    known: frozenset[str]
    """category: all that the reference has; empty when there are more than KNOWN_CATEGORIES."""
    counts: tuple[int, ...]
    """Reference rows per bin."""
    rows: int
    missing: int
    """Reference rows without a usable value."""
    low: float | None
    """number: smallest and largest value of the reference; None when it has none."""
    high: float | None

    @property
    def values(self) -> int:
        """Reference rows with a value."""
        return sum(self.counts)

    def codes(self, column: Column) -> Integers:
        """The bin number of every row, -1 where it has no usable value. BadInput for a column of the other kind."""
        if column.kind != self.kind:
            raise BadInput(f"a {column.kind} column was held against bins of a {self.kind}")
        if self.kind == "category":
            numbers: dict[str | None, int] = {
                None: -1,
                **{category: number for number, category in enumerate(self.categories)},
            }
            rest = len(self.categories)
            if column.coded is not None:
                table = [*(numbers.get(level, rest) for level in column.coded.levels), -1]
                return np.asarray(table, dtype=np.int64)[column.coded.codes]
            return np.fromiter((numbers.get(v, rest) for v in column.values), np.int64, len(column))
        codes = np.searchsorted(np.asarray(self.edges), column.values, side="left").astype(np.int64)
        codes[np.isnan(column.values)] = -1
        return codes


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Everything a window is held against."""

    digest: str
    """Names the content. Equal content, equal digest."""
    panes: str
    """Digest that panes must carry to be held against it: its own; for a trailing reference that of its bins' origin."""
    task: Task
    rows: int
    features: Mapping[str, Bins]
    outputs: Bins | None
    """Bins of the score, or of the prediction when there is no score; None when there is neither."""
    output: Literal["score", "prediction", "none"]
    """What `outputs` are bins of."""
    positive: str
    """binary: the class that the score is the probability of; empty when unknown."""
    calibration: Calibration | None
    """For the loss estimate; None without scores and labels (and for regression)."""
    estimated: Moments | None
    """Of the estimated loss, over the reference's own rows."""
    loss: Moments | None
    """Of the realised loss (0 or 1; regression: absolute error); None without labels."""
    large_error: float | None
    """regression: 80 % of the reference's absolute errors are at most so large; above it a prediction counts as wrong."""


def build_reference(
    task: Task, kinds: Mapping[str, FeatureKind], records: Records, positive: str | None = None
) -> Reference:
    """Take reference rows apart: bins, ranges, calibration and losses.

    `positive` (binary) defaults to the class of the labels, else of the predictions, whose scores are higher on average.
    BadInput when there are no rows or a declared feature is not among them.
    """
    if records.rows == 0:
        raise BadInput("the reference has no rows")
    absent = sorted(set(kinds) - set(records.features))
    if absent:
        raise BadInput(f"the reference has no column {', '.join(absent)}")
    features = {name: bins(records.features[name], FEATURE_BINS) for name in kinds}
    output: Literal["score", "prediction", "none"] = "none"
    outputs = None
    if records.score is not None:
        output, outputs = "score", bins(records.score, OUTPUT_BINS)
    elif records.prediction is not None:
        output, outputs = "prediction", bins(records.prediction, OUTPUT_BINS)
    positive = positive or (_positive(records) if task == "binary" else "")
    calibration = _calibrate(task, records, positive)
    known = losses(task, records, positive)
    reference = Reference(
        digest="", panes="", task=task, rows=records.rows, features=features, outputs=outputs, output=output,
        positive=positive, calibration=calibration,
        estimated=moments(expected_losses(calibration, task, positive, records)) if calibration else None,
        loss=moments(known),
        large_error=float(np.quantile(known[~np.isnan(known)], 0.8)) if task == "regression" and _some(known) else None,
    )  # fmt: skip
    digest = _digest(reference)
    return replace(reference, digest=digest, panes=digest)


def trailing(reference: Reference, features: Mapping[str, tuple[int, ...]], outputs: tuple[int, ...]) -> Reference:
    """The reference with other counts in the same bins: what merged earlier panes saw becomes the reference.

    Ranges, known categories, calibration and losses stay those of the reference that the bins come from.
    """
    counted = {name: replace(b, counts=features.get(name, b.counts)) for name, b in reference.features.items()}
    rows = max((sum(b.counts) for b in counted.values()), default=reference.rows)
    scored = reference.outputs and replace(reference.outputs, counts=outputs)
    moved = replace(reference, features=counted, outputs=scored, rows=rows)
    return replace(moved, digest=_digest(moved))


def bins(column: Column, most: int) -> Bins:
    """Bins of a reference column: at most `most` at its quantiles, or one per value or category when it has few."""
    rows, usable = len(column), column.usable
    missing = rows - int(usable.sum())
    if column.kind == "category":
        return _category_bins(column, missing)
    values = column.values[usable]
    if len(values) == 0:
        return Bins("number", (), (), frozenset(), (0,), rows, missing, None, None)
    low, high = float(values.min()), float(values.max())
    edges = _edges(values, most)
    empty = Bins("number", edges, (), frozenset(), (0,) * (len(edges) + 1), rows, missing, low, high)
    counts = np.bincount(empty.codes(column)[usable], minlength=len(edges) + 1)
    return replace(empty, counts=tuple(counts.tolist()))


def _edges(values: Floats, most: int) -> tuple[float, ...]:
    distinct = np.unique(values)
    if len(distinct) == 1:  # constant: one bin for it, and one for anything on either side
        return (float(np.nextafter(distinct[0], -np.inf)), float(distinct[0]))
    if len(distinct) <= most:  # few values: a bin each
        return tuple(((distinct[:-1] + distinct[1:]) / 2).tolist())
    quantiles = np.quantile(
        values, np.arange(1, most) / most, method="inverted_cdf"
    )  # an observed value: ties stay whole
    edges = np.unique(quantiles)
    return tuple(edges[edges < distinct[-1]].tolist())


def _category_bins(column: Column, missing: int) -> Bins:
    counted = Counter(value for value in column.values if value is not None)
    total = counted.total()
    ranked = sorted(counted, key=lambda category: (-counted[category], category))
    own = tuple(sorted(c for c in ranked[:CATEGORY_BINS] if counted[c] >= RARE * total))
    counts = tuple(counted[category] for category in own)
    known = frozenset(counted) if len(counted) <= KNOWN_CATEGORIES else frozenset()
    return Bins("category", (), own, known, (*counts, total - sum(counts)), len(column), missing, None, None)


def _positive(records: Records) -> str:
    """The class with the higher mean score: scores are probabilities of it."""
    classes = records.label or records.prediction
    if classes is None or records.score is None:
        return ""
    usable = classes.usable & records.score.usable
    names, scores = classes.values[usable], records.score.values[usable]
    means = {name: math.fsum(scores[names == name]) / int((names == name).sum()) for name in sorted(set(names))}
    return max(means, key=lambda name: means[name], default="")


def _calibrate(task: Task, records: Records, positive: str) -> Calibration | None:
    if task == "regression" or records.score is None or records.label is None:
        return None
    if task == "multiclass" and records.prediction is None:
        return None
    usable = records.score.usable & records.label.usable
    truth = records.label.values == positive
    if task == "multiclass" and records.prediction is not None:
        usable = usable & records.prediction.usable
        truth = records.label.values == records.prediction.values
    if int(usable.sum()) < CALIBRATION_ROWS:
        return None
    return isotonic(records.score.values[usable], truth[usable].astype(np.float64))


def _some(values: Floats) -> bool:
    return bool((~np.isnan(values)).any())


def _digest(reference: Reference) -> str:
    described = {name: _described(feature) for name, feature in reference.features.items()}
    outputs = reference.outputs and _described(reference.outputs)
    calibration = reference.calibration and [reference.calibration.scores, reference.calibration.probabilities]
    means = [m and [m.rows, m.mean, m.variance] for m in (reference.estimated, reference.loss)]
    parts = (reference.task, reference.rows, described, outputs, reference.output, reference.positive)
    return content_id("reference", *parts, calibration, means, reference.large_error)


def _described(b: Bins) -> list[Any]:
    return [b.kind, b.edges, b.categories, sorted(b.known), b.counts, b.rows, b.missing, b.low, b.high]
