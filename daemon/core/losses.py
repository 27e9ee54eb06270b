"""Losses: realised ones, where labels came, and expected ones, from calibrated scores alone (CBPE)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from daemon.core.columns import Floats, Records

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Score -> probability, fitted on the reference (isotonic): a step-wise line through (scores, probabilities)."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def apply(self, scores: NDArray[Any]) -> Floats:
        """Calibrated probabilities; scores beyond the ends take the end's value, NaN stays NaN."""
        return np.asarray(np.interp(scores, self.scores, self.probabilities), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of a loss over so many rows."""

    rows: int
    mean: float
    variance: float


def losses(task: Task, records: Records, positive: str = "") -> Floats:
    """Per row the realised loss: 1 when the prediction is not the label, else 0; regression: the absolute error.

    NaN where prediction or label is missing. A binary stream without predictions predicts positive at a score of .5.
    """
    nothing = np.full(records.rows, np.nan)
    if records.label is None:
        return nothing
    if task == "regression":
        if records.prediction is None:
            return nothing
        return np.asarray(np.abs(records.prediction.values - records.label.values), dtype=np.float64)
    labelled = records.label.usable
    if records.prediction is not None:
        usable = labelled & records.prediction.usable
        wrong = records.prediction.values != records.label.values
    elif records.score is not None and task == "binary":
        usable = labelled & records.score.usable
        wrong = (records.score.values >= 0.5) != records.label.equals(positive)
    else:
        return nothing
    return np.where(usable, wrong.astype(np.float64), np.nan)


def expected_losses(calibration: Calibration, task: Task, positive: str, records: Records) -> Floats:
    """Per row the probability that the prediction is wrong, by the calibrated score (CBPE, Kuberski et al. 2024).

    NaN where score or prediction is missing. Holds while the calibration does: it is an estimate, blind to concept drift.
    """
    if records.score is None or task == "regression":
        return np.full(records.rows, np.nan)
    right = calibration.apply(records.score.values)
    if task == "binary":
        says_positive = records.score.values >= 0.5
        if records.prediction is not None:
            says_positive = records.prediction.equals(positive)
            right = np.where(records.prediction.usable, right, np.nan)
        right = np.where(says_positive, right, 1 - right)
    return np.asarray(1 - right, dtype=np.float64)


def isotonic(scores: Floats, outcomes: Floats) -> Calibration:
    """The ascending fit of outcomes (0 or 1) on scores, as the points where its line bends."""
    points, group = np.unique(scores, return_inverse=True)
    weights = np.bincount(group).astype(np.float64)
    means = np.bincount(group, weights=outcomes) / weights
    fitted = np.asarray(isotonic_regression(means, weights=weights).x)
    flat = fitted[1:] == fitted[:-1]
    keep = ~(np.r_[False, flat] & np.r_[flat, False])  # inside a flat run nothing bends
    return Calibration(tuple(points[keep].tolist()), tuple(fitted[keep].tolist()))


def moments(values: Floats) -> Moments | None:
    """Mean and variance of the values that are not NaN; None for fewer than two."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None
    mean = math.fsum(known) / len(known)
    return Moments(len(known), mean, math.fsum((known - mean) ** 2) / (len(known) - 1))
