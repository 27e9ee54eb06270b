"""Decide again what was decided: the stored events in their order, with the rules of their time.

What a replay takes from the store are its inputs: the events with the times at which they were recorded, which rule set
took effect when (`rules.loaded`), and which firings could start nothing (that depends on locks and budgets, not on rules).
Everything else it works out again, and holds against what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.core.canonical import canonical
from daemon.core.memory import Memory, for_storage
from daemon.core.rules import RuleSet
from daemon.core.verdicts import Decided, World
from daemon.ledger import NO_RULES, decided_or_why
from daemon.store.base import Session, Store
from daemon.store.rows import StoredDecision, StoredEvent, decision_of, decision_row, event_of

PAGE = 1000
"""Events read at once."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something that comes out otherwise than it is stored."""

    event: int
    """Its place; 0 for what is remembered at the end."""
    rule: str
    what: str
    """`rules`, `undecidable`, `decisions`, `revision`, `key`, `verdict`, `why`, `clauses` or `memory`."""
    stored: Any
    replayed: Any


@dataclass(slots=True)
class _Replay:
    """Where a replay stands between two events."""

    rules: RuleSet | None = None
    world: World = field(default_factory=World)
    memory: dict[tuple[str, str], Memory] = field(default_factory=dict)

    def decide(self, event: StoredEvent) -> tuple[Decided, str]:
        rules = None if event.undecidable == NO_RULES else self.rules
        decided, undecidable = decided_or_why(
            rules, lambda rule, key: self.memory.get((rule, key)), event.recorded, self.world
        )
        self.memory.update(decided.memory)
        self.world = decided.world
        return decided, undecidable

    def admit(self, decided: Decided, stored: list[StoredDecision]) -> None:
        """A firing that started nothing left its rule as it was."""
        for decision, before in zip(decided.decisions, stored, strict=False):
            if decision.otherwise is not None and not before.run:
                self.memory[decision.rule, decision.key] = decision.otherwise


def replay(store: Store, rules_by_revision: Mapping[str, RuleSet]) -> tuple[Mismatch, ...]:
    """Everything that does not come out as it is stored: empty when all decisions and the memory can be reproduced.

    `rules_by_revision` must have every revision that was ever in force; the replay ends at the first that is missing.
    """
    with store.read() as session:
        return tuple(_replayed(session, rules_by_revision))


def _replayed(session: Session, rules_by_revision: Mapping[str, RuleSet]) -> Iterator[Mismatch]:
    state = _Replay()
    for event in _events(session):
        seq, told = event.recorded.seq, event.recorded.event
        if told.type == "rules.loaded" and event.undecidable != NO_RULES:
            revision = str(told.data["revision"])
            state.rules = rules_by_revision.get(revision)
            if state.rules is None:
                yield Mismatch(seq, "", "rules", revision, "")
                return
        decided, undecidable = state.decide(event)
        if undecidable != event.undecidable:
            yield Mismatch(seq, "", "undecidable", event.undecidable, undecidable)
        stored = [decision_of(row) for row in session.rows("decisions_of_event", seq)]
        yield from _compared(seq, stored, decided)
        state.admit(decided, stored)
    remembered = {(rule, key): text for rule, key, text in session.rows("memory")}
    replayed = {key: canonical(for_storage(memory)).decode() for key, memory in state.memory.items()}
    for key in sorted(remembered.keys() | replayed.keys()):
        if remembered.get(key) != replayed.get(key):
            yield Mismatch(0, key[0], "memory", remembered.get(key), replayed.get(key))


def _events(session: Session) -> Iterator[StoredEvent]:
    last = 0
    while rows := session.rows("events_after", last, PAGE):
        for row in rows:
            yield event_of(row)
        last = rows[-1][0]


def _compared(seq: int, stored: list[StoredDecision], decided: Decided) -> Iterator[Mismatch]:
    replayed = [decision_of(decision_row(0, seq, decision)) for decision in decided.decisions]
    names, again = [one.rule for one in stored], [one.rule for one in replayed]
    if names != again:
        yield Mismatch(seq, "", "decisions", names, again)
        return
    for before, after in zip(stored, replayed, strict=True):
        for what in ("revision", "key", "verdict", "why", "clauses"):
            if getattr(before, what) != getattr(after, what):
                yield Mismatch(seq, before.rule, what, getattr(before, what), getattr(after, what))
