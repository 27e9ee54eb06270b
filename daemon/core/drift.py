"""Drift: scores of a window against its reference, and calibrated verdicts.

A fixed threshold on a drift score is wrong at both ends: with 100 rows PSI passes .2 by chance, with 100,000 rows nothing
that matters passes it. So every score has a p-value and a bias-corrected effect; a column drifts when both speak, with
Benjamini-Hochberg over the columns.

PSI: with bins at the reference's quantiles, half a row added to each, n window and m reference rows, v = 1/n + 1/m and no
change, PSI/v is chi-squared with B - 1 degrees of freedom; the effect is PSI - (B - 1) v, zero on average without change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from daemon.core.columns import FeatureKind, Floats
from daemon.core.panes import Pane
from daemon.core.reference import Reference

ALPHA = 0.001
FLOOR = 0.1
MIN_VALUES = 50
"""With fewer values in a column nothing is said about its drift."""
OUTPUT_GROUPS = 10
"""Prediction drift is tested on so many groups of the 20 output bins: 20 are too many for small windows."""

Basis = Literal["histogram", "sample"]
Direction = Literal["distance", "p_value"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a method says about one column, before other columns are looked at."""

    method: str
    basis: Basis
    score: float
    """The method's own number."""
    effect: float
    """Bias-corrected size; 0 on average when nothing changed."""
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
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Drift:
    """A window's verdict."""

    columns: Mapping[str, ColumnDrift]
    prediction: ColumnDrift | None
    estimated_loss: float | None = None
    reference_estimated_loss: float | None = None
    estimated_loss_p_value: float | None = None
    unset: Mapping[str, str] = field(default_factory=dict)
    """Name of what could not be measured -> why."""

    def fields(self) -> dict[str, Any]:
        """The measured fields of drift.measured, `unset` included; the window's own fields are the caller's."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Method:
    """A method on the sample, run by Evidently; see clients/evidently.py."""

    name: str
    kinds: tuple[FeatureKind, ...]
    direction: Direction
    """`distance`: large is drift; `p_value`: small is drift."""
    threshold: float
    """Evidently's default threshold."""
    closed: bool
    """Its score is a valid p-value as it stands; else a null table turns the score into one."""


METHODS: Mapping[str, Method] = {}
"""The methods on the sample that are offered."""


@dataclass(frozen=True, slots=True)
class Null:
    """What a method's score looks like when nothing changed: draws from the reference, for one method, column and n."""

    mean: float
    deviation: float
    skew: float

    def p_value(self, score: float) -> float:
        """Probability of a score at least so large (Pearson III through the draws' moments, so that tails have values)."""
        raise NotImplementedError


def fit_null(draws: Floats) -> Null:
    """The null distribution from scores of resampled windows."""
    raise NotImplementedError


def psi(reference: Sequence[int], window: Sequence[int]) -> Score:
    """Calibrated PSI of two histograms over the same bins. Both must have rows."""
    raise NotImplementedError


def chi_square(reference: Sequence[int], window: Sequence[int]) -> Score:
    """Two-sample chi-square; the effect is on PSI's scale."""
    raise NotImplementedError


def histogram_scores(
    reference: Reference, pane: Pane, method: Literal["psi", "chi_square"] = "psi"
) -> tuple[dict[str, Score], dict[str, str]]:
    """Scores of the feature columns over all rows, and for the others why they have none."""
    raise NotImplementedError


def sample_score(method: Method, score: float, null: Null | None, size: Score) -> Score:
    """The Score of a method on the sample.

    `null`: its null distribution; needed unless the method is closed. `size`: the PSI of the same rows, whose effect
    stands in for methods that only give a p-value, and which say nothing of size.
    """
    raise NotImplementedError


def judge(scores: Mapping[str, Score], alpha: float = ALPHA) -> dict[str, ColumnDrift]:
    """Verdicts: adjusted p-value at most alpha and effect at least the floor."""
    raise NotImplementedError


def measure(
    reference: Reference,
    pane: Pane,
    scores: Mapping[str, Score] | None = None,
    unset: Mapping[str, str] | None = None,
    alpha: float = ALPHA,
) -> Drift:
    """A window's verdict: features, outputs, and the loss estimated from the scores.

    `scores` and `unset` are those of `histogram_scores` by default, or of another method. BadInput when the pane was not
    kept in this reference's bins.
    """
    raise NotImplementedError
