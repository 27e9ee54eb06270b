"""The canary's verdict: per guard worse, non-inferior or undecided, at any look, as often as one likes.

Evidence is taken per unit (the routing key) and per block (a `traffic.measured` event), with alpha split across the
guards, so false rollbacks stay under alpha however often one looks. A guard without data is undecided, never good.
Pure standard library: the daemon process imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

GUARDS: tuple[str, ...] = ("error_rate", "latency_p95", "prediction_shift", "accuracy")


class Finding(Enum):
    """What is known of one guard."""

    WORSE = "worse"
    """The challenger is worse: roll back."""
    NON_INFERIOR = "non_inferior"
    """It is not worse by more than the guard allows."""
    UNDECIDED = "undecided"
    """Neither is known yet."""


class Outlook(Enum):
    """What is known of the canary."""

    REJECT = "reject"
    """Some guard is worse."""
    ELIGIBLE = "eligible"
    """Every guard is non-inferior and there were enough requests; duration is the caller's to judge."""
    UNDECIDED = "undecided"
    """Neither."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What one guard allows. `guard(name)` has the defaults."""

    name: str
    """One of GUARDS."""
    tolerance: float
    """Rate guards: non-inferior when the challenger's rate is surely under this. prediction_shift: how far the share of
    each of the champion's score quartiles may move."""
    margin: float
    """Rate guards: non-inferior when the challenger's rate is surely less than so many times the champion's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a canary is judged; fixed before its first block."""

    champion: str
    """Version."""
    challenger: str
    guards: tuple[Guard, ...]
    alpha: float = 0.05
    """Most probability of a false rollback, over all guards and looks."""
    min_requests: int = 1000
    """Requests of the challenger before it may be promoted."""
    baseline_units: int = 200
    """Units of the champion from which its P95 and score quartiles are frozen, before either is tested."""


@dataclass(frozen=True, slots=True)
class GuardReport:
    """One guard's standing, with the numbers that speak for it."""

    name: str
    finding: Finding
    reason: str
    """A sentence."""
    worse: float
    """Log evidence that the challenger is worse; at `limit` it is."""
    non_inferior: float
    """Log evidence that it is not worse by the margin (prediction_shift: that no share moved by the tolerance)."""
    limit: float
    """ln(1 / the guard's alpha)."""
    upper: float | None
    """Rate guards: anytime-valid upper bound of the challenger's rate; None without its data or for prediction_shift."""
    challenger_units: int
    challenger_rate: float | None
    """Failed (slow, wrong) share of its units; for prediction_shift the largest move of a quartile's share."""
    champion_units: int
    champion_rate: float | None

    def to_json(self) -> dict[str, Any]:
        """For the audit and the pages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Verdict:
    """The canary's standing after its blocks so far."""

    outlook: Outlook
    reasons: tuple[str, ...]
    """Sentences: what speaks for it, or what is still missing."""
    guards: Mapping[str, GuardReport]
    requests: int
    """The challenger's."""

    def to_json(self) -> dict[str, Any]:
        """For the audit and the pages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Canary:
    """All that is remembered between blocks: O(1) numbers. Start with `Canary(plan)`."""

    plan: Plan
    requests: int = 0
    """The challenger's, over the tested blocks."""
    blocks: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the store: plain JSON, survives a restart exactly."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Canary:
        """From the store."""
        raise NotImplementedError


def guard(name: str, tolerance: float | None = None, margin: float | None = None) -> Guard:
    """A guard with defaults for what is not given. ValueError for an unknown name or a senseless number."""
    raise NotImplementedError


def warm(canary: Canary, arms: Mapping[str, Mapping[str, Any]]) -> Canary:
    """A block from before the canary: only the champion's P95 and score quartiles learn from it (until they are frozen)."""
    raise NotImplementedError


def observe(canary: Canary, arms: Mapping[str, Mapping[str, Any]]) -> Canary:
    """A block of the canary: `arms` of a traffic.measured event. Arms of other versions are ignored.

    Every block once, in order; blocks in which a version is missing are fine.
    """
    raise NotImplementedError


def verdict(canary: Canary) -> Verdict:
    """Where the canary stands now."""
    raise NotImplementedError
