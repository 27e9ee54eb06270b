"""A run: the steps of one firing, as a state machine that is data.

`TABLE` holds every legal move; `transition` looks it up and nothing else decides. The states tell whether traffic may
have been touched, because that is what decides how a run may end: from SERVING on it can only end PROMOTED, ROLLED_BACK
or STUCK. A state is entered *before* the call that it allows is made, so a crash in between errs on the careful side.

Inconclusive is not success: in every state it leads to where a failure leads. Every state that waits for something has a
move for EXPIRED. UNDOING takes no cancellation: a rollback is never pre-empted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

from daemon.core.canonical import content_id
from daemon.core.errors import IllegalTransition
from daemon.core.events import Event

UNDO_STEP = 1000
"""Step number of the rollback that undoes a run."""
AFTER_STEP = 2000
"""Step number of the first step after the end: those of `on_failure`, then the rule's own by their index. They change
nothing of the run."""


class State(Enum):
    """Where a run stands."""

    PENDING = "pending"
    """It waits for the lock on its target, or for budget. One without steps (it only tells) ends at once."""
    WAITING = "waiting"
    """It waits for a person; no traffic was touched."""
    RUNNING = "running"
    """A step is at work; no traffic was touched."""
    SERVING = "serving"
    """A step that may touch traffic is at work, or was."""
    GATED = "gated"
    """It waits for a person while traffic may be split."""
    UNDOING = "undoing"
    """Traffic and alias go back to the last known good."""
    SUCCEEDED = "succeeded"
    """All steps are done, and none touched traffic."""
    PROMOTED = "promoted"
    """All steps are done: the new version serves."""
    FAILED = "failed"
    """A step failed before any traffic was touched."""
    INCONCLUSIVE = "inconclusive"
    """A step could not tell good from bad before any traffic was touched."""
    EXPIRED = "expired"
    """Its time ran out before any traffic was touched."""
    REJECTED = "rejected"
    """A person said no before any traffic was touched."""
    CANCELLED = "cancelled"
    """It was replaced or cancelled before any traffic was touched."""
    ROLLED_BACK = "rolled back"
    """The last known good serves again."""
    STUCK = "stuck"
    """The rollback could not be finished: a person must look, and is paged."""


class Signal(Enum):
    """What can happen to a run."""

    ADMITTED = "admitted"
    """Its locks and budgets are free; its first step needs no traffic."""
    ADMITTED_TRAFFIC = "admitted to traffic"
    """The same, and its first step may touch traffic."""
    ASKED = "asked"
    """The next step wants a person's word."""
    APPROVED = "approved"
    """A person said yes; the next step needs no traffic."""
    APPROVED_TRAFFIC = "approved for traffic"
    """The same, and the next step may touch traffic."""
    REFUSED = "refused"
    """A person said no."""
    STEP_DONE = "step done"
    """A step is done; the next needs no traffic."""
    STEP_DONE_TRAFFIC = "step done, traffic next"
    """A step is done; the next may touch traffic."""
    STEP_DONE_ROLLBACK = "step done, rollback next"
    """A step is done; the next is a rollback that the rule asked for."""
    ADMITTED_ROLLBACK = "admitted to rollback"
    """Its first step is a rollback that the rule asked for."""
    APPROVED_ROLLBACK = "approved for rollback"
    """A person said yes to a rollback that the rule asked for."""
    LAST_DONE = "last step done"
    """The last step is done."""
    FAILED = "failed"
    """A step will not work."""
    INCONCLUSIVE = "inconclusive"
    """A step could not tell."""
    EXPIRED = "expired"
    """A deadline has passed."""
    CANCELLED = "cancelled"
    """Somebody, or a rule that replaces it, cancelled it."""


_S, _G = State, Signal

TABLE: Mapping[tuple[State, Signal], State] = MappingProxyType({
    (_S.PENDING, _G.ADMITTED): _S.RUNNING,
    (_S.PENDING, _G.ADMITTED_TRAFFIC): _S.SERVING,
    (_S.PENDING, _G.ADMITTED_ROLLBACK): _S.UNDOING,
    (_S.PENDING, _G.ASKED): _S.WAITING,
    (_S.PENDING, _G.EXPIRED): _S.EXPIRED,
    (_S.PENDING, _G.CANCELLED): _S.CANCELLED,
    (_S.PENDING, _G.LAST_DONE): _S.SUCCEEDED,
    (_S.WAITING, _G.APPROVED): _S.RUNNING,
    (_S.WAITING, _G.APPROVED_TRAFFIC): _S.SERVING,
    (_S.WAITING, _G.APPROVED_ROLLBACK): _S.UNDOING,
    (_S.WAITING, _G.REFUSED): _S.REJECTED,
    (_S.WAITING, _G.EXPIRED): _S.EXPIRED,
    (_S.WAITING, _G.CANCELLED): _S.CANCELLED,
    (_S.RUNNING, _G.STEP_DONE): _S.RUNNING,
    (_S.RUNNING, _G.STEP_DONE_TRAFFIC): _S.SERVING,
    (_S.RUNNING, _G.STEP_DONE_ROLLBACK): _S.UNDOING,
    (_S.RUNNING, _G.ASKED): _S.WAITING,
    (_S.RUNNING, _G.LAST_DONE): _S.SUCCEEDED,
    (_S.RUNNING, _G.FAILED): _S.FAILED,
    (_S.RUNNING, _G.INCONCLUSIVE): _S.INCONCLUSIVE,
    (_S.RUNNING, _G.EXPIRED): _S.EXPIRED,
    (_S.RUNNING, _G.CANCELLED): _S.CANCELLED,
    (_S.SERVING, _G.STEP_DONE): _S.SERVING,
    (_S.SERVING, _G.STEP_DONE_TRAFFIC): _S.SERVING,
    (_S.SERVING, _G.STEP_DONE_ROLLBACK): _S.UNDOING,
    (_S.SERVING, _G.ASKED): _S.GATED,
    (_S.SERVING, _G.LAST_DONE): _S.PROMOTED,
    (_S.SERVING, _G.FAILED): _S.UNDOING,
    (_S.SERVING, _G.INCONCLUSIVE): _S.UNDOING,
    (_S.SERVING, _G.EXPIRED): _S.UNDOING,
    (_S.SERVING, _G.CANCELLED): _S.UNDOING,
    (_S.GATED, _G.APPROVED): _S.SERVING,
    (_S.GATED, _G.APPROVED_TRAFFIC): _S.SERVING,
    (_S.GATED, _G.APPROVED_ROLLBACK): _S.UNDOING,
    (_S.GATED, _G.REFUSED): _S.UNDOING,
    (_S.GATED, _G.EXPIRED): _S.UNDOING,
    (_S.GATED, _G.CANCELLED): _S.UNDOING,
    (_S.UNDOING, _G.LAST_DONE): _S.ROLLED_BACK,
    (_S.UNDOING, _G.FAILED): _S.STUCK,
    (_S.UNDOING, _G.INCONCLUSIVE): _S.STUCK,
    (_S.UNDOING, _G.EXPIRED): _S.STUCK,
})  # fmt: skip
"""Every legal move."""

ENDED = frozenset({
    State.SUCCEEDED, State.PROMOTED, State.FAILED, State.INCONCLUSIVE, State.EXPIRED, State.REJECTED, State.CANCELLED,
    State.ROLLED_BACK, State.STUCK,
})  # fmt: skip
"""States that a run never leaves."""

GOOD_ENDS = frozenset({State.SUCCEEDED, State.PROMOTED})
"""Ends after which `on_failure` does not run."""

ASKING = frozenset({State.WAITING, State.GATED})
"""States that wait for a person."""

TOUCHED = frozenset({State.SERVING, State.GATED, State.UNDOING})
"""States in which traffic may be split."""


def transition(state: State, signal: Signal) -> State:
    """The state after `signal`; IllegalTransition when the table has no such move."""
    try:
        return TABLE[state, signal]
    except KeyError:
        raise IllegalTransition(state.value, signal.value) from None


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run; `inputs` are evaluated, the shape comes from the verb's declaration."""

    verb: str
    inputs: Mapping[str, Any]
    approve: bool
    traffic: bool
    seconds: float
    """Longest that it may take."""


UNDO = RunStep("rollback", MappingProxyType({}), approve=False, traffic=True, seconds=900.0)
"""The step that undoes a run that may have touched traffic; if it takes longer the run is stuck."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One move of a run, for people."""

    at: datetime
    signal: str
    state: str
    note: str


@dataclass(frozen=True, slots=True)
class Run:
    """One firing's run."""

    id: str
    rule: str
    revision: str
    model: str
    key: str
    trigger: Event
    trigger_seq: int
    targets: tuple[str, ...]
    """Locks that it holds while it lives, sorted."""
    steps: tuple[RunStep, ...]
    on_failure: tuple[RunStep, ...]
    chain: tuple[str, ...]
    """Runs that led to this one; it is the last."""
    created: datetime
    state: State = State.PENDING
    position: int = 0
    """Index of the step at work, or waited for."""
    approved: int = -1
    """Highest step that a person approved."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Outputs of the steps so far."""
    why: str = ""
    """Why it stands where it stands; of an ended run, why it ended."""
    moves: tuple[Moved, ...] = ()
    replaces: str = ""
    """The run that it waits to see undone, when it replaces one."""
    changes: bool = False
    """It changes production, and neither its rule nor a person has said that it may do so during a freeze."""
    held: str = ""
    """What holds it back before its start, of `holding.Holder`; empty: nothing does."""
    storm: str = ""
    """The storm in which it was held, whatever became of it: id of the first run that was held in it."""

    @property
    def ended(self) -> bool:
        """It has come to an end."""
        return self.state in ENDED

    @property
    def rolls_back(self) -> bool:
        """It was started to roll back: no budget holds it, and it takes its target over."""
        return bool(self.steps) and self.steps[0].verb == "rollback"

    @property
    def asks_first(self) -> bool:
        """Its first step waits for a person, and none has said yes."""
        return bool(self.steps) and self.steps[0].approve and self.approved < 0

    def step(self, number: int) -> RunStep:
        """The step with a number: one of the rule's, the undo, or one of those after the end."""
        if number == UNDO_STEP:
            return UNDO
        return self.steps[number] if number < UNDO_STEP else (*self.on_failure, *self.steps)[number - AFTER_STEP]

    def afterwards(self) -> tuple[int, ...]:
        """The numbers of the steps to take after it has ended: none after a good end, or when it was held and never began;
        what the rule wrote after its own rollback once that has worked; else `on_failure`.
        """
        if self.state in GOOD_ENDS or self.held:
            return ()
        own = self.position < len(self.steps) and self.steps[self.position].verb == "rollback"
        first = AFTER_STEP + len(self.on_failure)
        if own and self.state is State.ROLLED_BACK:
            return tuple(range(first + self.position + 1, first + len(self.steps)))
        return tuple(range(AFTER_STEP, first))

    def call_id(self, step: int) -> str:
        """The id of the call of a step: fixed before the call is made, the same after any crash."""
        return content_id("call", self.id, step)

    def moved(self, signal: Signal, now: datetime, note: str) -> Run:
        """The run after `signal`."""
        state = transition(self.state, signal)
        move = Moved(now, signal.value, state.value, note)
        return replace(self, state=state, why=note or self.why, moves=(*self.moves, move))


def run_id(rule: str, key: str, trigger: Event, seq: int) -> str:
    """The id of the run that a firing starts."""
    return content_id("run", rule, key, trigger.source, trigger.id, seq)


def onward(run: Run) -> Signal:
    """The signal that leads to the step at `run.position`: what kind of step it is, and whether it wants a person."""
    if run.position >= len(run.steps):
        return Signal.LAST_DONE
    step = run.steps[run.position]
    if step.approve and run.approved < run.position:
        return Signal.ASKED
    kind = 0 if step.verb == "rollback" else 1 if step.traffic else 2
    if run.state is State.PENDING:
        return (Signal.ADMITTED_ROLLBACK, Signal.ADMITTED_TRAFFIC, Signal.ADMITTED)[kind]
    if run.state in ASKING:
        return (Signal.APPROVED_ROLLBACK, Signal.APPROVED_TRAFFIC, Signal.APPROVED)[kind]
    return (Signal.STEP_DONE_ROLLBACK, Signal.STEP_DONE_TRAFFIC, Signal.STEP_DONE)[kind]


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    moves: dict[tuple[str, str], list[str]] = {}
    for (state, signal), after in TABLE.items():
        moves.setdefault((_word(state), _word(after)), []).append(signal.value)
    lines += [f"    {state} --> {after}: {' or '.join(signals)}" for (state, after), signals in moves.items()]
    lines += [f"    {_word(state)} --> [*]" for state in State if state in ENDED]
    return "\n".join(lines) + "\n"


def _word(state: State) -> str:
    return state.value.replace(" ", "_")
