"""retrain: a new version of the model from an approved training program."""

from __future__ import annotations

from typing import Any

from daemon.handling import (
    Answer,
    Call,
    Context,
    Done,
    Duration,
    Failed,
    JobState,
    JobStatus,
    ModelVersion,
    Outcome,
    Parameter,
    Template,
    Verb,
    parse_duration,
)
from handlers.parts.jobs import JobInputs, Work, cancel, deadline_of, failed, progress
from handlers.parts.settled import settled
from handlers.parts.traffic import identity

__all__ = ["VERB", "cancel", "run"]


class Retrain(JobInputs):
    """What a rule writes under `retrain:`. Its `with` stands before what an earlier `tune` found."""

    deadline: Duration = parse_duration("2h")


VERB = Verb(
    name="retrain",
    doc="Train a new version of the model with an approved program, on rows outside the holdout, and register it.",
    inputs=Retrain,
    gives=("version", "created", "digest", "rows"),
    target="training",
    deadline=deadline_of,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Start the training job or look at it; when it has ended, find in the registry what it registered."""
    inputs = Retrain.model_validate(dict(call.inputs))
    model = context.model(call.model)
    work = Work(
        template=inputs.template,
        parameters={**tuned(call, context.template(inputs.template)), **inputs.with_},
        look=inputs.look.total_seconds(),
        facts={"champion": context.registry.alias(model.registered, model.alias)},
    )
    status = progress(call, context, work)
    if not isinstance(status, JobStatus):
        return status
    # The registry is asked even when the job failed: it may have registered the version and died before it could say so.
    version = context.registry.find(model.registered, "driftd.call", call.id)
    if version is None:
        if status.state is JobState.FAILED:
            return failed(call, work, status)
        return Failed(f"{inputs.template} ended well, but registered no version of {model.registered} for this call")
    if version.tags.get("driftd.holdout") != "excluded" and status.outputs.get("holdout_excluded") is not True:
        return Failed(
            f"{inputs.template} does not say that it left the holdout out: version {version.version} is not used"
        )
    return _done(call, context, version, status)


def tuned(call: Call, template: Template) -> dict[str, Any]:
    """What an earlier `tune` of this run found best, for the parameters that the template declares; others are not its."""
    found = call.given.get("parameters") or {}
    return {name: _value(template.parameters[name], found[name]) for name in found if name in template.parameters}


def _value(parameter: Parameter, found: Any) -> Any:
    """Sweeps write all values as text."""
    if not isinstance(found, str) or parameter.type not in {"bool", "int"}:
        return found
    if parameter.type == "bool" and found.lower() in {"true", "false"}:
        return found.lower() == "true"
    return float(found) if "." in found or "e" in found.lower() else found


def _done(call: Call, context: Context, version: ModelVersion, status: JobStatus) -> Done:
    named = identity(call, context, version.version)
    rows = status.outputs.get("rows", version.tags.get("driftd.rows", 0))
    outputs = {"version": version.version, "created": named["created"], "rows": int(rows), "digest": named["digest"]}
    found = Answer(
        "registry",
        "find",
        {"name": version.name, "version": version.version, "tags": dict(version.tags), "folder": status.folder},
    )
    return Done(outputs, answers=(found, Answer("jobs", "outputs", dict(status.outputs))))
