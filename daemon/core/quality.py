"""The data-quality gate: schema, types, gaps, new categories and range, before anybody speaks of drift.

A rate fails when it is over the reference's by more than a margin **and** significantly (one-sided, alpha): one odd value
in fifty rows is no failure, nor is a large window whose missing rate moved by a tenth of a percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.special import betainc, ndtr

from daemon.core.errors import BadInput
from daemon.core.panes import Counts, Pane
from daemon.core.reference import Bins, Reference


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a rate may be over the reference's before it fails; rates are shares of the window's rows."""

    alpha: float = 0.001
    """For each check of each column. A gate warns of what is surely there, so this is small."""
    missing: float = 0.05
    invalid: float = 0.01
    new_category: float = 0.01
    out_of_range: float = 0.02
    min_rows: int = 50
    """With fewer rows only the schema is judged."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column's rates, and those of its checks that failed: `absent`, `type`, `missing`, `new_category`, `range`."""

    missing_rate: float
    reference_missing_rate: float
    invalid_rate: float
    new_category_rate: float | None
    """None for numbers, and for columns with too many categories to know them all."""
    out_of_range_rate: float | None
    """None for categories, and when the reference has no value."""
    failures: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """As `columns` of quality.measured has it."""
        return {
            "missing_rate": self.missing_rate, "reference_missing_rate": self.reference_missing_rate,
            "invalid_rate": self.invalid_rate, "new_category_rate": self.new_category_rate,
            "out_of_range_rate": self.out_of_range_rate, "failures": list(self.failures),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quality:
    """The gate's verdict."""

    columns: Mapping[str, ColumnQuality]

    @property
    def failures(self) -> tuple[str, ...]:
        """`column: check` of each check that failed."""
        return tuple(f"{name}: {check}" for name, column in self.columns.items() for check in column.failures)

    @property
    def passed(self) -> bool:
        """No check failed."""
        return not self.failures

    def fields(self) -> dict[str, Any]:
        """The measured fields of quality.measured."""
        columns = {name: column.fields() for name, column in self.columns.items()}
        return {"passed": self.passed, "failures": list(self.failures), "columns": columns}


def check(reference: Reference, pane: Pane, limits: Limits = DEFAULT_LIMITS) -> Quality:
    """Hold the window's columns against the reference's.

    BadInput when the pane is another reference's, or empty: nothing can be said of no rows.
    """
    if pane.reference != reference.panes:
        raise BadInput("the pane was kept in the bins of another reference")
    if pane.rows == 0:
        raise BadInput("a window without rows has no quality")
    return Quality({
        name: _column(bins, pane.features[name], pane.rows, limits) for name, bins in reference.features.items()
    })  # fmt: skip


def grown(count: int, rows: int, before: int, before_rows: int) -> float:
    """One-sided p-value that a rate has grown from before/before_rows to count/rows.

    The binomial tail at the reference's rate, smoothed and with the reference's own uncertainty added: exact enough for
    rare counts, where the normal approximation calls a single new value significant.
    """
    if count == 0 or before_rows == 0:
        return 1.0
    rate = (before + 0.5) / (before_rows + 1)
    if before >= 20 and count >= 20:  # both well away from 0: two-sample z, which knows the reference's noise
        both = (count + before) / (rows + before_rows)
        error = math.sqrt(both * (1 - both) * (1 / rows + 1 / before_rows))
        return float(ndtr(-(count / rows - before / before_rows) / error)) if error > 0 else 1.0
    return float(betainc(count, rows - count + 1, min(rate + 2 * math.sqrt(rate / before_rows), 1.0)))


def _column(bins: Bins, counts: Counts, rows: int, limits: Limits) -> ColumnQuality:
    missing = counts.missing
    new = counts.new if bins.known else None
    outside = counts.below + counts.above if bins.low is not None else None
    failures = []
    if counts.absent == rows:
        failures.append("absent")
    elif rows >= limits.min_rows:
        checks = (
            ("type", counts.invalid, 0, limits.invalid),
            ("missing", missing, bins.missing, limits.missing),
            ("new_category", new or 0, 0, limits.new_category),
            ("range", outside or 0, 0, limits.out_of_range),
        )
        for name, count, before, margin in checks:
            over = count / rows - before / bins.rows > margin
            if over and grown(count, rows, before, bins.rows) <= limits.alpha:
                failures.append(name)
    return ColumnQuality(
        missing / rows, bins.missing / bins.rows, counts.invalid / rows,
        None if new is None else new / rows, None if outside is None else outside / rows, tuple(failures),
    )  # fmt: skip
