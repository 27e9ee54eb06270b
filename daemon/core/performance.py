"""Performance: what labels say about a window, and the evidence that the loss has grown (e-CUSUM).

Per loss ratio r of RATIOS, l <- max(l, 0) + log-likelihood ratio of the window ("the loss is r times the reference's"
against "as the reference"); the evidence is the log of their mean likelihood. It can only pass ln 1000 by chance once in
1000 windows or more (average run length; Lorden 1971, Shin et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.core.columns import Floats
from daemon.core.losses import Task
from daemon.core.reference import Reference

RATIOS: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 3.0)
LIMIT = 6.907755278982137
"""ln 1000: evidence from which there is an alarm."""
CAP = 3 * LIMIT
"""Evidence is held at this, so that a mended model is believed again after a while."""
LOSS_FLOOR = 1.1
"""The mean loss since the onset must be so many times the reference's."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Sum of a window's realised losses: integers in fixed point of the reference's scale, so merging is exact."""

    rows: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.rows + other.rows, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class Performance:
    """The metric on the labelled rows, with its 95 % interval."""

    metric: str
    """`accuracy` or `mae`."""
    value: float
    lower: float
    upper: float
    labelled: int
    loss: float
    """Mean loss: error rate, or absolute error."""
    reference_loss: float | None
    loss_ratio: float | None


@dataclass(frozen=True, slots=True)
class Cusum:
    """The e-CUSUM's memory between windows."""

    logs: tuple[float, ...] = (0.0,) * len(RATIOS)
    onsets: tuple[int | None, ...] = (None,) * len(RATIOS)
    """Per ratio: event time (µs since the epoch) of the first window since its log was last at zero."""
    since: tuple[tuple[int, float], ...] = ((0, 0.0),) * len(RATIOS)
    """Per ratio: rows and summed loss since then."""

    @property
    def evidence(self) -> float:
        """Log evidence that the loss has grown."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Cusum:
        """From the store."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the e-CUSUM says after a window."""

    evidence: float
    loss_ratio_since_onset: float | None
    onset: int | None
    """µs since the epoch; None when no change is suspected."""
    alarm: bool


def sum_losses(reference: Reference, losses: Floats) -> Losses:
    """Sum realised losses (losses.losses of the joined rows; NaN rows are left out) on the reference's scale."""
    raise NotImplementedError


def performance(reference: Reference, losses: Losses) -> Performance | None:
    """The metric and its interval (Wilson for accuracy, Student's t for mae); None without labelled rows."""
    raise NotImplementedError


def accumulate(state: Cusum, reference: Reference, losses: Losses, start: int) -> tuple[Cusum, Alarm | None]:
    """Add a window (its first event time is `start`) to the e-CUSUM. Without labels, or without labels in the
    reference, the state stays and there is no Alarm.
    """
    raise NotImplementedError


def wilson(hits: int, rows: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a share."""
    raise NotImplementedError


def fields(task: Task, measured: Performance | None, alarm: Alarm | None, eligible: int) -> dict[str, Any]:
    """The measured fields of performance.measured, `unset` included. `eligible`: rows that could have a label by now."""
    raise NotImplementedError
