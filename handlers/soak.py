"""soak: the watch after a promotion, with a share of the traffic held back on the old champion as control.

A run gets this step by itself, after `promote`, when its `canary` says `soak`. The evidence goes on from the canary's, so
the chance of a false rollback stays the one that the canary was given.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from daemon.handling import (
    Answer,
    Call,
    Conflict,
    Context,
    Done,
    Duration,
    Failed,
    Inconclusive,
    Inputs,
    Outcome,
    Unavailable,
    Verb,
    Working,
    judge,
)
from handlers.parts.settled import settled, version_of
from handlers.parts.traffic import ours, retire_others, same, settled_down, shift
from handlers.parts.watch import PAGE, Watch, evidence, looked, reasons


class Soak(Inputs):
    """What the run writes under `soak:`; guards, alpha and baseline go on from the canary's outputs."""

    duration: Duration
    """How long to watch."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Soak)
    return 2 * inputs.duration.total_seconds() + 600


VERB = Verb(
    name="soak",
    doc="Watch the promoted version against the held-back old champion, then give it all of the traffic.",
    inputs=Soak,
    needs=("version", "stable", "canary"),
    gives=("soaked", "epoch"),
    target="serving",
    traffic=True,
    deadline=_deadline,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Look; reject on evidence; after the duration, with traffic seen, take the holdback away."""
    inputs = Soak.model_validate(dict(call.inputs))
    canary: dict[str, Any] = dict(call.given["canary"])
    state = dict(call.state) or {"since": context.now.isoformat(), "watch": canary["watch"]}
    look = float(canary["look"])
    try:
        return _look(call, context, inputs, state)
    except Unavailable as away:
        if context.now >= call.deadline:
            return Inconclusive(f"nothing is known when its time is up: {away}")
        return Working(look, state, f"unknown: {away}")


def _look(call: Call, context: Context, inputs: Soak, state: dict[str, Any]) -> Outcome:
    version, canary = version_of(call), call.given["canary"]
    look = float(canary["look"])
    traffic = context.serving.traffic(context.target(call.model))
    whole = {version: 100.0}
    if traffic.epoch != call.given["epoch"] and not (ours(call, traffic) and same(traffic.goal, whole)):
        told = Answer("serving", "traffic", {"weights": dict(traffic.weights), "by": traffic.by})
        return Failed(f"somebody else ({traffic.by}) changed the traffic, it is left as it is", answers=(told,))
    watch, blocks = looked(call, context, Watch.from_json(state["watch"]))
    verdict = judge.verdict(watch.canary)
    state = {**state, "watch": watch.to_json()}
    if verdict.outlook is judge.Outlook.REJECT:
        why = f"worse after its promotion: {reasons(verdict)}"
        return Failed(why, quarantine=True, answers=(evidence(verdict),), barred=canary["barred"])
    if blocks == PAGE:
        return Working(0, state, "more was measured than one look takes in")
    rest = (datetime.fromisoformat(state["since"]) + inputs.duration - context.now).total_seconds()
    seen = verdict.requests - int(canary["requests"])
    if rest > 0:
        return Working(min(rest, look), state, f"{seen} requests since its promotion, no guard is worse")
    if seen == 0:
        if context.now >= call.deadline:
            return Inconclusive("no request was measured since its promotion", answers=(evidence(verdict),))
        return Working(look, state, "no request was measured since its promotion: nothing is known")
    if watch.is_stale(context.now, look):
        if context.now >= call.deadline:
            return Inconclusive("nothing was measured at the end of its time", answers=(evidence(verdict),))
        return Working(look, state, f"{seen} requests since its promotion, but nothing was measured lately")
    try:
        traffic, shifted = shift(call, context, whole, int(call.given["epoch"]))
    except Conflict as conflict:
        return Failed(f"somebody else changed the traffic, it is left as it is: {conflict}")
    answers = (evidence(verdict), *shifted, *retire_others(call, context, (version, str(call.given["stable"]))))
    left, tidied = settled_down(call, context)
    if left and context.now.timestamp() + 2 * look < call.deadline.timestamp():
        return Working(look, state, f"all traffic is on version {version}; still: {left}", answers)
    answers += tidied
    return Done({"soaked": seen, "epoch": traffic.epoch}, answers=answers)
