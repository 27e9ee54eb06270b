"""soak: the watch after a promotion, with a share of the traffic held back on the old champion as control.

A run gets this step by itself, after `promote`, when its `canary` says `soak`.
"""

from __future__ import annotations

from daemon.handling import Duration, Inputs, Verb


class Soak(Inputs):
    """What the run writes under `soak:`; guards, alpha and baseline go on from the canary's outputs."""

    duration: Duration
    """How long to watch."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Soak)
    return 2 * inputs.duration.total_seconds() + 600


VERB = Verb(
    name="soak",
    doc="Watch the promoted version against the held-back old champion, then give it all of the traffic.",
    inputs=Soak,
    needs=("version", "stable", "canary"),
    gives=("soaked",),
    target="serving",
    traffic=True,
    deadline=_deadline,
)
