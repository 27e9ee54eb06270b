"""Calls and their outcomes: what the daemon asks a handler to do, and what a handler may answer.

A call's id is fixed in the transaction that decided it. Everything made outside (job folder, registry tag, gateway
epoch) derives its name from that id, so that making it twice finds the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from daemon.core.events import Event


@dataclass(frozen=True, slots=True)
class Call:
    """One step of one run, as its handler sees it."""

    id: str
    run: str
    step: int
    verb: str
    model: str
    """The model as config.yaml names it; empty when the rule has none."""
    inputs: Mapping[str, Any]
    """What the rule wrote under the verb, expressions already evaluated."""
    given: Mapping[str, Any]
    """Outputs of the earlier steps of this run, later ones winning, and `version` when the trigger names one."""
    state: Mapping[str, Any]
    """What this handler's last `Working` or `Again` kept; empty the first time."""
    trigger: Event
    """The event that fired the rule."""
    attempt: int
    """0 the first time; goes up with every `Again`, not with `Working`."""
    deadline: datetime
    """After this the step counts as failed (a waiting one as inconclusive)."""
    chain: tuple[str, ...]
    """Ids of the runs that led here, this one last: events caused by the call carry it."""
    rule: str = ""
    """The rule that the run is of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an outside service said, or what was read back from it: kept in the audit."""

    service: str
    operation: str
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """It is done: `outputs` go to the later steps, `events` are stored in the same transaction."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Working:
    """It goes on by itself: look again in `poll_after` seconds. `state` is handed back then."""

    poll_after: float
    state: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """Where it stands, for people."""
    answers: tuple[Answer, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """A passing fault: try the same call again in `after` seconds."""

    after: float
    why: str
    state: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not work: the run turns to its undo steps. `quarantine` bars the version for its quality."""

    why: str
    quarantine: bool = False
    answers: tuple[Answer, ...] = ()
    barred: Mapping[str, str] = field(default_factory=dict)
    """With `quarantine`: `version`, `created` (of the registered model) and `digest`, where the run does not know them."""


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Nobody knows: neither good nor bad. Never promotes."""

    why: str
    answers: tuple[Answer, ...] = ()


Outcome = Done | Working | Again | Failed | Inconclusive
