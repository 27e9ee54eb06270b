"""tune: the best parameters for the model's training, found by a sweep from an approved template."""

from __future__ import annotations

from daemon.handling import (
    Answer,
    Call,
    Context,
    Done,
    Duration,
    Failed,
    JobState,
    JobStatus,
    Outcome,
    Verb,
    parse_duration,
)
from handlers.parts.jobs import JobInputs, Work, cancel, deadline_of, failed, progress
from handlers.parts.settled import settled

__all__ = ["VERB", "cancel", "run"]


class Tune(JobInputs):
    """What a rule writes under `tune:`; the template is a Katib Experiment, or a program. At its deadline the sweep is ended."""

    deadline: Duration = parse_duration("12h")


VERB = Verb(
    name="tune",
    doc="Look for the best parameters with a sweep; a `retrain` after it takes those that its template declares.",
    inputs=Tune,
    gives=("parameters",),
    target="training",
    deadline=deadline_of,
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
