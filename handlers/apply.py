"""apply: an object of the cluster made as an approved template says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import Field

from daemon.handling import Answer, Call, Context, Done, Inputs, Outcome, Refused, Verb
from handlers.parts.jobs import checked, filled_for, origin
from handlers.parts.settled import settled

__all__ = ["VERB", "run"]


class Apply(Inputs):
    """What a rule writes under `apply:`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) whose verb is `apply`: a manifest with its name."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""


VERB = Verb(
    name="apply",
    doc="Make an object of the cluster as an approved template says, by server-side apply, and read it back.",
    inputs=Apply,
    gives=("applied",),
    target="none",
    changes=True,
    deadline=lambda _inputs: 600.0,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Apply it. Somebody else's object, and a field that another manager owns, are refused; the same again changes nothing."""
    inputs = Apply.model_validate(dict(call.inputs))
    template = context.template(inputs.template)
    if template.verb != call.verb:
        raise Refused("templates", "read", f"template {template.name} is for {template.verb}, not for {call.verb}")
    parameters = checked(template, inputs.with_)
    payload = {"call": call.id, "run": call.run, "parameters": parameters, "version": call.given.get("version", "")}
    wanted = filled_for(call, template, parameters, payload)
    applied = asdict(context.objects.apply(wanted, origin(call)))
    answers = (Answer("cluster", "apply", {"manifest": wanted}), Answer("cluster", "read_back", applied))
    return Done({"applied": applied}, answers=answers)
