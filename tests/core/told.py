"""A rule and its timers, driven as the writer drives them: due times become events when their time has come."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from daemon.core.canonical import canonical
from daemon.core.decisions import decide
from daemon.core.events import Event
from daemon.core.memory import Memory, for_storage, from_storage
from daemon.core.rules import RuleSet
from daemon.core.verdicts import Decision, Due, Verdict, World
from tests.builders import T0, at, due, recorded


@dataclass
class Asked:
    """Rules, their memory, and what they decided."""

    rules: RuleSet
    world: World = field(default_factory=World)
    memory: dict[tuple[str, str], Memory] = field(default_factory=dict)
    dues: dict[str, Due] = field(default_factory=dict)
    log: list[tuple[float, Decision]] = field(default_factory=list)
    seq: int = 0
    refuse: bool = False
    """Nothing can be started: every firing is refused."""

    def record(self, seconds: float, event: Event) -> list[Decision]:
        """Record an event at a time; what it decided."""
        self.seq += 1
        before = dict(self.memory)
        decided = decide(
            self.rules, lambda rule, key: before.get((rule, key)), recorded(self.seq, at(seconds), event), self.world
        )
        self.memory.update(decided.memory)
        self.world = decided.world
        dues = list(decided.dues)
        for decision in decided.decisions:
            if self.refuse and decision.firing and decision.otherwise is not None:
                self.memory[decision.rule, decision.key] = decision.otherwise
                dues += [decision.again] if decision.again else []
        self.dues.update({wish.id: wish for wish in dues})
        self.log += [(seconds, decision) for decision in decided.decisions]
        return list(decided.decisions)

    def until(self, seconds: float) -> list[tuple[float, Decision]]:
        """Let time pass: record what comes due before `seconds`."""
        found: list[tuple[float, Decision]] = []
        while True:
            ready = sorted(
                (wish for wish in self.dues.values() if wish.at < at(seconds)), key=lambda wish: (wish.at, wish.id)
            )
            if not ready:
                return found
            wish = self.dues.pop(ready[0].id)
            when = (wish.at - T0).total_seconds()
            decisions = self.record(when, due(wish.rule, wish.key, wish.at, wish.why))
            found += [(when, decision) for decision in decisions]

    def told(self, seconds: float, event: Event) -> str:
        """Let time pass, then record an event that concerns one rule; its verdict."""
        self.until(seconds)
        (decision,) = self.record(seconds, event)
        return decision.verdict.value

    def firings(self, rule: str = "r") -> list[float]:
        """When a rule fired."""
        return [seconds for seconds, decision in self.log if decision.rule == rule and _fired(decision)]

    def reread(self) -> dict[tuple[str, str], Memory]:
        """The memory after a trip through the store."""
        return {key: from_storage(orjson.loads(canonical(for_storage(memory)))) for key, memory in self.memory.items()}


def _fired(decision: Decision) -> bool:
    return decision.verdict in {Verdict.FIRED, Verdict.OBSERVED}
