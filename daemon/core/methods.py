"""The tests on raw values that are offered (basis `sample`), and how their scores become calibrated verdicts.

Evidently runs them (clients/evidently.py); here stands what its result does not tell: which way a score points, and how
often it comes up when nothing changed. Left out, because they are wrong or useless for a verdict (Evidently 0.7.23):

- g_test, fisher_exact: an error unless both samples have the same size
- mannw: one-sided, blind to values that fall
- anderson: its p-value never goes under .001, so it cannot pass an alpha of .001 with more than one column
- TVD, empirical_mmd: p-values in steps of 1/1000 and 1/100, at seconds per column
- text content drift: trains a classifier per column and window
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy.special import gammainc, gammaincc, ndtr

from daemon.core.columns import FeatureKind, Floats
from daemon.core.drift import Score

Direction = Literal["distance", "p_value"]

ENOUGH = 5
"""Draws beyond a statistic from which on their share is its p-value."""

_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Method:
    """One test of Evidently, by its registered name."""

    name: str
    kinds: tuple[FeatureKind, ...]
    direction: Direction
    """`distance`: large is drift; `p_value`: small is drift."""
    threshold: float
    """Evidently's default threshold; for distances the floor of the effect."""
    closed: bool
    """Its score is a valid p-value as it stands; otherwise its null distribution turns the score into one."""

    def statistic(self, score: float) -> float:
        """The score as a number that grows with drift."""
        return score if self.direction == "distance" else -math.log10(max(score, _TINY))


METHODS: Mapping[str, Method] = MappingProxyType({
    method.name: method
    for method in (
        Method("ks", ("number",), "p_value", 0.05, closed=True),
        Method("cramer_von_mises", ("number",), "p_value", 0.1, closed=True),
        Method("es", ("number",), "p_value", 0.05, closed=True),
        Method("t_test", ("number",), "p_value", 0.05, closed=True),
        Method("wasserstein", ("number",), "distance", 0.1, closed=False),
        Method("ed", ("number",), "distance", 0.1, closed=False),
        Method("psi", ("number", "category"), "distance", 0.1, closed=False),
        Method("jensenshannon", ("number", "category"), "distance", 0.1, closed=False),
        Method("kl_div", ("number", "category"), "distance", 0.1, closed=False),
        Method("hellinger", ("number", "category"), "distance", 0.1, closed=False),
        Method("z", ("category",), "p_value", 0.05, closed=True),
        Method("chisquare", ("category",), "p_value", 0.05, closed=False),  # takes the reference for exact
    )
})  # fmt: skip
"""By name. `z` looks at the first category only; with more than two take chisquare."""


@dataclass(frozen=True, slots=True)
class Null:
    """What a method's statistic looks like when nothing changed: for one method, column and window size."""

    draws: tuple[float, ...]
    """Statistics of windows drawn from the reference itself, ascending."""
    mean: float
    deviation: float
    skew: float

    def p_value(self, statistic: float) -> float:
        """Probability of a statistic at least so large: the draws' share where there are enough of them beyond it, else the
        tail of Pearson III with their moments (a share of 400 draws could never pass an alpha of .001).
        """
        beyond = len(self.draws) - bisect_left(self.draws, statistic)
        share = (beyond + 1) / (len(self.draws) + 1)
        return share if beyond >= ENOUGH else min(share, self._tail(statistic))

    def _tail(self, statistic: float) -> float:
        if self.deviation == 0:
            return 1.0 if statistic <= self.mean else 0.0
        z = (statistic - self.mean) / self.deviation
        if abs(self.skew) < 1e-3:
            return float(ndtr(-z))
        shape, scaled = 4 / self.skew**2, 2 / self.skew * (z + 2 / self.skew)
        if self.skew > 0:
            return float(gammaincc(shape, max(scaled, 0.0)))
        return float(gammainc(shape, max(scaled, 0.0)))


def fit_null(statistics: Floats) -> Null:
    """The null distribution from the statistics of windows drawn from the reference itself."""
    mean, deviation = float(statistics.mean()), float(statistics.std(ddof=1))
    skew = float((((statistics - mean) / deviation) ** 3).mean()) if deviation > 0 else 0.0
    return Null(tuple(np.sort(statistics).tolist()), mean, deviation, skew)


def sample_score(method: Method, score: float, null: Null | None, size: Score) -> Score:
    """A method's Score on the sample.

    `null` is needed unless the method is closed. `size` is the calibrated PSI of the same rows: tests that only give a
    p-value say nothing of size, so its effect and floor stand in.
    """
    if null is None and not method.closed:
        raise ValueError(f"{method.name} needs its null distribution")
    p_value = score if null is None else null.p_value(method.statistic(score))
    if method.direction == "p_value" or null is None:
        return Score(method.name, "sample", score, size.effect, size.floor, p_value, size.rows)
    return Score(method.name, "sample", score, score - null.mean, method.threshold, p_value, size.rows)
