"""promote: make the version the champion: the alias first, then the traffic.

The alias has no compare-and-set, so it moves only from where the run's pin found it, and is read back. A version that is
not ready is never made champion.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field

from daemon.handling import (
    Again,
    Answer,
    Call,
    Conflict,
    Context,
    Done,
    Failed,
    Inputs,
    Outcome,
    Traffic,
    Verb,
    Working,
)
from handlers.parts.settled import settled, version_of
from handlers.parts.traffic import (
    Pin,
    deployed,
    is_split,
    note_alias,
    ours,
    pin,
    retire_others,
    set_alias,
    settled_down,
    shift,
    trouble,
)

SECONDS = 600.0
LEASE = timedelta(seconds=30)
"""The alias is not moved when less than this is left: a late write could come after the run's undo."""
HOLDBACK = 5
SETTLE_POLL = 3.0


class Promote(Inputs):
    """What a rule writes under `promote:`."""

    alias: str = ""
    """The alias to move; default: the model's alias in config.yaml."""
    holdback: Annotated[int, Field(ge=1, le=50)] | None = None
    """Share of the traffic, in percent, that stays on the old champion while a soak follows; default: the canary's."""


VERB = Verb(
    name="promote",
    doc="Point the champion alias at the version, read it back, and give it the traffic.",
    inputs=Promote,
    needs=("version",),
    gives=("promoted", "previous", "epoch"),
    target="serving",
    traffic=True,
    deadline=lambda _inputs: SECONDS,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Move the alias, tag the version, shift the traffic: each found done is not done again."""
    inputs = Promote.model_validate(dict(call.inputs))
    version = version_of(call)
    barred = context.quarantined(call.model, version)
    if barred:
        return Failed(f"version {version} is quarantined: {barred}")
    traffic = context.serving.traffic(context.target(call.model))
    canary: dict[str, Any] = dict(call.given.get("canary") or {})
    if canary and traffic.epoch != canary["epoch"] and not ours(call, traffic):
        return Failed(f"somebody else ({traffic.by}) changed the traffic since the canary, it is left as it is")
    made = pin(call, context, version, traffic)
    if not deployed(call, context, version, traffic):
        if context.now + LEASE >= call.deadline:
            return Failed(f"version {trouble([version], traffic)} did not become ready; it was not promoted")
        return Working(1.0, note=f"version {trouble([version], traffic)} loads")
    if context.now + LEASE >= call.deadline:
        return Failed("too little time is left to move the alias safely")
    answers = _champion(call, context, inputs, made)
    wanted = _wanted(call, inputs, made, traffic)
    if not is_split(traffic, wanted):
        try:
            traffic, shifted = shift(call, context, wanted, traffic.epoch)
        except Conflict as conflict:
            return _conflicted(call, context, conflict)
        answers += shifted
    if len(wanted) == 1:
        answers += retire_others(call, context, (version, made.stable))
        left, told = settled_down(call, context)
        # The new version serves: what is left over must not have it taken back.
        if left and context.now + 2 * LEASE < call.deadline:
            return Working(SETTLE_POLL, note=f"version {version} has the traffic; still: {left}", answers=answers)
        answers += told
    return Done({"promoted": version, "previous": made.stable, "epoch": traffic.epoch}, answers=answers)


def _champion(call: Call, context: Context, inputs: Promote, made: Pin) -> tuple[Answer, ...]:
    """Alias and tags. Where to go back to by a later `rollback` is written before the alias moves."""
    version, model = version_of(call), context.model(call.model)
    alias = inputs.alias or model.alias
    expected = made.aliased if alias == made.alias else note_alias(call, context, version, alias)
    if made.aliased and made.aliased != version:
        context.registry.set_tag(model.registered, version, "driftd.previous", made.aliased)
    moved = set_alias(call, context, alias, version, expected)
    context.registry.set_tag(model.registered, version, "driftd.promoted", call.run)
    return moved


def _wanted(call: Call, inputs: Promote, made: Pin, traffic: Traffic) -> dict[str, float]:
    """The whole traffic, less the holdback when a soak follows (the canary's outputs say so). An old champion that does
    not answer any more gets none: traffic stays on the healthy side.
    """
    version = version_of(call)
    if not call.given.get("soak") or not traffic.ready.get(made.stable):
        return {version: 100.0}
    canary = call.given.get("canary") or {}
    kept = float(inputs.holdback or canary.get("holdback") or HOLDBACK)
    return {version: 100 - kept, made.stable: kept}


def _conflicted(call: Call, context: Context, conflict: Conflict) -> Outcome:
    """A shift of ours that came in between is looked at again; anybody else's stands."""
    traffic: Traffic = context.serving.traffic(context.target(call.model))
    if ours(call, traffic):
        return Again(1.0, str(conflict))
    return Failed(f"somebody else changed the traffic, it is left as it is: {conflict}")
