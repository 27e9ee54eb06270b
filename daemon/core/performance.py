"""Performance: what labels say about a window, and the evidence that the loss has grown (e-CUSUM).

Per loss ratio r of RATIOS, l <- max(l, 0) + log-likelihood ratio of the window ("the loss is r times the reference's"
against "as the reference"); the evidence is the log of their mean likelihood. Over windows without change it passes
ln 1000 once in 1000 windows at most, on average (average run length; Lorden 1971, Shin et al. 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from daemon.core.columns import Floats
from daemon.core.losses import Moments
from daemon.core.reference import Reference

RATIOS: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 3.0)
LIMIT = math.log(1000)
"""Evidence from which there is an alarm."""
CAP = LIMIT + math.log(len(RATIOS)) + 1
"""Each log is held at this, a little over what one needs for an alarm by itself, so that a mended model is soon believed."""
LOSS_FLOOR = 1.1
"""For an alarm the mean loss since the onset must be so many times the reference's."""
MAX_RATE = 0.99
"""No alternative says that more than this share of predictions is wrong."""

_FRACTION = 24
_LARGEST = 2.0**19
"""Losses beyond so many times the reference's scale count as this much; one wild label cannot overflow a sum."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Sum of realised losses: integers in fixed point of the reference's scale, so merging is exact in any order."""

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
    lower: float | None
    """None when one row alone says nothing of the spread."""
    upper: float | None
    labelled: int
    loss: float
    """Mean loss: error rate, or absolute error."""
    reference_loss: float | None
    """None when the reference has no labels."""


@dataclass(frozen=True, slots=True)
class Track:
    """The e-CUSUM of one ratio."""

    log: float = 0.0
    onset: int | None = None
    """Event time (µs since the epoch) of the first window since the log was last at zero; None while there is none."""
    since: Losses = Losses()
    """The losses since then."""


@dataclass(frozen=True, slots=True)
class Cusum:
    """The e-CUSUM's memory between windows."""

    tracks: tuple[Track, ...] = (Track(),) * len(RATIOS)

    @property
    def evidence(self) -> float:
        """Log evidence that the loss has grown: log of the tracks' mean likelihood."""
        top = max(track.log for track in self.tracks)
        return top + math.log(sum(math.exp(track.log - top) for track in self.tracks) / len(self.tracks))

    @property
    def leading(self) -> Track:
        """The track with most evidence: it says when the change began."""
        return max(self.tracks, key=lambda track: track.log)

    def to_json(self) -> list[Any]:
        """For the store."""
        return [[t.log, t.onset, t.since.rows, str(t.since.total), str(t.since.squares)] for t in self.tracks]

    @classmethod
    def from_json(cls, stored: list[Any]) -> Cusum:
        """From the store."""
        return cls(
            tuple(Track(log, onset, Losses(rows, int(total), int(sq))) for log, onset, rows, total, sq in stored)
        )


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the e-CUSUM says after a window."""

    evidence: float
    loss_ratio_since_onset: float | None
    """None while no change is suspected."""
    onset: int | None
    """µs since the epoch."""
    alarm: bool


def sum_losses(reference: Reference, losses: Floats) -> Losses:
    """Sum realised losses (`losses.losses` of the joined rows; rows with NaN are left out) on the reference's scale."""
    known = losses[~np.isnan(losses)]
    scaled = np.minimum(known / _scale(reference), _LARGEST)
    units = np.rint(scaled * 2.0**_FRACTION).astype(np.int64)
    squares = np.rint(scaled * scaled * 2.0**_FRACTION).astype(np.int64)
    return Losses(len(known), _total(units), _total(squares))


def mean_loss(reference: Reference, losses: Losses) -> Moments | None:
    """Mean and variance of summed losses; None for no rows. The variance of a single row is 0."""
    if losses.rows == 0:
        return None
    scale, rows = _scale(reference), losses.rows
    spread = rows * losses.squares * 2**_FRACTION - losses.total**2
    variance = spread / (rows * (rows - 1)) / 4**_FRACTION * scale**2 if rows > 1 else 0.0
    return Moments(rows, losses.total / 2**_FRACTION / rows * scale, max(variance, 0.0))


def performance(reference: Reference, losses: Losses) -> Performance | None:
    """The metric and its interval (Wilson for accuracy, Student's t for mae); None without labelled rows."""
    mean = mean_loss(reference, losses)
    if mean is None:
        return None
    before = None if reference.loss is None else reference.loss.mean
    if reference.task != "regression":
        lower, upper = wilson(mean.rows - round(mean.mean * mean.rows), mean.rows)
        return Performance("accuracy", 1 - mean.mean, lower, upper, mean.rows, mean.mean, before)
    if mean.rows < 2:
        return Performance("mae", mean.mean, None, None, mean.rows, mean.mean, before)
    reach = float(stdtrit(mean.rows - 1, 0.975)) * math.sqrt(mean.variance / mean.rows)
    return Performance("mae", mean.mean, max(mean.mean - reach, 0.0), mean.mean + reach, mean.rows, mean.mean, before)


def accumulate(state: Cusum, reference: Reference, losses: Losses, start: int) -> tuple[Cusum, Alarm | None]:
    """Add a window (its first event time is `start`, µs) to the e-CUSUM.

    Without labels, or when the reference has none, the state stays and there is no Alarm: no data is no evidence.
    """
    mean = mean_loss(reference, losses)
    if mean is None or reference.loss is None:
        return state, None
    tracks = []
    for ratio, track in zip(RATIOS, state.tracks, strict=True):
        rising = track.log > 0
        gain = _log_likelihood_ratio(reference, mean, reference.loss, ratio)
        log = min(max(track.log, 0.0) + gain, CAP)
        onset = track.onset if rising else start
        since = track.since + losses if rising else losses
        tracks.append(Track(log, onset, since) if log > 0 else Track(log))
    moved = Cusum(tuple(tracks))
    return moved, _alarm(moved, reference, reference.loss.mean)


def wilson(hits: int, rows: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a share, by default at 95 %."""
    share, shrink = hits / rows, 1 + z * z / rows
    middle = (share + z * z / (2 * rows)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def fields(measured: Performance | None, alarm: Alarm | None, eligible: int) -> dict[str, Any]:
    """The measured fields of performance.measured except `onset` (a time: the caller's), `unset` included.

    `eligible`: rows of the window that could have a label by now.
    """
    unset: dict[str, str] = {}
    if measured is None:
        return {"labelled": 0, "coverage": 0.0 if eligible else None, "unset": {"value": "no row has a label"}}
    found: dict[str, Any] = {
        "metric": measured.metric, "value": measured.value, "lower": measured.lower, "upper": measured.upper,
        "labelled": measured.labelled, "coverage": measured.labelled / eligible if eligible else None,
        "loss": measured.loss, "reference_loss": measured.reference_loss,
    }  # fmt: skip
    if measured.reference_loss:
        found["loss_ratio"] = measured.loss / measured.reference_loss
    else:
        unset["loss_ratio"] = "the reference has no labels, or no loss"
    if alarm is None:
        unset["evidence"] = "the reference has no labels"
    else:
        found |= {"evidence": alarm.evidence, "alarm": alarm.alarm}
        found["loss_ratio_since_onset"] = alarm.loss_ratio_since_onset
    return {**found, "unset": unset}


def _alarm(state: Cusum, reference: Reference, before: float) -> Alarm:
    leading, evidence = state.leading, state.evidence
    since = mean_loss(reference, leading.since)
    if since is None or before <= 0:
        return Alarm(evidence, None, leading.onset, alarm=False)
    ratio = since.mean / before
    return Alarm(evidence, ratio, leading.onset, alarm=evidence >= LIMIT and ratio >= LOSS_FLOOR)


def _log_likelihood_ratio(reference: Reference, mean: Moments, before: Moments, ratio: float) -> float:
    """Log P(window | loss is ratio times the reference's) - log P(window | as the reference)."""
    if before.mean <= 0 or before.variance <= 0:
        return 0.0  # a reference without a single error gives no scale for "ratio times"
    if reference.task == "regression":
        expected = before.mean * ratio
        return mean.rows / before.variance * (expected - before.mean) * (mean.mean - (before.mean + expected) / 2)
    worse = min(before.mean * ratio, MAX_RATE)
    if worse <= before.mean:
        return 0.0
    wrong = mean.mean * mean.rows
    return wrong * math.log(worse / before.mean) + (mean.rows - wrong) * math.log((1 - worse) / (1 - before.mean))


def _scale(reference: Reference) -> float:
    """A power of two near the reference's loss: exact to divide by. 1 for shares of wrong predictions."""
    if reference.task != "regression" or reference.loss is None or reference.loss.mean <= 0:
        return 1.0
    return 2.0 ** math.ceil(math.log2(reference.loss.mean))


def _total(units: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    """The sum in two halves, so that no length of array overflows."""
    return (int((units >> 31).sum()) << 31) + int((units & 0x7FFFFFFF).sum())
