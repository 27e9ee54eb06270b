"""A verb's work in a process of its own: a job from an approved template.

A job's name is the call's id and the number of the try, so a repeated call finds the job that the first one started. A
new try begins only after the last one said that it could not work yet; an outage in between never starts a second job.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from daemon.handling import (
    Again,
    Answer,
    Call,
    Context,
    Duration,
    Failed,
    Inconclusive,
    Inputs,
    JobSpec,
    JobState,
    JobStatus,
    Outcome,
    Parameter,
    Refused,
    Stream,
    Template,
    Working,
    canonical,
    filled,
    parse_duration,
)

_TAIL = 2000
"""Characters of a failed job's log that its outcome quotes."""


class JobInputs(Inputs):
    """What a rule writes under a verb whose work is one job; a verb says its own default of `deadline`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) of this verb."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""
    look: Duration = parse_duration("30s")
    """How often to try again when the job says that it cannot work yet (exit status 75)."""
    deadline: Duration
    """Longest to wait, then it is inconclusive."""


def deadline_of(inputs: Inputs) -> float:
    """Longest that the step may take, in seconds."""
    assert isinstance(inputs, JobInputs)
    return inputs.deadline.total_seconds()


@dataclass(frozen=True, slots=True)
class Work:
    """What a verb wants done by a job."""

    template: str
    parameters: Mapping[str, Any]
    """What the rule wrote under `with:`."""
    look: float
    """Seconds until the next try when a job could not work yet."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More for call.json: `champion`, `version`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that the verb itself sets; the template need not declare them."""


def progress(call: Call, context: Context, work: Work) -> JobStatus | Outcome:
    """One step of the job: its status once it has ended well or badly, until then the outcome to return.

    Refused when the template is of another verb or the parameters are not what it declares.
    """
    trial, status = _current(call, context)
    name = job_name(call, trial)
    late = context.now >= call.deadline
    if status.state is JobState.UNKNOWN and call.state.get("looks"):
        # It was started: starting it again would do its work twice.
        return JobStatus(JobState.FAILED, "the job is gone: somebody removed it, and how it ended is unknown", {}, "")
    if status.state is JobState.UNKNOWN:
        if late:
            return Inconclusive(str(call.state.get("waits") or "its time was up before it could start"))
        spec = _spec(call, context, work, name)
        status = context.jobs.submit(spec)
        work_of = {"manifest": dict(spec.manifest)} if spec.manifest else {"argv": list(spec.argv)}
        started = Answer("jobs", "submit", {"job": name, **work_of, "folder": status.folder})
        if status.state is JobState.RUNNING:
            return Working(0.5, {"try": trial, "looks": 1}, f"{work.template} runs", answers=(started,))
    if status.state is JobState.RUNNING:
        if late:
            context.jobs.cancel(name, "the step's time is up")
            return Inconclusive(f"{work.template} still ran when the step's time was up", _evidence(name, status))
        looks = int(call.state.get("looks", 0)) + 1
        return Working(min(10.0, 0.5 * 1.3**looks), {"try": trial, "looks": looks}, f"{work.template}: {status.why}")
    if status.state is JobState.AGAIN:
        why = str(status.outputs.get("why") or status.why)
        if (call.deadline - context.now).total_seconds() <= work.look:
            return Inconclusive(f"{why}; its time is up", _evidence(name, status))
        return Again(work.look, why, {"try": trial + 1, "waits": why})
    return status


def cancel(call: Call, context: Context) -> None:
    """End the job of a call whose step is over: its outcome is not waited for any more."""
    trial, status = _current(call, context)
    if status.state is JobState.RUNNING:
        context.jobs.cancel(job_name(call, trial), "its step is over")


def job_name(call: Call, trial: int) -> str:
    """The job of a try."""
    return f"{call.id}-{trial}"


def failed(call: Call, work: Work, status: JobStatus) -> Failed:
    """The outcome of a job that failed: why, the end of its log, and where the rest lies."""
    why = f"{work.template}: {status.why}"
    tail = _tail(status)
    return Failed(f"{why}\n{tail}" if tail else why, answers=_evidence(call.id, status))


def _current(call: Call, context: Context) -> tuple[int, JobStatus]:
    """The try to look at. When a crash lost the state, tries that ended with "not yet" are passed by."""
    trial = int(call.state.get("try", 0))
    status = context.jobs.status(job_name(call, trial))
    while status.state is JobState.AGAIN:
        following = context.jobs.status(job_name(call, trial + 1))
        if following.state is JobState.UNKNOWN:
            break
        trial, status = trial + 1, following
    return trial, status


def _spec(call: Call, context: Context, work: Work, name: str) -> JobSpec:
    template = context.template(work.template)
    if template.verb != call.verb:
        raise Refused("templates", "read", f"template {work.template} is for {template.verb}, not for {call.verb}")
    parameters = {**checked(template, work.parameters), **work.settings}
    payload = {**_payload(call, context), **work.facts, "parameters": parameters}
    return JobSpec(
        id=name,
        argv=_argv(context, template),
        payload=payload,
        env=template.env,
        memory_mb=template.memory_mb,
        seconds=min(template.seconds, (call.deadline - context.now).total_seconds()),
        manifest=filled_for(call, template, parameters, payload) if template.manifest else {},
        origin=origin(call),
    )


def origin(call: Call) -> dict[str, str]:
    """What led to the call, for whoever finds what it made."""
    return {
        "call": call.id, "run": call.run, "rule": call.rule, "event": call.trigger.id, "model": call.model,
    }  # fmt: skip


def filled_for(
    call: Call, template: Template, parameters: Mapping[str, Any], payload: Mapping[str, Any]
) -> dict[str, Any]:
    """The template's manifest with the parameters and what it asks of the call; `payload` is `{$call: json}`."""
    facts = {
        **origin(call),
        "id": call.id,
        "json": canonical(payload).decode(),
        "version": str(payload.get("version", "")),
        "model_uri": str(payload.get("model_uri", "")),
    }
    return filled(template.manifest, parameters, facts)


def _argv(context: Context, template: Template) -> tuple[str, ...]:
    """The program with its two places filled in; nothing else is interpreted."""
    folder = str((context.config.root / context.config.templates).absolute())
    return tuple(part.replace("{python}", sys.executable).replace("{templates}", folder) for part in template.argv)


def _payload(call: Call, context: Context) -> dict[str, Any]:
    config, home = context.config, context.config.home.absolute()
    payload: dict[str, Any] = {
        "call": call.id,
        "run": call.run,
        "chain": list(call.chain),
        "home": str(home),
        "registry": {
            "uri": config.registry.uri.replace("{home}", str(home)),
            "artifacts": config.registry.artifacts.replace("{home}", str(home)),
        },
        "model": {},
        "stream": {},
        "holdout": {},
    }
    if not call.model:
        return payload
    model = context.model(call.model)
    reference = model.reference if model.reference == "registry" else str(home / model.reference)
    payload["model"] = {"name": call.model, **model.model_dump(mode="json"), "reference": reference}
    payload["holdout"] = {"share": model.holdout, "salt": f"holdout:{call.model}"}
    if model.stream:
        payload["stream"] = _stream(model.stream, config.streams[model.stream], home)
    return payload


def _stream(name: str, stream: Stream, home: Path) -> dict[str, Any]:
    return {
        "name": name,
        "predictions": str(home / stream.predictions),
        "labels": str(home / stream.labels) if stream.labels else None,
        "pattern": stream.pattern,
        "fields": stream.fields.model_dump(mode="json"),
        "privacy": dict(stream.privacy),
    }


def checked(template: Template, given: Mapping[str, Any]) -> dict[str, Any]:
    """The template's parameters with their values as JSON: given ones, else defaults; absent ones are left out.

    Refused for a parameter that is not declared, is missing, or has another type.
    """
    unknown = sorted(set(given) - set(template.parameters))
    if unknown:
        raise Refused("templates", "read", f"template {template.name} has no parameter {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, parameter in template.parameters.items():
        value = given.get(name, parameter.default)
        if value is None:
            if parameter.required:
                raise Refused("templates", "read", f"template {template.name} needs the parameter {name}")
            continue
        try:
            values[name] = _typed(parameter, value)
        except (TypeError, ValueError):
            hint = f"{name} of template {template.name} must be a {parameter.type}"
            raise Refused("templates", "read", f"{name} is {value!r}", hint) from None
    return values


def _typed(parameter: Parameter, value: Any) -> Any:
    """`value` as the parameter's type: times as ISO text, durations as seconds."""
    if isinstance(value, bool) != (parameter.type == "bool"):
        raise TypeError(parameter.type)
    match parameter.type:
        case "bool":
            return value
        case "int":
            if int(value) != float(value):
                raise ValueError(parameter.type)
            return int(value)
        case "number":
            return float(value)
        case "time":
            return (value if isinstance(value, datetime) else datetime.fromisoformat(str(value))).isoformat()
        case "duration":
            return parse_duration(value).total_seconds()
        case _:
            if not isinstance(value, str):
                raise TypeError(parameter.type)
            return value


def _evidence(job: str, status: JobStatus) -> tuple[Answer, ...]:
    return (Answer("jobs", "status", {"job": job, "state": status.state.value, "folder": status.folder}),)


def _tail(status: JobStatus) -> str:
    """The last lines of what the job wrote, as far as they can be read from here."""
    if status.tail:
        return status.tail[-_TAIL:]
    for name in ("stderr.log", "stdout.log"):
        try:
            text = (Path(status.folder) / name).read_text(errors="replace").strip()
        except OSError:
            continue
        if text:
            return text[-_TAIL:]
    return ""
