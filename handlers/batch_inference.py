"""batch_inference: a version predicts many rows at once, in a job from an approved template."""

from __future__ import annotations

from dataclasses import replace

from daemon.handling import (
    Again,
    Answer,
    Call,
    Context,
    Done,
    Duration,
    JobState,
    JobStatus,
    Outcome,
    Refused,
    Verb,
    Working,
    parse_duration,
)
from handlers.parts.jobs import JobInputs, Work, cancel, deadline_of, failed, progress
from handlers.parts.settled import settled

__all__ = ["VERB", "cancel", "run"]


class BatchInference(JobInputs):
    """What a rule writes under `batch_inference:`."""

    deadline: Duration = parse_duration("2h")


VERB = Verb(
    name="batch_inference",
    doc="Predict many rows at once with the run's version, or with the champion when the run has none.",
    inputs=BatchInference,
    gives=("result",),
    target="none",
    deadline=deadline_of,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Start the job or look at it. It predicts with one version from its first try on, whatever the alias does meanwhile."""
    inputs = BatchInference.model_validate(dict(call.inputs))
    model = context.model(call.model)
    version = str(
        call.state.get("version") or call.given.get("version") or context.registry.alias(model.registered, model.alias)
    )
    if not version:
        raise Refused("registry", "alias", f"{model.registered} has no {model.alias}, and the run has no version")
    facts = {"version": version, "model_uri": context.registry.version(model.registered, version).source}
    work = Work(inputs.template, inputs.with_, inputs.look.total_seconds(), facts)
    status = progress(call, context, work)
    if not isinstance(status, JobStatus):
        return _keeping(status, version)
    if status.state is JobState.FAILED:
        return failed(call, work, status)
    result = {**status.outputs, "version": version}
    return Done({"result": result}, answers=(Answer("jobs", "outputs", result),))


def _keeping(outcome: Outcome, version: str) -> Outcome:
    """The outcome with the version kept for the next look."""
    if isinstance(outcome, Working | Again):
        return replace(outcome, state={**outcome.state, "version": version})
    return outcome
