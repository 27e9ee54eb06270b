"""What a rule remembered when it decided: the stored events decided again, in their order, with the rules of their time.

A decision is a pure function, and everything that goes into it is stored; so the memory before and after any decision of
the past can be had again, and a verdict that comes out otherwise is itself a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from daemon import reading
from daemon.core.decisions import decide
from daemon.core.errors import ConfigError
from daemon.core.memory import Memory
from daemon.core.rules import Rule, RuleSet
from daemon.core.verdicts import Decision, World
from daemon.store.base import Session
from daemon.store.rows import StoredDecision, StoredEvent

FURTHEST = 5000
"""Decisions that a replay goes back: some seconds' worth."""

Parse = Callable[[Mapping[str, str]], RuleSet]
"""Rule files as they were loaded, by name -> their rules. ConfigError when they do not fit what is known now."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """One decision, made again."""

    rule: Rule | None
    """As it was then; None when its text is not stored or no longer fits config.yaml."""
    before: Memory | None
    after: Memory | None
    decision: Decision | None
    """What came out now."""
    note: str
    """What makes it less than certain; empty when nothing does."""


@dataclass(slots=True)
class RulesThen:
    """The rules by the revisions in which they were loaded."""

    session: Session
    parse: Parse
    _known: dict[tuple[tuple[str, str], ...], RuleSet | None] = field(default_factory=dict)

    def rule(self, revision: str, name: str) -> Rule | None:
        """A rule as a revision had it; None when there is none, or its text is not understood any more."""
        # Only the files that speak of it: a set of hundreds of rules is not read again for one.
        files = tuple((file, text) for file, text in reading.rule_files(self.session, revision).items() if name in text)
        if files not in self._known:
            try:
                self._known[files] = self.parse(dict(files))
            except ConfigError:
                self._known[files] = None
        rules = self._known[files]
        return None if rules is None else rules.by_name.get(name)


def rule_at(session: Session, rules: RulesThen, name: str, seq: int) -> Rule | None:
    """The rule that was in force when event `seq` was decided."""
    loaded = list(reading.events_between(session, "rules.loaded", "", 0, seq))
    return rules.rule(str(loaded[-1].recorded.event.data["revision"]), name) if loaded else None


def recall(session: Session, parse: Parse, stored: StoredDecision) -> Recalled:
    """Make a stored decision again, from what was stored before it."""
    rules = RulesThen(session, parse)
    rule = rule_at(session, rules, stored.rule, stored.event)
    if rule is None:
        return Recalled(None, None, None, None, "the rule as it was then is not stored, or no longer fits config.yaml")
    # Of an `absent` rule one key's wait ends when something comes under another; of all others keys are apart.
    key = "" if rule.absent is not None else stored.key
    past = _past(session, stored, key)
    note = f"remembered from the last {FURTHEST} decisions only" if len(past) == FURTHEST else ""
    memory: dict[tuple[str, str], Memory] = {}
    world = World()
    in_force: Rule | None = None
    before: Memory | None = None
    made: Decision | None = None
    for event in _events(session, rule.name, past, stored.event):
        recorded = event.recorded
        if recorded.event.type == "rules.loaded":
            in_force = rules.rule(str(recorded.event.data["revision"]), rule.name)
        before = memory.get((rule.name, stored.key))
        ruleset = RuleSet((in_force,) if in_force else ())
        decided = decide(ruleset, lambda name, at: memory.get((name, at)), recorded, world)
        memory.update(decided.memory)
        world = decided.world
        made = next((one for one in decided.decisions if one.key == stored.key), None)
        for one in decided.decisions:
            then = past.get((recorded.seq, one.key))
            if one.firing is not None and one.otherwise is not None and then is not None and not then.run:
                memory[rule.name, one.key] = one.otherwise
    return Recalled(rule, before, memory.get((rule.name, stored.key)), made, note or _difference(stored, made))


def _past(session: Session, stored: StoredDecision, key: str) -> dict[tuple[int, str], StoredDecision]:
    """The decisions that led here, by event and key; of all keys when none is said."""
    found = (
        reading.decisions_of_key(session, stored.rule, key, stored.seq, FURTHEST)
        if key
        else [d for d in reading.decisions(session, stored.rule, "", FURTHEST) if d.seq <= stored.seq]
    )
    return {(decision.event, decision.key): decision for decision in found}


def _events(
    session: Session, rule: str, past: Mapping[tuple[int, str], StoredDecision], until: int
) -> list[StoredEvent]:
    """Everything that touched the rule's memory, in order."""
    oldest = min((seq for seq, _ in past), default=until)
    found = {seq: reading.event(session, seq) for seq in {seq for seq, _ in past}}
    for kind, subject in (("rules.loaded", ""), ("control.changed", ""), ("timer.due", rule)):
        after = oldest - 1 if kind == "timer.due" and len(past) == FURTHEST else 0
        found |= {e.recorded.seq: e for e in reading.events_between(session, kind, subject, after, until)}
    return [found[seq] for seq in sorted(found)]


def _difference(stored: StoredDecision, made: Decision | None) -> str:
    if made is None:
        return "deciding it again gives no decision"
    if made.verdict.value != stored.verdict:
        return f"deciding it again gives {made.verdict.value!r}, stored is {stored.verdict!r}"
    return ""
