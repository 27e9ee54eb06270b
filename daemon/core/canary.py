"""The canary's verdict: per guard worse, non-inferior or undecided, at any look, as often as one likes.

Evidence is taken per unit (the routing key) and per block (a `traffic.measured` event). A rollback needs evidence of
alpha split across the guards, so false rollbacks stay under alpha over all guards and looks. A promotion needs every guard
to be non-inferior, so each is held against the whole alpha. A guard without data is undecided, never good.

prediction_shift does not ask whether the scores are distributed as before: the challenger is a retrained model, and
shifting scores is what retraining after drift is for; any difference, however small, would be found in time. It asks
whether the share of some quartile of the champion's scores has moved by more than a tolerance: models trained on shuffled
labels, or that answer a constant, move a quartile's share by half and more, and are found within a few dozen units.

Pure standard library: the daemon process imports it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

from daemon.core.histograms import added, coarsen, grouped, quantile_bin
from daemon.core.sequential import Arm, RateEvidence, ShareEvidence, Tracks, upper_bound

SHARE_GROUPS = 4
"""Quartiles of the champion's scores."""
LATENCY_SHARE = 0.95
"""The champion's P95 is the border between quick and slow."""


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
    """Neither: after the deadline, inconclusive."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What one guard allows. `guard(name)` has the defaults."""

    name: str
    """One of GUARDS."""
    tolerance: float
    """Rate guards: non-inferior when the challenger's rate is surely under this. prediction_shift: how far the share of a
    quartile of the champion's scores may move."""
    margin: float
    """Rate guards: non-inferior when the challenger's rate is surely less than so many times the champion's."""


GUARDS: Mapping[str, Guard] = MappingProxyType({
    guard.name: guard
    for guard in (
        Guard("error_rate", tolerance=0.01, margin=1.5),
        Guard("latency_p95", tolerance=0.1, margin=1.5),  # the champion's P95 may become the challenger's P90
        Guard("prediction_shift", tolerance=0.15, margin=0.0),
        Guard("accuracy", tolerance=0.01, margin=1.5),
    )
})  # fmt: skip
"""The guards with their defaults."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a canary is judged; fixed before its first block."""

    champion: str
    """Version."""
    challenger: str
    guards: tuple[Guard, ...]
    alpha: float = 0.05
    """Most probability of a false rollback, over all guards and looks; and of promoting what some guard forbids."""
    min_requests: int = 1000
    """Requests of the challenger before it may be promoted."""
    baseline_units: int = 200
    """Units of the champion from which its P95 and its score quartiles are frozen; neither is tested before."""
    incidents: float = 0.02
    """Share of the blocks in which one arm alone may fail or be slow for a while without its counting; 0: none are
    expected. A few verdicts come earlier then, and a passing incident can reject."""


@dataclass(frozen=True, slots=True)
class GuardReport:
    """One guard's standing, with the numbers that speak for it."""

    name: str
    finding: Finding
    reason: str
    """A sentence."""
    worse: float
    """Log evidence that the challenger is worse (the most it has been); at `worse_limit` it is."""
    worse_limit: float
    fine: float
    """Log evidence that it is not worse by the margin (prediction_shift: that no share moved by the tolerance)."""
    fine_limit: float
    upper: float | None
    """Rate guards: anytime-valid upper bound of the challenger's rate; None without its data."""
    challenger: Arm
    """Its units, and how many of them failed (were slow, wrong); for prediction_shift only the units."""
    champion: Arm
    move: float | None
    """prediction_shift: the largest move of a quartile's share."""

    def to_json(self) -> dict[str, Any]:
        """For the audit and the pages."""
        return {**asdict(self), "finding": self.finding.value}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The canary's standing after its blocks so far."""

    outlook: Outlook
    reasons: tuple[str, ...]
    """Sentences: why it is rejected or eligible, or what is still missing."""
    guards: Mapping[str, GuardReport]
    requests: int
    """The challenger's."""

    def to_json(self) -> dict[str, Any]:
        """For the audit and the pages."""
        guards = {name: report.to_json() for name, report in self.guards.items()}
        return {
            "outlook": self.outlook.value, "reasons": list(self.reasons), "guards": guards, "requests": self.requests,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Canary:
    """All that is remembered between blocks: a few hundred numbers however long it runs. Begin with `Canary(plan)`."""

    plan: Plan
    requests: int = 0
    """The challenger's, since the first block."""
    blocks: int = 0
    rates: Mapping[str, RateEvidence] = field(default_factory=dict)
    """Per rate guard that has seen a block."""
    shift: ShareEvidence | None = None
    """None until the champion's quartiles are frozen."""
    groups: tuple[int, ...] = ()
    """Quartile of each score bin, once frozen."""
    slow_from: int | None = None
    """First latency bucket over the champion's P95, once frozen."""
    latency_before: tuple[int, ...] = ()
    """The champion's histograms, until frozen."""
    scores_before: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the store: plain JSON; `from_json` gives back the very same canary."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Canary:
        """From the store."""
        plan = dict(stored["plan"])
        plan["guards"] = tuple(Guard(**guard) for guard in plan["guards"])
        shift = stored["shift"]
        return cls(
            plan=Plan(**plan),
            requests=stored["requests"],
            blocks=stored["blocks"],
            rates={name: _rate_evidence(rate) for name, rate in stored["rates"].items()},
            shift=shift and _share_evidence(shift),
            groups=tuple(stored["groups"]),
            slow_from=stored["slow_from"],
            latency_before=tuple(stored["latency_before"]),
            scores_before=tuple(stored["scores_before"]),
        )


def guard(name: str, tolerance: float | None = None, margin: float | None = None) -> Guard:
    """A guard with defaults for what is not given. ValueError for an unknown name or a number that makes no sense."""
    if name not in GUARDS:
        raise ValueError(f"there is no guard {name!r}; there are {', '.join(GUARDS)}")
    chosen = GUARDS[name]
    tolerance = chosen.tolerance if tolerance is None else tolerance
    margin = chosen.margin if margin is None else margin
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance of {name} is a share between 0 and 1, not {tolerance}")
    if name != "prediction_shift" and not margin > 1:
        raise ValueError(f"the margin of {name} is a rate ratio over 1, not {margin}")
    return Guard(name, tolerance, margin)


def warm(canary: Canary, arms: Mapping[str, Mapping[str, Any]]) -> Canary:
    """A block from before the canary: only the champion's P95 and score quartiles learn from it, until they are frozen."""
    arm = arms.get(canary.plan.champion)
    if arm is None:
        return canary
    need = canary.plan.baseline_units
    if canary.slow_from is None:
        latency = _together(canary.latency_before, arm.get("latency") or ())
        frozen = sum(latency) >= need
        slow_from = quantile_bin(latency, LATENCY_SHARE) + 1 if frozen else None
        canary = replace(canary, latency_before=() if frozen else latency, slow_from=slow_from)
    if canary.shift is None:
        scores = _together(canary.scores_before, arm.get("scores") or ())
        groups = coarsen(scores, SHARE_GROUPS) if sum(scores) >= need else ()
        shift = ShareEvidence.start(grouped(scores, groups)) if groups else None
        canary = replace(canary, scores_before=() if groups else scores, groups=groups, shift=shift)
    return canary


def observe(canary: Canary, arms: Mapping[str, Mapping[str, Any]]) -> Canary:
    """A block of the canary: `arms` of a traffic.measured event. Arms of other versions are ignored.

    Every block once, in order. Blocks in which a version is missing are fine. While the champion's P95 or quartiles are
    not frozen, blocks go to them and that guard is not tested: a border must not depend on what it is tested with.
    """
    plan = canary.plan
    ours, theirs = arms.get(plan.challenger, {}), arms.get(plan.champion, {})
    rates = dict(canary.rates)
    shift = canary.shift
    for each in plan.guards:
        if each.name == "prediction_shift":
            if shift is not None:
                shares = (_groups(ours, canary.groups), _groups(theirs, canary.groups))
                shift = shift.observe(*shares, each.tolerance)
            continue
        if each.name == "latency_p95" and canary.slow_from is None:
            continue
        pair = (_arm(each.name, ours, canary.slow_from), _arm(each.name, theirs, canary.slow_from))
        incidents = 0.0 if each.name == "accuracy" else plan.incidents  # a model is not wrong for a minute
        rates[each.name] = rates.get(each.name, RateEvidence()).observe(*pair, each.margin, incidents)
    seen = replace(
        canary,
        requests=canary.requests + int(ours.get("requests") or 0),
        blocks=canary.blocks + 1,
        rates=rates,
        shift=shift,
    )
    return warm(seen, arms)


def verdict(canary: Canary) -> Verdict:
    """Where the canary stands now."""
    plan = canary.plan
    reports = {each.name: _report(canary, each) for each in plan.guards}
    worse = [report for report in reports.values() if report.finding is Finding.WORSE]
    if worse:
        return Verdict(Outlook.REJECT, tuple(report.reason for report in worse), reports, canary.requests)
    missing = [report.reason for report in reports.values() if report.finding is Finding.UNDECIDED]
    if canary.requests < plan.min_requests:
        missing.append(f"{canary.requests} of at least {plan.min_requests} requests so far")
    if not plan.guards:
        missing.append("there is no guard, so nothing can be known")
    if missing:
        return Verdict(Outlook.UNDECIDED, tuple(missing), reports, canary.requests)
    reasons = tuple(report.reason for report in reports.values())
    return Verdict(Outlook.ELIGIBLE, reasons, reports, canary.requests)


def _report(canary: Canary, each: Guard) -> GuardReport:
    plan = canary.plan
    limits = math.log(len(plan.guards) / plan.alpha), math.log(1 / plan.alpha)
    if each.name == "prediction_shift":
        return _shift_report(canary.shift, each, limits)
    known = canary.rates.get(each.name, RateEvidence())
    upper = upper_bound(known.challenger, plan.alpha) if known.challenger.units else None
    finding, reason = _rate_finding(each, known, upper, limits)
    return GuardReport(
        each.name, finding, f"{each.name}: {reason}", known.peak, limits[0], known.fine, limits[1], upper,
        known.challenger, known.champion, None,
    )  # fmt: skip


def _rate_finding(
    each: Guard, known: RateEvidence, upper: float | None, limits: tuple[float, float]
) -> tuple[Finding, str]:
    ours, theirs = known.challenger, known.champion
    if upper is None:
        return Finding.UNDECIDED, "no data of the challenger yet"
    seen = f"{ours.events} of {ours.units} units against the champion's {theirs.events} of {theirs.units}"
    if upper < each.tolerance:
        return Finding.NON_INFERIOR, f"surely under {each.tolerance:.2%} (at most {upper:.2%}; {seen})"
    if known.peak >= limits[0]:
        return Finding.WORSE, f"worse than the champion: {seen}"
    if known.fine >= limits[1]:
        return Finding.NON_INFERIOR, f"surely less than {each.margin:g} times the champion's ({seen})"
    return Finding.UNDECIDED, f"not decided yet: {seen}"


def _shift_report(known: ShareEvidence | None, each: Guard, limits: tuple[float, float]) -> GuardReport:
    ours, theirs = (0, 0) if known is None else (sum(known.challenger), sum(known.champion))
    worse, same, move = (0.0, 0.0, None) if known is None else (known.peak, known.same, known.largest_move)
    finding, reason = Finding.UNDECIDED, "the champion's quartiles are not known yet"
    if known is not None:
        seen = f"largest move {0 if move is None else move:.1%} over {ours} units against the champion's {theirs}"
        reason = f"not decided yet: {seen}"
        if worse >= limits[0]:
            finding, reason = Finding.WORSE, f"a quartile of the scores moved by more than {each.tolerance:.0%}: {seen}"
        elif ours and theirs and same >= limits[1]:
            finding, reason = Finding.NON_INFERIOR, f"no quartile of the scores moved by {each.tolerance:.0%}: {seen}"
    return GuardReport(
        each.name, finding, f"{each.name}: {reason}", worse, limits[0], same, limits[1], None, Arm(ours), Arm(theirs), move,
    )  # fmt: skip


def _arm(name: str, arm: Mapping[str, Any], slow_from: int | None) -> Arm:
    if name == "error_rate":
        return Arm(int(arm.get("units") or 0), int(arm.get("failed_units") or 0))
    if name == "accuracy":
        return Arm(int(arm.get("labelled") or 0), int(arm.get("wrong") or 0))
    latency = arm.get("latency") or ()
    return Arm(sum(latency), sum(latency[slow_from:]))


def _groups(arm: Mapping[str, Any], groups: Sequence[int]) -> tuple[int, ...]:
    """Units per quartile; none when the scores were counted in other bins (another reference)."""
    scores = arm.get("scores") or ()
    if len(scores) != len(groups):
        return (0,) * (max(groups) + 1)
    return grouped(scores, groups)


def _together(before: tuple[int, ...], block: Sequence[int]) -> tuple[int, ...]:
    """Both histograms; a block in other bins begins anew."""
    return tuple(block) if before and block and len(before) != len(block) else added(before, block)


def _rate_evidence(stored: Mapping[str, Any]) -> RateEvidence:
    return RateEvidence(
        _tracks(stored["worse"]), stored["peak"], _tracks(stored["margin"]), stored["fine"],
        Arm(**stored["challenger"]), Arm(**stored["champion"]), stored["blocks"],
    )  # fmt: skip


def _share_evidence(stored: Mapping[str, Any]) -> ShareEvidence:
    stayed = tuple(_tracks(tracks) for tracks in stored["stayed"])
    counts = (tuple(stored[name]) for name in ("challenger", "champion", "before"))
    return ShareEvidence(_tracks(stored["moved"]), stored["peak"], stayed, *counts)


def _tracks(stored: Mapping[str, Any]) -> Tracks:
    return Tracks(tuple(stored["logs"]), tuple(tuple(top) for top in stored["tops"]))
