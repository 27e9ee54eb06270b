"""A monitor as data: which windows of a model's prediction stream are measured, against what, and how.

Text becomes a Monitor in `daemon/rulefiles.py`; `daemon/monitors` does what it says. The names of methods and limits stand
here, without the statistics behind them, so that checking a rule file imports no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

Basis = Literal["histogram", "sample"]
ReferenceKind = Literal["fixed", "trailing"]

HISTOGRAM_METHODS = frozenset({"psi", "chi_square"})
"""Scores over all rows of the window (core/drift.py)."""

SAMPLE_METHODS: Mapping[str, frozenset[str]] = MappingProxyType({
    **dict.fromkeys(("ks", "cramer_von_mises", "es", "t_test", "wasserstein", "ed"), frozenset({"number"})),
    **dict.fromkeys(("psi", "jensenshannon", "kl_div", "hellinger"), frozenset({"number", "category"})),
    **dict.fromkeys(("z", "chisquare"), frozenset({"category"})),
})  # fmt: skip
"""Evidently's tests on the window's sample (core/methods.py) -> the kinds of column that each takes."""

QUALITY_LIMITS = frozenset({"alpha", "missing", "invalid", "new_category", "out_of_range", "min_rows"})
"""Limits of the data-quality gate (core/quality.py, Limits)."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """One monitor. Either `rows` or `every` is set."""

    name: str
    """Unique over all rule files."""
    model: str
    """As config.yaml names it; its stream is what is measured."""
    rows: int | None
    """A window is so many rows."""
    every: float | None
    """A window is so many seconds of event time..."""
    min_rows: int
    """... which are joined with the next ones until it has so many rows."""
    segments: tuple[str, ...] = ()
    """Columns by whose values the window is measured too, each value for itself, besides all rows together."""
    reference: ReferenceKind = "fixed"
    """`fixed`: the champion's reference; `trailing`: the windows just before."""
    trailing: int = 0
    """How many windows the trailing reference has; 0 for a fixed one."""
    basis: Basis = "histogram"
    method: str = "psi"
    """The score of columns that `methods` does not name; of the basis."""
    methods: Mapping[str, str] = field(default_factory=dict)
    """Feature column -> its method."""
    ignore: tuple[str, ...] = ()
    """Feature columns that are not measured."""
    alpha: float = 0.001
    """A column drifts when its p-value (adjusted for the number of columns) is at most this..."""
    floor: float | None = None
    """... and its effect at least this; None: the method's own floor."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Limits that differ from the defaults of the data-quality gate, by the names of QUALITY_LIMITS."""
    coverage: float = 0.0
    """Share of a window's rows that must have labels before its performance is told."""
    owner: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **asdict(self), "segments": list(self.segments), "ignore": list(self.ignore),
            "methods": dict(self.methods), "quality": dict(self.quality),
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(**{**stored, "segments": tuple(stored["segments"]), "ignore": tuple(stored["ignore"])})
