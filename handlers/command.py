"""command: a program from an approved template, for whatever has no verb of its own."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from daemon.handling import (
    Call,
    Context,
    Done,
    Duration,
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


class Command(Inputs):
    """What a rule writes under `command:`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) whose verb is `command`."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""
    look: Duration = parse_duration("30s")
    """How often to try again when the program says that it cannot work yet (exit status 75)."""
    deadline: Duration = parse_duration("1h")
    """Longest to wait, then it is inconclusive."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Command)
    return inputs.deadline.total_seconds()


VERB = Verb(
    name="command",
    doc="Run a program from an approved template.",
    inputs=Command,
    gives=("result",),
    target="none",
    deadline=_deadline,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Start the program or look at it; its outputs are the step's `result`."""
    inputs = Command.model_validate(dict(call.inputs))
    facts = {name: str(call.given[name]) for name in ("version",) if name in call.given}
    work = Work(inputs.template, inputs.with_, inputs.look.total_seconds(), facts)
    status = progress(call, context, work)
    if not isinstance(status, JobStatus):
        return status
    if status.state is JobState.FAILED:
        return failed(call, work, status)
    return Done({"result": dict(status.outputs)})
