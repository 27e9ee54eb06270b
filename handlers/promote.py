"""promote: make the version the champion: the alias first, then the traffic."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from daemon.handling import Inputs, Verb


class Promote(Inputs):
    """What a rule writes under `promote:`."""

    alias: str = ""
    """The alias to move; default: the model's alias in config.yaml."""
    holdback: Annotated[int, Field(ge=1, le=50)] | None = None
    """Share of the traffic, in percent, that stays on the old champion; default: the canary's, when a soak follows."""


VERB = Verb(
    name="promote",
    doc="Point the champion alias at the version, read it back, and give it the traffic.",
    inputs=Promote,
    needs=("version",),
    gives=("promoted", "previous"),
    target="serving",
    traffic=True,
    deadline=lambda _inputs: 600.0,
)
