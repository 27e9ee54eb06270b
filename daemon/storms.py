"""What is told of a storm of firings, once, when it begins."""

from __future__ import annotations

from datetime import datetime

from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.core.holding import Hold
from daemon.core.runs import Run, RunStep, Signal

GUARD = "storm guard"
"""Stands for the rule of the run that tells; no rule can have this name."""


def began(run: Run, hold: Hold, now: datetime) -> Event:
    """`storm.began`: `run` is the first that is held in it."""
    data = {"run": run.id, "rule": run.rule, "model": run.model, "why": hold.why}
    return Event(run.id, "driftd:storms", "storm.began", "", now, data, run.chain)


def told(run: Run, hold: Hold) -> str:
    """The message, in words."""
    return (
        f"driftd holds what its rules would start: {hold.why}. The first is run {run.id[:8]} of rule {run.rule}, about "
        f"{run.model or run.trigger.subject}; more may follow, and none starts by itself. Rollbacks go on. Look with "
        "`driftd runs --live`; start them with `driftd approve --held storm`, or discard them with `driftd reject --held storm`."
    )


def notice(run: Run, hold: Hold, step: RunStep, now: datetime) -> Run:
    """A run of its own that has nothing to do but to tell: its step comes after its end."""
    name = content_id("storm", run.id)
    made = Run(name, GUARD, "", "", "", run.trigger, run.trigger_seq, (), (), (step,), (*run.trigger.chain, name), now)
    return made.moved(Signal.LAST_DONE, now, hold.why)
