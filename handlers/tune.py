"""tune: the best parameters for the model's training, found by a sweep from an approved template."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from daemon.handling import (
    Answer,
    Call,
    Context,
    Done,
    Duration,
    Failed,
    Inputs,
    JobState,
    JobStatus,
    Outcome,
    Verb,
    parse_duration,
)
from handlers.parts.jobs import Work, cancel, failed, progress
from handlers.parts.settled import settled

__all__ = ["VERB", "cancel", "run"]


class Tune(Inputs):
    """What a rule writes under `tune:`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) whose verb is `tune`: a Katib Experiment, or a program."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""
    look: Duration = parse_duration("30s")
    """How often a program is tried again that could not work yet."""
    deadline: Duration = parse_duration("12h")
    """Longest that the sweep may take; then it is ended, and inconclusive."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Tune)
    return inputs.deadline.total_seconds()


VERB = Verb(
    name="tune",
    doc="Look for the best parameters with a sweep; a `retrain` after it takes those that its template declares.",
    inputs=Tune,
    gives=("parameters",),
    target="training",
    deadline=_deadline,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Start the sweep or look at it; its outputs are the best trial's `parameters`, by name."""
    inputs = Tune.model_validate(dict(call.inputs))
    champion = {
        "champion": context.registry.alias(context.model(call.model).registered, context.model(call.model).alias)
    }
    work = Work(inputs.template, inputs.with_, inputs.look.total_seconds(), champion)
    status = progress(call, context, work)
    if not isinstance(status, JobStatus):
        return status
    if status.state is JobState.FAILED:
        return failed(call, work, status)
    found = status.outputs.get("parameters")
    if not isinstance(found, dict) or not found:
        return Failed(f"{inputs.template} ended well, but names no parameters")
    return Done({"parameters": found}, answers=(Answer("jobs", "outputs", dict(status.outputs)),))
