"""Monitors as data: what of a model's prediction stream is measured, in which windows, against what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Self

from daemon.core.canonical import canonical, digest

FeatureKind = Literal["number", "category"]
"""As in core/columns.py, which is not imported: checking a rule file needs no numpy."""

METHODS: Mapping[str, frozenset[FeatureKind]] = MappingProxyType({
    **dict.fromkeys(("psi", "chi_square"), frozenset[FeatureKind](("number", "category"))),
    **dict.fromkeys(
        ("ks", "cramer_von_mises", "es", "t_test", "wasserstein", "ed"), frozenset[FeatureKind](("number",))
    ),
    **dict.fromkeys(("jensenshannon", "kl_div", "hellinger"), frozenset[FeatureKind](("number", "category"))),
    **dict.fromkeys(("z", "chisquare"), frozenset[FeatureKind](("category",))),
})  # fmt: skip
"""Method -> the kinds of column that it takes. The first two count all rows (core/drift.py), the others are Evidently's
tests on the window's sample (core/methods.py)."""


@dataclass(frozen=True, slots=True)
class Window:
    """How rows become windows: exactly one of `rows` and `every`."""

    rows: int | None = None
    """So many rows each, in the order in which they came."""
    every: timedelta | None = None
    """So much event time each, aligned to 1970; later rows of a closed window are left out and counted."""
    min_rows: int = 1
    """With `every`: a window with fewer rows goes on for another stretch."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """One `monitors:` entry of a rule file. Two monitors with equal `semantics` measure the same."""

    name: str
    model: str
    """The model as config.yaml names it."""
    window: Window
    segments: tuple[str, ...] = ()
    """Columns by whose values each window is also measured apart."""
    reference: Literal["fixed", "trailing"] = "fixed"
    """What the champion logged, or the windows before this one."""
    trailing: int = 8
    """How many earlier windows a trailing reference has."""
    methods: Mapping[FeatureKind, str] = field(default_factory=dict)
    """Per kind of feature the method; default `psi`. `psi` and `chi_square` count all rows, the others are run by
    Evidently on the window's sample."""
    alpha: float = 0.001
    """A column drifts when its adjusted p-value is at most this ..."""
    floor: float = 0.1
    """... and its effect at least this."""
    coverage: float = 0.95
    """A window's performance is measured when so many of its labels have come, or the stream's horizon has passed."""

    @property
    def semantics(self) -> str:
        """Hash of what it measures: a change of it starts new windows."""
        return digest(canonical(self.to_json()))[:16]

    def to_json(self) -> dict[str, Any]:
        """For a frame or the store."""
        window = self.window
        return {
            "name": self.name, "model": self.model, "rows": window.rows,
            "every": None if window.every is None else window.every.total_seconds(), "min_rows": window.min_rows,
            "segments": list(self.segments), "reference": self.reference, "trailing": self.trailing,
            "methods": dict(self.methods), "alpha": self.alpha, "floor": self.floor, "coverage": self.coverage,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From a frame or the store."""
        every = stored["every"]
        window = Window(stored["rows"], None if every is None else timedelta(seconds=every), stored["min_rows"])
        return cls(
            stored["name"], stored["model"], window, tuple(stored["segments"]), stored["reference"],
            stored["trailing"], dict(stored["methods"]), stored["alpha"], stored["floor"], stored["coverage"],
        )  # fmt: skip
