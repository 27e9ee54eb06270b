"""May this run start? Locks, budgets and the breaker, as one pure question over what lives and what was.

The ladder, in order: a budget that is spent, a breaker that is open, a target that is busy. A run that begins with a
rollback is held back by none of them: it takes the target from whoever has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from daemon.core.durations import write_duration
from daemon.core.runs import ENDED, GOOD_ENDS, Run, Signal, State

DAY = timedelta(days=1)

_FAILURES = frozenset({Signal.FAILED.value, Signal.EXPIRED.value})
"""Signals that count against the target when they break a run off; a person's no or silence, a cancellation and not
knowing do not, nor does a rollback that worked as the rule asked."""
_AT_WORK = frozenset({State.RUNNING.value, State.SERVING.value})


class Admitted(Enum):
    """Whether a run may start now."""

    YES = "admitted"
    BUDGET = "budget"
    BREAKER = "breaker"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer, with its reason; `holders` are the runs that hold the targets."""

    verdict: Admitted
    why: str = ""
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of one verb may happen; None: any amount."""

    concurrent: int | None = None
    per_target: int | None = None
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Allowances:
    """What the operator allows."""

    verbs: Mapping[str, Allowance]
    failures: int
    """Failed runs of a target in a row that open its breaker."""
    reset: timedelta
    """After so long one run may try again."""


def admit(run: Run, runs: tuple[Run, ...], allowances: Allowances, now: datetime) -> Admission:
    """May `run` start at `now`, given all live runs and those that ended lately, in the order in which they began?"""
    others = tuple(other for other in runs if other.id != run.id)
    holders = tuple(other.id for other in others if _holds(other) and set(other.targets) & set(run.targets))
    if run.rolls_back:
        before = tuple(other.id for other in others if _rolls_back_before(other, run))
        if before:
            return Admission(Admitted.BUSY, f"run {before[0][:8]} rolls back {', '.join(run.targets)} already", before)
        return Admission(Admitted.BUSY, _busy(run, holders), holders) if holders else Admission(Admitted.YES)
    spent = _spent(run, others, allowances, now)
    if spent:
        return Admission(Admitted.BUDGET, spent)
    opened = _opened(run, others, allowances, now)
    if opened:
        return Admission(Admitted.BREAKER, opened)
    if holders:
        return Admission(Admitted.BUSY, _busy(run, holders), holders)
    return Admission(Admitted.YES)


def takes_over(run: Run, holders: tuple[Run, ...], *, replace: bool) -> bool:
    """Whether a run whose target is busy makes the holders go: a rollback does, and one whose rule says `replace`.

    Neither ends a rollback that the rules asked for: that one is about to do what is needed.
    """
    return (run.rolls_back or replace) and not any(holder.rolls_back for holder in holders)


def _rolls_back_before(other: Run, run: Run) -> bool:
    """A rollback of the same target is at work or about to begin: two alarms are one rollback."""
    earlier = (other.created, other.id) < (run.created, run.id)
    return other.rolls_back and not other.ended and earlier and bool(set(other.targets) & set(run.targets))


def _busy(run: Run, holders: tuple[str, ...]) -> str:
    return f"run {holders[0][:8]} is at work on {', '.join(run.targets)}"


def _holds(run: Run) -> bool:
    return not run.ended and run.state is not State.PENDING


def _verbs(run: Run) -> frozenset[str]:
    return frozenset(step.verb for step in run.steps)


def _spent(run: Run, others: tuple[Run, ...], allowances: Allowances, now: datetime) -> str:
    for verb in sorted(_verbs(run)):
        allowed = allowances.verbs.get(verb)
        if allowed is None:
            continue
        live = sum(_holds(other) and verb in _verbs(other) for other in others)
        if allowed.concurrent is not None and live >= allowed.concurrent:
            return f"{live} runs with {verb} are at work, {allowed.concurrent} are allowed"
        recent = [other for other in others if verb in _verbs(other) and now - other.created < DAY and _began(other)]
        if allowed.per_day is not None and len(recent) >= allowed.per_day:
            return f"{len(recent)} runs with {verb} began within a day, {allowed.per_day} are allowed"
        if allowed.per_target is not None:
            for target in run.targets:
                there = sum(target in other.targets for other in recent)
                if there >= allowed.per_target:
                    return f"{there} runs with {verb} on {target} began within a day, {allowed.per_target} are allowed"
    return ""


def _began(run: Run) -> bool:
    return bool(run.moves) and State(run.moves[0].state) not in ENDED


def _failed(run: Run) -> bool:
    """Whether its end counts against its targets: a step failed or took too long, or it is stuck."""
    if run.state is State.STUCK:
        return True
    before = State.PENDING.value
    for move in run.moves:
        if move.signal in _FAILURES and before in _AT_WORK:
            return True
        before = move.state
    return False


def _opened(run: Run, others: tuple[Run, ...], allowances: Allowances, now: datetime) -> str:
    for target in run.targets:
        failures = 0
        last: datetime | None = None
        stuck = False
        for other in others:
            if target not in other.targets or not other.ended:
                continue
            if _failed(other):
                failures, last, stuck = failures + 1, other.moves[-1].at, other.state is State.STUCK
            elif other.state in GOOD_ENDS:
                failures, last, stuck = 0, None, False
        if last is None or now - last >= allowances.reset:
            continue
        if stuck or failures >= allowances.failures:
            why = "the last run is stuck" if stuck else f"{failures} runs in a row failed"
            again = write_duration(allowances.reset - (now - last))
            return f"{why} on {target}; it opens again in {again}"
    return ""
