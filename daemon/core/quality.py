"""The data-quality gate: schema, types, gaps, new categories and range, before anybody speaks of drift.

A rate fails when it is significantly over the reference's (one-sided, alpha) **and** by more than a margin: a thousand
rows with one odd value are no failure, nor is a large window whose missing rate moved by a tenth of a percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.core.panes import Pane
from daemon.core.reference import Reference


@dataclass(frozen=True, slots=True)
class Limits:
    """From which on a rate fails. Rates are shares of the window's rows."""

    alpha: float = 0.001
    missing: float = 0.05
    """Over the reference's missing rate."""
    invalid: float = 0.01
    new_category: float = 0.01
    out_of_range: float = 0.02
    min_rows: int = 50
    """With fewer rows only the schema is judged."""


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column's rates and failed checks: `absent`, `type`, `missing`, `empty`, `new_category`, `range`."""

    missing_rate: float
    reference_missing_rate: float
    invalid_rate: float
    new_category_rate: float | None
    """None for numbers, and for columns with too many categories to know them all."""
    out_of_range_rate: float | None
    """None for categories."""
    failures: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """As `columns` of quality.measured has it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Quality:
    """The gate's verdict."""

    columns: Mapping[str, ColumnQuality]
    failures: tuple[str, ...]
    """`column: check`."""

    @property
    def passed(self) -> bool:
        """No check failed."""
        return not self.failures

    def fields(self) -> dict[str, Any]:
        """The measured fields of quality.measured."""
        raise NotImplementedError


def check(reference: Reference, pane: Pane, limits: Limits = Limits()) -> Quality:
    """Hold the window's columns against the reference's. BadInput when the pane is another reference's."""
    raise NotImplementedError
