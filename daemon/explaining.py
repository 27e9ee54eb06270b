"""Why a rule did what it did, or did not: clause by clause, with the values that were read and what was remembered.

Everything comes from the store: the event, the decision with its clauses, the rule as it was loaded then. Values are read
from the event again; memory is had again by recalling.py.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daemon import reading
from daemon.core import memory as remembering
from daemon.core.activations import Activation, activation
from daemon.core.celtree import Comparison
from daemon.core.durations import write_duration
from daemon.core.errors import BadInput
from daemon.core.events import Event, utc
from daemon.core.expressions import Condition, Operand, compile_condition
from daemon.core.memory import Memory
from daemon.core.rules import Rule
from daemon.core.runs import Run
from daemon.core.verdicts import Verdict
from daemon.recalling import Parse, Recalled, recall
from daemon.store.base import Session
from daemon.store.rows import StoredDecision, StoredEvent

LOOK_BACK = 500
"""Decisions among which the nearest miss is looked for."""

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip

_LADDER = {verdict.value: rung for rung, verdict in enumerate(Verdict)}
"""How far each verdict is on the way to a firing."""


@dataclass(frozen=True, slots=True)
class Read:
    """One clause: how it came out, and what it read."""

    text: str
    truth: str
    reason: str
    """Why it is unknown."""
    operands: tuple[Operand, ...]
    shortfall: tuple[str, ...]
    """Of a false clause: what would have to be otherwise, e.g. `event.x is 1.1, asked >= 1.2`."""
    nearness: float
    """1: it holds; towards 0: far from it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision, explained."""

    decision: StoredDecision
    event: StoredEvent
    """What was decided on: for a rule that waited for a time, the timer."""
    subject: Event
    """The event whose data the clauses read."""
    rule: Rule | None
    clauses: tuple[Read, ...]
    clear: Read | None
    before: tuple[tuple[str, str], ...]
    """What was remembered before it: (what, how), for people."""
    after: tuple[tuple[str, str], ...]
    run: Run | None
    note: str
    """What makes the account of memory less than certain."""


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a rule has not fired lately."""

    rule: str
    verdicts: Mapping[str, int]
    """Of its last decisions, how many of each."""
    last_fired: StoredDecision | None
    nearest: Explanation | None
    """The decision that came closest to a firing."""
    paused: bool
    held: tuple[str, ...]
    """Its runs that a storm or a freeze holds before their start."""


def explain(session: Session, parse: Parse, stored: StoredDecision) -> Explanation:
    """Explain one decision."""
    event = reading.event(session, stored.event)
    recalled = recall(session, parse, stored)
    subject = _subject(event.recorded.event, recalled)
    values = _values(subject)
    rule = recalled.rule
    texts = [(text, truth, reason) for text, truth, reason in stored.clauses]
    if not texts and rule is not None and values is not None:
        texts = [(c.text, (v := c.evaluate(values)).truth.value, v.reason) for c in rule.when]
    now = event.recorded.at
    return Explanation(
        stored, event, subject, rule,
        tuple(_read(subject.type, *text, values) for text in texts),
        _clear(rule, values),
        memory_lines(recalled.before, rule, now), memory_lines(recalled.after, rule, now),
        reading.run(session, stored.run) if stored.run and session.rows("run", stored.run) else None,
        recalled.note,
    )  # fmt: skip


def why_not(session: Session, parse: Parse, rule: str, key: str = "") -> WhyNot:
    """Why a rule has not fired: among its last decisions, the one that came closest. Of one key when that is said."""
    found = (
        reading.decisions_of_key(session, rule, key, limit=LOOK_BACK)
        if key
        else reading.decisions(session, rule, "", LOOK_BACK)
    )
    missed = [decision for decision in found if not decision.run and decision.verdict != Verdict.OBSERVED.value]
    nearest = max(missed, key=lambda decision: (*_closeness(session, decision), decision.seq), default=None)
    return WhyNot(
        rule,
        dict(Counter(decision.verdict for decision in found)),
        next((decision for decision in found if decision.run), None),
        explain(session, parse, nearest) if nearest else None,
        reading.paused(session),
        tuple(run.id for run in reading.live_runs(session) if run.rule == rule and run.held),
    )


def _subject(event: Event, recalled: Recalled) -> Event:
    """The event that the clauses are about: a timer stands for the one that started it."""
    latest = recalled.before.condition.latest if recalled.before else None
    if event.type != "timer.due" or latest is None:
        return event
    return Event(
        latest["id"], latest["source"], latest["type"], latest["subject"], utc(latest["time"]), latest["data"],
        tuple(latest["chain"]),
    )  # fmt: skip


def _values(event: Event) -> Activation | None:
    try:
        return activation(event)
    except BadInput:
        return None


def _read(kind: str, text: str, truth: str, reason: str, values: Activation | None) -> Read:
    condition = compile_condition(kind, text)
    if not isinstance(condition, Condition) or values is None:
        return Read(text, truth, reason, (), (), 0.0)
    operands = condition.operands(values)
    if truth == "true":
        return Read(text, truth, reason, operands, (), 1.0)
    if truth == "unknown":
        return Read(text, truth, reason, operands, (), 0.0)
    found = {operand.text: operand.value for operand in operands}
    missed = [(one, found.get(one.read)) for one in condition.comparisons if not _holds(one, found.get(one.read))]
    shortfall = tuple(
        f"{one.read} is {_number(value)}, asked {one.operator} {_number(one.value)}" for one, value in missed
    )
    nearness = min((_nearness(one, value) for one, value in missed), default=0.0)
    return Read(text, truth, reason, operands, shortfall, nearness)


def _clear(rule: Rule | None, values: Activation | None) -> Read | None:
    if rule is None or rule.clear is None or values is None:
        return None
    verdict = rule.clear.evaluate(values)
    return _read(values.kind, rule.clear.text, verdict.truth.value, verdict.reason, values)


def _holds(comparison: Comparison, value: Any) -> bool:
    wanted = comparison.value
    if value is None:
        return False
    holds = _OPERATORS.get(comparison.operator)
    try:
        return holds is not None and bool(holds(value, wanted))
    except TypeError:
        return False


def _nearness(comparison: Comparison, value: Any) -> float:
    """How near a number is to what was asked, from 0 to 1 (a half: as far away as the asked number is large)."""
    wanted = comparison.value
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, wanted))
    if not numbers:
        return 0.0
    distance = abs(value - wanted) / (abs(wanted) or 1.0)
    return 1.0 / (1.0 + distance) if math.isfinite(distance) else 0.0


def _closeness(session: Session, decision: StoredDecision) -> tuple[int, int, float]:
    """How close a decision came: its rung, the clauses that held, and how near the others were."""
    rung = _LADDER.get(decision.verdict, 0)
    held = sum(truth == "true" for _, truth, _ in decision.clauses)
    if rung != _LADDER[Verdict.NOT_MET.value] or held == len(decision.clauses):
        return rung, held, 0.0
    event = reading.event(session, decision.event).recorded.event
    values = _values(event)
    read = [_read(event.type, text, truth, reason, values) for text, truth, reason in decision.clauses]
    return rung, held, min((one.nearness for one in read if one.truth == "false"), default=0.0)


def memory_lines(memory: Memory | None, rule: Rule | None, now: datetime) -> tuple[tuple[str, str], ...]:
    """What a rule remembers, in words: (what, how); `rule` adds what its cooldown and limit make of it at `now`."""
    if memory is None:
        return ()
    condition = memory.condition
    lines: list[tuple[str, str]] = []
    if condition.windows:
        rows = ", ".join(
            f"to row {window.last} {'held' if window.held else 'did not hold'}" for window in condition.windows
        )
        asked = f" (asked: {rule.hold.hits} of {rule.hold.windows})" if rule and rule.hold and rule.hold.windows else ""
        lines.append(("windows", rows + asked))
    if condition.since is not None:
        asked = f" (asked: {write_duration(rule.hold.duration)})" if rule and rule.hold and rule.hold.duration else ""
        lines.append(("holds since", f"{_moment(condition.since)}, for {_lasting(now - condition.since)}{asked}"))
    if condition.since_start:
        lines.append(("streak began", f"event time {condition.since_start}"))
    if condition.hits:
        asked = f" (asked: {rule.count.hits} within {write_duration(rule.count.within)})" if rule and rule.count else ""
        lines.append(("hits", f"{len(condition.hits)}, the last at {_moment(condition.hits[-1])}{asked}"))
    if condition.episode is not None:
        lines.append(("episode", f"open since {_moment(condition.episode)}"))
    if condition.unknown_since is not None:
        lines.append(("unknown since", _moment(condition.unknown_since)))
    if condition.seen is not None:
        asked = f" (silence asked: {write_duration(rule.absent)})" if rule and rule.absent else ""
        lines.append(("last came", _moment(condition.seen) + asked))
    lines.extend(_firing_lines(memory, rule, now))
    return tuple(lines)


def _firing_lines(memory: Memory, rule: Rule | None, now: datetime) -> list[tuple[str, str]]:
    if not memory.fired:
        return []
    lines = [("fired", ", ".join(_moment(moment) for moment in memory.fired))]
    if rule is None:
        return lines
    cooled = remembering.cooled_at(memory, rule.cooldown)
    if cooled is not None:
        ends = f"until {_moment(cooled)}" if now < cooled else f"over since {_moment(cooled)}"
        lines.append(("cooldown", f"{write_duration(rule.cooldown)}, {ends}"))
    if rule.limit is not None:
        used = sum(now - moment < rule.limit.per for moment in memory.fired)
        lines.append(("limit", f"{used} of {rule.limit.firings} per {write_duration(rule.limit.per)} used"))
    return lines


def _lasting(value: timedelta) -> str:
    """A duration for people: nobody asks for the milliseconds of an hour."""
    return write_duration(timedelta(seconds=round(value.total_seconds())) if value >= timedelta(minutes=1) else value)


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _number(value: Any) -> str:
    if value is None:
        return "absent"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
