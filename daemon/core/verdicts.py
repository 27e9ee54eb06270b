"""What a decision is made of: verdicts with their reasons, what a firing asks for, and the due times of the rest.

How they come about is in `decisions.py`. What is made for every event is a named tuple: three times cheaper to make than a
frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.core.memory import Memory
from daemon.core.rules import Step


class Verdict(Enum):
    """What became of one event under one rule; see the ladder above."""

    OWN = "own"
    LOOP = "loop"
    REPEATED = "repeated"
    UNKNOWN = "unknown"
    CLEARED = "cleared"
    NOT_MET = "not met"
    HELD = "held"
    EPISODE = "episode"
    COOLDOWN = "cooldown"
    LIMIT = "limit"
    PAUSED = "paused"
    OBSERVED = "observed"
    FIRED = "fired"


class Clause(NamedTuple):
    """One condition of the rule, and how it came out."""

    text: str
    truth: str
    """`true`, `false` or `unknown`."""
    reason: str
    """Why it is unknown; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Firing:
    """What a rule that fired asks for."""

    steps: tuple[tuple[Step, Mapping[str, Any]], ...]
    """Each step with its inputs, expressions evaluated."""
    on_failure: tuple[tuple[Step, Mapping[str, Any]], ...]
    trigger: Event
    """The event that made the condition true: for a timer, the one that started it."""
    notice: bool = False
    """`on_unknown: notify`: only `on_failure` runs."""


class Decision(NamedTuple):
    """What one event meant to one rule."""

    rule: str
    revision: str
    key: str
    model: str
    verdict: Verdict
    why: str
    clauses: tuple[Clause, ...]
    firing: Firing | None = None
    otherwise: Memory | None = None
    """Of a firing: the memory when nothing could be started (the target is busy, a budget spent); it stays armed."""
    again: Due | None = None
    """Of a firing: when to ask again in that case, for a rule that waits for a time."""


@dataclass(frozen=True, slots=True)
class Due:
    """A time at which a rule wants to be asked again."""

    at: datetime
    rule: str
    key: str
    why: str
    """`for`, `absent`, `repeat`, `cooldown` or `again`."""

    @property
    def id(self) -> str:
        """The same wish twice is one timer."""
        return content_id("timer", self.rule, self.key, self.at, self.why)


@dataclass(frozen=True, slots=True)
class World:
    """What all rules share."""

    paused: bool = False
    started: datetime | None = None
    """When the daemon started, by its `rules.loaded`."""


class Decided(NamedTuple):
    """Everything that one event changed."""

    decisions: tuple[Decision, ...]
    memory: Mapping[tuple[str, str], Memory]
    """Only the memories that changed."""
    dues: tuple[Due, ...]
    world: World


Remembered = Callable[[str, str], Memory | None]
"""(rule, key) -> its memory, if it has one."""
