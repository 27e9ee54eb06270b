"""Small builders of the core's types for tests: what a test does not say has the plainest value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from daemon.core.events import Event, Recorded
from daemon.core.expressions import Condition, Template, compile_condition, compile_template
from daemon.core.rules import Count, For, Limit, Mode, OnUnknown, Position, Rule, RuleSet, Step, WhenBusy

T0 = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""When the tests begin."""


def at(seconds: float) -> datetime:
    """So many seconds after the tests begin."""
    return T0 + timedelta(seconds=seconds)


@cache
def condition(kind: str, text: str) -> Condition:
    """A compiled condition; a mistake in it is a mistake of the test."""
    made = compile_condition(kind, text)
    assert isinstance(made, Condition), made
    return made


def template(kind: str, text: str) -> Template:
    """A compiled `{{ expression }}`."""
    made = compile_template(kind, text)
    assert isinstance(made, Template), made
    return made


def step(verb: str, approve: bool = False, **inputs: Any) -> Step:
    """A step of a rule."""
    return Step(verb, inputs, approve, Position("test.yaml", 1, 1))


def rule(
    name: str = "r",
    on: str = "drift.measured",
    when: tuple[str, ...] = ("event.drifted_columns >= 1",),
    clear: str = "",
    **said: Any,
) -> Rule:
    """A rule for the model `churn`; `said` are fields of Rule. Durations may be seconds."""
    for field in ("absent", "repeat", "cooldown", "stale_after"):
        if isinstance(said.get(field), int | float):
            said[field] = timedelta(seconds=said[field])
    made: dict[str, Any] = {
        "model": "churn", "subject": "", "hold": None, "count": None, "absent": None, "repeat": None,
        "cooldown": timedelta(), "limit": None, "on_unknown": OnUnknown.HOLD, "stale_after": timedelta(hours=1),
        "mode": Mode.ENFORCE, "when_busy": WhenBusy.SKIP, "include_own": False, "for_each": (),
        "steps": (step("train"),), "on_failure": (), "owner": "", "position": Position("test.yaml", 1, 1),
        "text": "",
    }  # fmt: skip
    made |= said
    made["text"] = made["text"] or f"{name} {on} {when} {clear} {sorted(said.items(), key=str)}"
    return Rule(
        name=name,
        on=on,
        when=tuple(condition(on, text) for text in when),
        clear=condition(on, clear) if clear else None,
        **made,
    )


def rules(*of: Rule) -> RuleSet:
    """A rule set."""
    return RuleSet(of)


def lasting(seconds: float) -> For:
    """`for: 10s`."""
    return For(duration=timedelta(seconds=seconds))


def windows(hits: int, of: int | None = None) -> For:
    """`for: 2 windows`, or `for: 2 of 3 windows`."""
    return For(hits=hits, windows=of or hits)


def count(hits: int, within: float) -> Count:
    """`count: 3 within 10s`."""
    return Count(hits, timedelta(seconds=within))


def limit(firings: int, per: float) -> Limit:
    """`limit: 2 per 10s`."""
    return Limit(firings, timedelta(seconds=per))


def measured(
    last: int = 0, drifted: int | None = 0, *, chain: tuple[str, ...] = (), monitor: str = "m", **data: Any
) -> Event:
    """`drift.measured` about `churn`; `last` tells one window from the next, `drifted=None` is absent."""
    told: dict[str, Any] = {
        "model": "churn", "monitor": monitor, "stream": "s", "segment": "",
        "window": {
            "start": at(last).isoformat(), "end": at(last + 1).isoformat(), "rows": 100, "first": last - 99,
            "last": last, "closed_by": "rows",
        },
        **data,
    }  # fmt: skip
    if drifted is not None:
        told["drifted_columns"] = drifted
    return Event(f"{monitor}-{last}", f"monitor:{monitor}", "drift.measured", "churn", at(last), told, chain)


def landed(number: int = 0, subject: str = "landing", **data: Any) -> Event:
    """`data.landed` of a small file."""
    told = {
        "source": subject, "path": f"/in/{number}", "folder": "", "name": f"{number}.csv", "bytes": 10,
        "digest": "d", **data,
    }  # fmt: skip
    return Event(f"file-{number}", f"storage:{subject}", "data.landed", subject, at(number), told)


def said(verb: str, target: str = "", by: str = "ann", reason: str = "because", number: int = 0) -> Event:
    """`control.changed`: an operator said something."""
    data = {"verb": verb, "target": target, "by": by, "reason": reason}
    return Event(f"{verb}-{target}-{number}", f"operator:{by}", "control.changed", target, at(0), data)


def due(rule_name: str, key: str, when: datetime, why: str = "for") -> Event:
    """`timer.due` as the writer records it."""
    data = {"rule": rule_name, "key": key, "due": when.isoformat(), "why": why}
    return Event(f"{rule_name}|{key}|{when.isoformat()}|{why}", "driftd:timers", "timer.due", rule_name, when, data)


def recorded(seq: int, when: datetime, event: Event) -> Recorded:
    """An event at its place."""
    return Recorded(seq, when, event)
