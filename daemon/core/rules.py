"""Rules as data: what one rule says, and the set of them with its index.

Text becomes a Rule in `daemon/rulefiles.py`; what a rule remembers is in `memory.py`; what it decides in `decisions.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import cached_property
from typing import Any

from daemon.core.canonical import canonical, digest
from daemon.core.durations import write_duration
from daemon.core.events import CATALOGUE
from daemon.core.expressions import Condition, Template


class OnUnknown(Enum):
    """What a rule does when its condition is unknown."""

    HOLD = "hold"
    """Leave memory as it is, at most for `stale_after`; then start over."""
    NOTIFY = "notify"
    """Hold, and run `on_failure` once per stretch of unknowns."""
    ACT = "act"
    """Count it as true: for rules where not knowing is itself the danger."""


class Mode(Enum):
    """How far a rule may go."""

    OBSERVE = "observe"
    """Decide and record; start nothing."""
    APPROVE = "approve"
    """Start a run that waits for a person before its first step."""
    ENFORCE = "enforce"
    """Start the run."""


class WhenBusy(Enum):
    """What a firing does when its target is locked by another run."""

    SKIP = "skip"
    """Nothing but an audited decision; the rule stays armed."""
    QUEUE = "queue"
    """The run waits for the lock."""
    REPLACE = "replace"
    """The other run is cancelled (undone if it touched traffic), then this one starts."""


@dataclass(frozen=True, slots=True)
class For:
    """How long, or in how many windows, the condition must hold: exactly one of `duration` and `windows`."""

    duration: timedelta | None = None
    hits: int = 1
    windows: int | None = None
    """`hits` of the last `windows` distinct windows; equal numbers mean consecutive ones."""


@dataclass(frozen=True, slots=True)
class Count:
    """The condition must have held `hits` times within a stretch of recorded time."""

    hits: int
    within: timedelta


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `firings` within a stretch of recorded time."""

    firings: int
    per: timedelta


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands in a rule file; counted from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a rule's `do` or `on_failure`."""

    verb: str
    inputs: Mapping[str, Any]
    """JSON values, in which a Template of expressions.py stands for a value computed from the event."""
    approve: bool
    """Wait for a person before this step."""
    position: Position


@dataclass(frozen=True)
class Rule:
    """One rule. Frozen; two rules with the same `semantics` decide alike."""

    name: str
    model: str
    """The model it is for; empty when it is for none."""
    on: str
    """The event type; for `absent` rules the type whose absence counts."""
    subject: str
    """Only events about this subject; empty: about any. A rule with a model and an event type about models has that model."""
    when: tuple[Condition, ...]
    """All must hold; empty: every event counts."""
    clear: Condition | None
    """Ends the episode; None: it ends when `when` is false."""
    hold: For | None
    count: Count | None
    absent: timedelta | None
    """Fires when no matching event came for so long."""
    repeat: timedelta | None
    """In an episode, fire again after so long if the condition still holds."""
    cooldown: timedelta
    limit: Limit | None
    on_unknown: OnUnknown
    stale_after: timedelta
    mode: Mode
    when_busy: WhenBusy
    include_own: bool
    """Also count events that a run on this rule's own model caused."""
    for_each: tuple[str, ...]
    """Fields of the event that refine the memory key, besides monitor, model and segment."""
    steps: tuple[Step, ...]
    on_failure: tuple[Step, ...]
    owner: str
    position: Position
    text: str = field(repr=False)
    """The rule as written, for the audit and the report."""
    ignore_freeze: bool = False
    """Its runs change production even during a freeze."""

    @cached_property
    def semantics(self) -> str:
        """Hash of what decides whether it fires: a change of it re-arms the condition memory."""
        return digest(canonical([
            self.model, self.on, self.subject,
            [condition.text for condition in self.when],
            self.clear.text if self.clear else None,
            [_text(self.hold.duration), self.hold.hits, self.hold.windows] if self.hold else None,
            [self.count.hits, _text(self.count.within)] if self.count else None,
            _text(self.absent), _text(self.repeat), self.on_unknown.value, _text(self.stale_after),
            self.include_own, list(self.for_each),
        ]))[:16]  # fmt: skip

    @cached_property
    def revision(self) -> str:
        """Hash of the rule as written."""
        return digest(self.text.encode())[:16]

    @cached_property
    def reads(self) -> frozenset[str]:
        """The fields of the event that its conditions and steps read."""
        conditions = (*self.when, self.clear) if self.clear else self.when
        read = {name for condition in conditions for name in condition.roots}
        for step in (*self.steps, *self.on_failure):
            read.update(name for template in _templates(step.inputs) for name in template.roots)
        return frozenset(read)

    @cached_property
    def lasting(self) -> bool:
        """It watches something that lasts, and fires once per episode; else each event that holds fires by itself."""
        kind = CATALOGUE.get(self.on)
        return (
            bool(kind and kind.lasting)
            or bool(self.clear or self.hold)
            or self.absent is not None
            or self.repeat is not None
        )


@dataclass(frozen=True)
class RuleSet:
    """All the loaded rules, indexed by what they listen to."""

    rules: tuple[Rule, ...]
    commit: str = ""
    """Git commit of the rules folder, when it is in a repository and clean."""

    @cached_property
    def revision(self) -> str:
        """Hash of all rules as written."""
        return digest(canonical([rule.revision for rule in self.rules]))[:16]

    @cached_property
    def by_name(self) -> Mapping[str, Rule]:
        """Rules by name; names are unique over all files."""
        return {rule.name: rule for rule in self.rules}

    @cached_property
    def _index(self) -> Mapping[tuple[str, str], tuple[Rule, ...]]:
        index: dict[tuple[str, str], list[Rule]] = {}
        for rule in self.rules:
            index.setdefault((rule.on, rule.subject), []).append(rule)
        return {key: tuple(rules) for key, rules in index.items()}

    def candidates(self, kind: str, subject: str) -> tuple[Rule, ...]:
        """The rules that an event of this type about this subject concerns."""
        exact = self._index.get((kind, subject), ()) if subject else ()
        return exact + self._index.get((kind, ""), ())


def _templates(value: Any) -> Iterator[Template]:
    if isinstance(value, Template):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _templates(item)


def _text(value: timedelta | None) -> str | None:
    return None if value is None else write_duration(value)
