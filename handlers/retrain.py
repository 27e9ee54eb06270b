"""retrain: a new version of the model from an approved training program."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from daemon.handling import Duration, Inputs, Verb, parse_duration


class Retrain(Inputs):
    """What a rule writes under `retrain:`."""

    template: str
    """Name of an approved template (`handlers/templates/NAME.yaml`) whose verb is `retrain`."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Values for the parameters that the template declares."""
    deadline: Duration = parse_duration("2h")
    """Longest to wait, enough labelled rows included; then it is inconclusive."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Retrain)
    return inputs.deadline.total_seconds()


VERB = Verb(
    name="retrain",
    doc="Train a new version of the model with an approved program, on rows outside the holdout, and register it.",
    inputs=Retrain,
    gives=("version", "rows", "digest"),
    target="training",
    deadline=_deadline,
)
