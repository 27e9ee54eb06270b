"""Drift: scores of a window against its reference, and calibrated verdicts.

A fixed threshold on a drift score is wrong at both ends: with 100 rows PSI passes .2 by chance, with 100,000 rows nothing
that matters passes it. So every score has a p-value and a bias-corrected effect; a column drifts when both speak, with
Benjamini-Hochberg over the columns.

PSI: with bins at the reference's quantiles, half a row added to each, n window and m reference rows, v = 1/n + 1/m and no
change, PSI/v is chi-squared with B - 1 degrees of freedom; the effect is PSI - (B - 1) v, zero on average without change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import chdtrc, ndtr

from daemon.core.columns import Floats
from daemon.core.errors import BadInput
from daemon.core.histograms import coarsen, grouped
from daemon.core.panes import Counts, Pane
from daemon.core.reference import Bins, Reference

ALPHA = 0.001
FLOOR = 0.1
MIN_VALUES = 50
"""With fewer values in a column nothing is said about its drift."""
OUTPUT_GROUPS = 10
"""Prediction drift is tested on so many groups of the 20 output bins: 20 are too many for small windows."""
MIN_EXPECTED = 1.0
"""Bins in which both histograms together would put fewer of the window's rows are put together (Cochran 1954)."""

Basis = Literal["histogram", "sample"]
HistogramMethod = Literal["psi", "chi_square"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a method says about one column, before other columns are looked at."""

    method: str
    basis: Basis
    score: float
    """The method's own number."""
    effect: float
    """Bias-corrected size; 0 on average when nothing changed, so it may be a little under 0."""
    floor: float
    """The effect from which a change matters."""
    p_value: float
    """Probability of such a score when nothing changed; this column alone."""
    rows: int
    """Values in the window."""


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """A column's score with its verdict."""

    score: Score
    p_value: float
    """Adjusted for the number of columns (Benjamini-Hochberg)."""
    drifted: bool

    def fields(self) -> dict[str, Any]:
        """As `columns` of drift.measured has it."""
        score = self.score
        return {
            "method": score.method, "basis": score.basis, "score": score.score, "threshold": score.floor,
            "effect": score.effect, "p_value": self.p_value, "rows": score.rows, "drifted": self.drifted,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drift:
    """A window's verdict."""

    columns: Mapping[str, ColumnDrift]
    prediction: ColumnDrift | None
    estimated_loss: float | None = None
    """All three are None when there is no estimate."""
    reference_estimated_loss: float | None = None
    estimated_loss_p_value: float | None = None
    unset: Mapping[str, str] = field(default_factory=dict)
    """Name of what could not be measured -> why."""

    @property
    def drifted_columns(self) -> int:
        """How many feature columns drifted."""
        return sum(column.drifted for column in self.columns.values())

    def fields(self) -> dict[str, Any]:
        """The measured fields of drift.measured, `unset` included; the window's own fields are the caller's."""
        measured: dict[str, Any] = {"columns": {name: column.fields() for name, column in self.columns.items()}}
        if self.columns:
            worst = max(self.columns, key=lambda name: self.columns[name].score.effect)
            measured |= {
                "drifted_columns": self.drifted_columns,
                "drifted_share": self.drifted_columns / len(self.columns),
                "worst_column": worst,
                "worst_effect": self.columns[worst].score.effect,
            }
        if self.prediction is not None:
            measured |= {
                "prediction_drifted": self.prediction.drifted,
                "prediction_effect": self.prediction.score.effect,
                "prediction_p_value": self.prediction.p_value,
            }
        if self.estimated_loss is not None and self.reference_estimated_loss is not None:
            measured |= {
                "estimated_loss": self.estimated_loss,
                "reference_estimated_loss": self.reference_estimated_loss,
                "estimated_loss_p_value": self.estimated_loss_p_value,
            }
            if self.reference_estimated_loss > 0:
                measured["estimated_loss_ratio"] = self.estimated_loss / self.reference_estimated_loss
        return {**measured, "unset": dict(self.unset)}


def psi(reference: Sequence[int], window: Sequence[int]) -> Score:
    """Calibrated PSI of two histograms over the same bins. Both must have rows."""
    before, now, spread = _tidy(reference, window)
    size = len(before)
    p, q = (before + 0.5) / (before.sum() + 0.5 * size), (now + 0.5) / (now.sum() + 0.5 * size)
    score = float(((q - p) * np.log(q / p)).sum())
    return _histogram_score("psi", score, score / spread, size, spread, int(now.sum()))


def chi_square(reference: Sequence[int], window: Sequence[int]) -> Score:
    """Two-sample chi-square; its effect is on PSI's scale."""
    before, now, spread = _tidy(reference, window)
    both, rows = before + now, before.sum() + now.sum()
    parts = [
        ((counts - both * counts.sum() / rows) ** 2 / (both * counts.sum() / rows)).sum() for counts in (before, now)
    ]
    score = float(sum(parts))
    return _histogram_score("chi_square", score, score, len(before), spread, int(now.sum()))


def histogram_scores(
    reference: Reference, pane: Pane, method: HistogramMethod = "psi"
) -> tuple[dict[str, Score], dict[str, str]]:
    """Scores of the feature columns over all rows; and for the columns without one, why."""
    scores, unset = {}, {}
    for name, bins in reference.features.items():
        why = _too_few(bins, pane.features[name])
        if why:
            unset[name] = why
        else:
            scores[name] = _METHODS[method](bins.counts, pane.features[name].bins)
    return scores, unset


def judge(scores: Mapping[str, Score], alpha: float = ALPHA) -> dict[str, ColumnDrift]:
    """Verdicts: a column drifts when its adjusted p-value is at most alpha and its effect at least its floor."""
    adjusted = benjamini_hochberg([score.p_value for score in scores.values()])
    return {
        name: ColumnDrift(score, p_value, drifted=p_value <= alpha and score.effect >= score.floor)
        for (name, score), p_value in zip(scores.items(), adjusted, strict=True)
    }


def measure(
    reference: Reference,
    pane: Pane,
    measured: tuple[Mapping[str, Score], Mapping[str, str]] | None = None,
    alpha: float = ALPHA,
) -> Drift:
    """A window's verdict: features, outputs, and the loss estimated from the scores.

    `measured`: scores of columns and why others have none, of a sample method; default `histogram_scores`.
    BadInput when the pane was not kept in this reference's bins.
    """
    if pane.reference != reference.panes:
        raise BadInput("the pane was kept in the bins of another reference")
    scores, why_not = measured or histogram_scores(reference, pane)
    unset = {f"columns.{name}": why for name, why in why_not.items()}
    if not scores:
        unset["drifted_columns"] = "no feature column could be measured"
    prediction = _prediction(reference, pane)
    if isinstance(prediction, str):
        unset["prediction_drifted"] = prediction
    estimate = _estimate(reference, pane)
    if isinstance(estimate, str):
        unset["estimated_loss"] = estimate
    expected, before, p_value = (None, None, None) if isinstance(estimate, str) else estimate
    return Drift(
        judge(scores, alpha),
        None if isinstance(prediction, str) else judge({"": prediction}, alpha)[""],
        expected, before, p_value, unset,
    )  # fmt: skip


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that those at most alpha have a false discovery rate of alpha (Benjamini & Hochberg 1995)."""
    count = len(p_values)
    adjusted, least = [1.0] * count, 1.0
    for rank, row in enumerate(sorted(range(count), key=lambda row: -p_values[row])):
        least = min(least, p_values[row] * count / (count - rank))
        adjusted[row] = least
    return adjusted


_METHODS = {"psi": psi, "chi_square": chi_square}


def _tidy(reference: Sequence[int], window: Sequence[int]) -> tuple[Floats, Floats, float]:
    """Both histograms without the bins that are empty in both and with sparse ones put together; and 1/n + 1/m.

    Which bins go together depends on the sums only, so that nothing is gained or lost by it when nothing changed.
    """
    before, now = np.asarray(reference, dtype=np.float64), np.asarray(window, dtype=np.float64)
    rows, reference_rows = now.sum(), before.sum()
    order = np.argsort(before + now, kind="stable")
    order = order[(before + now)[order] > 0]
    expected = np.cumsum((before + now)[order]) * rows / (rows + reference_rows)
    sparse = int((np.diff(expected, prepend=0) < MIN_EXPECTED).sum())
    if sparse:  # enough of the smallest that together they are no longer sparse
        together = max(sparse, int(np.searchsorted(expected, MIN_EXPECTED)) + 1)
        starts = np.r_[0, np.arange(together, len(order))]
        before, now = np.add.reduceat(before[order], starts), np.add.reduceat(now[order], starts)
    else:
        before, now = before[order], now[order]
    return before, now, float(1 / rows + 1 / reference_rows)


def _histogram_score(method: str, score: float, statistic: float, size: int, spread: float, rows: int) -> Score:
    """`statistic` is chi-squared with size - 1 degrees of freedom when nothing changed."""
    freedom = size - 1
    p_value = float(chdtrc(freedom, statistic)) if freedom else 1.0
    return Score(method, "histogram", score, (statistic - freedom) * spread, FLOOR, p_value, rows)


def _too_few(bins: Bins, counts: Counts) -> str:
    if bins.values < MIN_VALUES:
        return f"the reference has {bins.values} values, {MIN_VALUES} are needed"
    if counts.values < MIN_VALUES:
        return f"the window has {counts.values} values, {MIN_VALUES} are needed"
    return ""


def _prediction(reference: Reference, pane: Pane) -> Score | str:
    if reference.outputs is None or pane.outputs is None:
        return "the stream has neither scores nor predictions"
    why = _too_few(reference.outputs, pane.outputs)
    if why:
        return why
    if reference.outputs.kind == "category":
        return psi(reference.outputs.counts, pane.outputs.bins)
    groups = coarsen(reference.outputs.counts, OUTPUT_GROUPS)
    return psi(grouped(reference.outputs.counts, groups), grouped(pane.outputs.bins, groups))


def _estimate(reference: Reference, pane: Pane) -> tuple[float, float, float] | str:
    expected, variance = pane.expected_loss, pane.expected_variance
    if reference.estimated is None:
        return "the reference has no scores with labels to calibrate on, or the task has no such estimate"
    if expected is None or variance is None or pane.scored < MIN_VALUES:
        return f"the window has {pane.scored} scores, {MIN_VALUES} are needed"
    before = reference.estimated
    error = math.sqrt(variance / pane.scored + before.variance / before.rows)
    grown = expected - before.mean
    p_value = float(ndtr(-grown / error)) if error > 0 else float(grown <= 0)
    return expected, before.mean, p_value
