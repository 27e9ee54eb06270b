"""evaluate: hold a new version against the champion on labelled rows that no training may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from daemon.handling import (
    Answer,
    Call,
    Context,
    Done,
    Duration,
    Failed,
    Inconclusive,
    Inputs,
    JobState,
    JobStatus,
    Outcome,
    Verb,
    parse_duration,
)
from handlers.parts.jobs import Work, cancel, failed, progress
from handlers.parts.settled import settled, version_of
from handlers.parts.traffic import identity

__all__ = ["VERB", "cancel", "run"]


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
    since: Annotated[
        str | None, BeforeValidator(lambda time: time.isoformat() if isinstance(time, datetime) else time)
    ] = None
    """Only rows at or after this event time (ISO 8601); default: the newest `max_rows` whenever they were."""
    template: str = "evaluate"
    """An approved template whose verb is `evaluate`; the shipped one compares row by row."""
    look: Duration = parse_duration("30s")
    """How often to look whether there are enough held-out labelled rows by now."""
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


@settled
def run(call: Call, context: Context) -> Outcome:
    """Start the evaluation or look at it; when it has ended, judge its bounds.

    It is looked at once, when there are enough rows: waiting for the bounds to turn good would make them worth less.
    """
    inputs = Evaluate.model_validate(dict(call.inputs))
    model = context.model(call.model)
    version = version_of(call)
    champion = context.registry.alias(model.registered, model.alias) if inputs.against == "champion" else inputs.against
    if not champion:
        return Failed(f"{model.registered} has no version with the alias {model.alias}: nothing to compare with")
    if champion == version:
        return Failed(f"version {version} is the one to compare with: nothing to compare")
    work = Work(
        template=inputs.template,
        parameters={},
        look=inputs.look.total_seconds(),
        facts={"champion": champion, "version": version},
        settings=inputs.model_dump(include={"metric", "min_rows", "max_rows", "since"}, exclude_none=True),
    )
    status = progress(call, context, work)
    if not isinstance(status, JobStatus):
        return status
    if status.state is JobState.FAILED:
        return failed(call, work, status)
    outcome = judged(status.outputs, inputs.margin)
    if isinstance(outcome, Failed) and outcome.quarantine:
        return replace(outcome, barred=identity(call, context, version))
    return outcome


def judged(outputs: Mapping[str, Any], margin: float) -> Outcome:
    """Passed when the lower bound of the difference is above -margin, failed for its quality when the upper bound is
    under it, else inconclusive. A difference above 0 speaks for the new version.
    """
    missing = [name for name in ("metric", "rows", "difference", "lower", "upper") if outputs.get(name) is None]
    if missing:
        return Failed(f"the evaluation gave no {', '.join(missing)}")
    lower, upper = float(outputs["lower"]), float(outputs["upper"])
    measured = Answer("evaluation", "compare", dict(outputs))
    says = (
        f"{outputs['metric']} differs by {float(outputs['difference']):+.4f} from version {outputs.get('champion', '?')} "
        f"on {outputs['rows']} held-out rows (95 % bounds {lower:+.4f} and {upper:+.4f}, margin {margin:g})"
    )
    extra = int(outputs.get("challenger_failures", 0)) - int(outputs.get("champion_failures", 0))
    if outputs["metric"] == "mae" and extra > 0:
        return Failed(f"it fails on {extra} rows more than the champion; {says}", quarantine=True, answers=(measured,))
    if lower > -margin:
        kept = {name: outputs[name] for name in ("metric", "difference", "lower", "upper")}
        return Done({**kept, "rows_evaluated": int(outputs["rows"])}, answers=(measured,))
    if upper < -margin:
        return Failed(f"it is worse: {says}", quarantine=True, answers=(measured,))
    return Inconclusive(f"neither better nor worse: {says}", answers=(measured,))
