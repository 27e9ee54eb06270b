"""command: a program from an approved template, for whatever has no verb of its own."""

from __future__ import annotations

from daemon.handling import (
    Call,
    Context,
    Done,
    Duration,
    JobState,
    JobStatus,
    Outcome,
    Verb,
    parse_duration,
)
from handlers.parts.jobs import JobInputs, Work, cancel, deadline_of, failed, progress
from handlers.parts.settled import settled

__all__ = ["VERB", "cancel", "run"]


class Command(JobInputs):
    """What a rule writes under `command:`."""

    deadline: Duration = parse_duration("1h")


VERB = Verb(
    name="command",
    doc="Run a program from an approved template.",
    inputs=Command,
    gives=("result",),
    target="none",
    deadline=deadline_of,
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
