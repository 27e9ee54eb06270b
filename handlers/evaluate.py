"""evaluate: hold a new version against the champion on labelled rows that no training may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from daemon.handling import Duration, Inputs, Verb, parse_duration


class Evaluate(Inputs):
    """What a rule writes under `evaluate:`."""

    against: str = "champion"
    """`champion` (the model's alias) or the number of a version."""
    metric: Literal["auto", "accuracy", "mae"] = "auto"
    """`auto`: accuracy for classification, mae for regression."""
    margin: Annotated[float, Field(ge=0)] = 0.01
    """How much worse than the champion it may be, in the metric's unit (accuracy: share; mae: the label's unit)."""
    min_rows: Annotated[int, Field(ge=30)] = 300
    """Fewest held-out labelled rows; with fewer it waits for more until its deadline."""
    max_rows: Annotated[int, Field(ge=30)] = 20_000
    """Most rows (the newest)."""
    since: str | None = None
    """Only rows at or after this event time (ISO 8601); default: the newest `max_rows` whenever they were."""
    deadline: Duration = parse_duration("1h")
    """Longest to wait, enough labelled rows included; then it is inconclusive."""


def _deadline(inputs: Inputs) -> float:
    assert isinstance(inputs, Evaluate)
    return inputs.deadline.total_seconds()


VERB = Verb(
    name="evaluate",
    doc="Compare a version with the champion, row by row, on held-out labelled rows; pass only if it is not worse.",
    inputs=Evaluate,
    needs=("version",),
    gives=("metric", "difference", "lower", "upper", "rows_evaluated"),
    target="none",
    deadline=_deadline,
)
