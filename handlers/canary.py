"""canary: give a new version a growing share of the traffic, and watch it with tests that stay valid at every look."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator

from daemon.handling import Duration, Inputs, Verb, parse_duration

Guard = Literal["error_rate", "latency_p95", "prediction_shift", "accuracy"]


class Canary(Inputs):
    """What a rule writes under `canary:`."""

    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=95)], ...], Field(min_length=1)] = (5, 25, 50)
    """Shares of the traffic, in percent, rising."""
    each: Duration = parse_duration("10m")
    """Shortest stay on each step."""
    guards: Annotated[tuple[Guard, ...], Field(min_length=1)] = ("error_rate", "latency_p95", "prediction_shift")
    """What is watched; each must be found not worse. `accuracy` needs labels that arrive within the canary."""
    look: Duration = parse_duration("1m")
    """How often it looks."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of rejecting a version that is as good as the champion, over the whole canary and all guards."""
    min_requests: Annotated[int, Field(ge=1)] = 1000
    """Fewest units answered by the new version before it may pass."""
    margin: Annotated[float, Field(gt=1)] = 1.5
    """A rate guard passes when a ratio of this size to the champion's rate is ruled out..."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """... or when the new version's rate is certainly under this."""
    soak: Duration | None = None
    """Watch for so long after the promotion, with a holdback on the old champion; adds a `soak` step to the run."""
    holdback: Annotated[int, Field(ge=1, le=50)] = 5
    """Share of the traffic, in percent, that stays on the old champion during the soak."""
    deadline: Duration | None = None
    """When neither verdict is reached by then it is inconclusive; default: ten times the steps' time, at least 30 min."""

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError("steps must rise, e.g. [5, 25, 50]")
        return steps

    @property
    def seconds(self) -> float:
        """Longest that it may take."""
        if self.deadline is not None:
            return self.deadline.total_seconds()
        return max(1800.0, 10 * len(self.steps) * self.each.total_seconds())


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Canary)
    return inputs.seconds


VERB = Verb(
    name="canary",
    doc="Shift traffic to a version step by step while every guard holds; reject it on evidence, never on one bad look.",
    inputs=Canary,
    needs=("version",),
    gives=("stable", "soak", "canary"),
    target="serving",
    traffic=True,
    deadline=_deadline,
)
