"""rollback: all traffic to the last known good version, the alias restored, and both read back."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from daemon.handling import Duration, Inputs, Verb, parse_duration


class Rollback(Inputs):
    """What a rule writes under `rollback:`; as the undo of a canary or promotion the run fills it in."""

    to: str = "last_good"
    """`last_good` (the champion before the last promotion), `champion` (the alias) or the number of a version."""
    min_requests: Annotated[int, Field(ge=1)] = 50
    """Requests that the prediction log must show since the shift before the rollback counts as proven."""
    settle: Duration = parse_duration("5s")
    """Requests answered so soon after the shift may still have been on their way; they do not count."""
    prove_within: Duration = parse_duration("2m")
    """How long to wait for the requests that prove it; then it is done but `unverified`."""
    deadline: Duration = parse_duration("15m")
    """How long to retry; then the run is stuck and pages."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Rollback)
    return inputs.deadline.total_seconds()


VERB = Verb(
    name="rollback",
    doc="Shift all traffic to the last known good version, restore the alias, prove both, retire the other version.",
    inputs=Rollback,
    gives=("verified", "restored"),
    target="serving",
    traffic=True,
    deadline=_deadline,
)
