"""command: a program from an approved template, for whatever has no verb of its own."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from daemon.handling import Duration, Inputs, Verb, parse_duration


class Command(Inputs):
    """What a rule writes under `command:`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) whose verb is `command`."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""
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
