"""canary: give a new version a growing share of the traffic, and watch it with tests that stay valid at every look.

Each call makes one step of progress from what it finds: the new version is loaded, the champion's baseline gathered, the
traffic shifted, the evidence looked at. The pin of the last known good is written before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from daemon.handling import (
    Answer,
    Call,
    Conflict,
    Context,
    Done,
    Duration,
    Failed,
    Inconclusive,
    Inputs,
    Outcome,
    Traffic,
    Unavailable,
    Verb,
    Working,
    judge,
    parse_duration,
)
from handlers.parts.settled import settled, version_of
from handlers.parts.traffic import (
    READY_SECONDS,
    Pin,
    deployed,
    identity,
    is_split,
    ours,
    pin,
    same,
    shift,
    trouble,
)
from handlers.parts.watch import PAGE, Watch, begin, evidence, looked, reasons, warmed

GuardName = Literal["error_rate", "latency_p95", "prediction_shift", "accuracy"]
LEAST_PER_STEP = 50
"""Requests that the new version must have answered on a step before the next: fewer say nothing of a broken model."""
POLL = 1.0
"""Seconds between two looks at a version that loads."""


class Limits(Inputs):
    """What one guard allows, where its defaults do not fit."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Rate guards: good when the new version's rate is surely under this. prediction_shift: how far a share may move."""
    margin: Annotated[float, Field(gt=1)] | None = None
    """Rate guards: good when a ratio of this size to the champion's rate is ruled out."""


class Canary(Inputs):
    """What a rule writes under `canary:`."""

    steps: Annotated[tuple[Annotated[int, Field(ge=1, le=95)], ...], Field(min_length=1)] = (5, 25, 50)
    """Shares of the traffic, in percent, rising."""
    each: Duration = parse_duration("10m")
    """Shortest stay on each step."""
    guards: Annotated[tuple[GuardName | dict[GuardName, Limits], ...], Field(min_length=1)] = (
        "error_rate",
        "latency_p95",
        "prediction_shift",
    )
    """What is watched, e.g. `[error_rate, latency_p95: {margin: 2}]`; each must be found not worse. `accuracy` needs labels
    that arrive within the canary."""
    look: Duration = parse_duration("1m")
    """How often it looks."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of rejecting a version that is as good as the champion, over the whole canary and all guards."""
    min_requests: Annotated[int, Field(ge=1)] = 1000
    """Fewest requests answered by the new version before it may pass."""
    baseline: Annotated[int, Field(ge=20)] = 200
    """Units of the champion that its baseline is made of, before the first shift."""
    margin: Annotated[float, Field(gt=1)] | None = None
    """The margin of every rate guard that names none of its own."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The tolerance of error_rate, when it names none of its own."""
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

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [one.name for one in self.watched]
        if len(names) != len(set(names)):
            raise ValueError("a guard is named twice")
        return self

    @property
    def watched(self) -> tuple[judge.Guard, ...]:
        """The guards with what each allows."""
        limits: list[tuple[GuardName, Limits]] = []
        for item in self.guards:
            limits += [(item, Limits())] if isinstance(item, str) else list(item.items())
        return tuple(
            judge.guard(
                name,
                tolerance=own.tolerance if own.tolerance is not None or name != "error_rate" else self.tolerance,
                margin=own.margin if own.margin is not None or name == "prediction_shift" else self.margin,
            )
            for name, own in limits
        )

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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a canary stands between two calls."""

    started: str
    """ISO time of the first call."""
    barred: Mapping[str, str]
    """What a quarantine would name."""
    pin: Pin | None = None
    watch: Watch | None = None
    step: int = -1
    """Index of the step with the traffic; -1: the challenger has none yet."""
    since: str = ""
    """ISO time of the shift to it."""
    epoch: int = 0
    """The traffic's epoch after our last change."""
    requests: int = 0
    """Requests of the challenger when the step began."""

    def to_json(self) -> dict[str, Any]:
        """For the call's state."""
        return {
            "started": self.started, "barred": dict(self.barred), "step": self.step, "since": self.since,
            "epoch": self.epoch, "requests": self.requests,
            "pin": [self.pin.stable, self.pin.alias, self.pin.aliased] if self.pin else None,
            "watch": self.watch.to_json() if self.watch else None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Progress:
        """From the call's state."""
        return cls(
            started=stored["started"],
            barred=stored["barred"],
            pin=Pin(*stored["pin"]) if stored["pin"] else None,
            watch=Watch.from_json(stored["watch"]) if stored["watch"] else None,
            step=stored["step"],
            since=stored["since"],
            epoch=stored["epoch"],
            requests=stored["requests"],
        )


@settled
def run(call: Call, context: Context) -> Outcome:
    """One step of progress, from what is found: load, gather the baseline, shift, or look."""
    inputs = Canary.model_validate(dict(call.inputs))
    version = version_of(call)
    if call.state:
        stands = Progress.from_json(call.state)
    else:
        stands = Progress(context.now.isoformat(), identity(call, context, version))
        if barred := context.quarantined(call.model, version):
            return Failed(f"version {version} is quarantined: {barred}")
    try:
        traffic = context.serving.traffic(context.target(call.model))
        if stands.watch is None:
            return _prepare(call, context, inputs, stands, traffic)
        if stands.step < 0:
            return _gather(call, context, inputs, stands, traffic)
        return _look(call, context, inputs, stands, traffic)
    except Unavailable as away:
        # Not a failure of the version, and no success either: it goes on as it is, at most until the deadline.
        if context.now >= call.deadline:
            return Inconclusive(f"nothing is known when its time is up: {away}")
        return Working(_soon(inputs), stands.to_json(), f"unknown: {away}")


def _prepare(call: Call, context: Context, inputs: Canary, stands: Progress, traffic: Traffic) -> Outcome:
    """Pin the last known good and load both versions. Traffic changes only where nothing was served before."""
    version = version_of(call)
    made = pin(call, context, version, traffic)
    if not made.stable:
        return Failed("nothing is served and there is no champion: there is nothing to hold it against")
    waits = [name for name in (made.stable, version) if not deployed(call, context, name, traffic)]
    if waits:
        late = context.now - datetime.fromisoformat(stands.started) >= timedelta(seconds=READY_SECONDS)
        if late or context.now >= call.deadline:
            return Failed(f"version {trouble(waits, traffic)} did not become ready; no traffic was shifted")
        return Working(POLL, replace(stands, pin=made).to_json(), f"version {trouble(waits, traffic)} loads")
    answers: tuple[Answer, ...] = (Answer("registry", "pin", {"stable": made.stable, "aliased": made.aliased}),)
    if not is_split(traffic, {made.stable: 100}):
        traffic, shifted = shift(call, context, {made.stable: 100}, traffic.epoch)
        answers += shifted
    plan = judge.Plan(made.stable, version, inputs.watched, inputs.alpha, inputs.min_requests, inputs.baseline)
    prepared = replace(stands, pin=made, watch=begin(context, plan), epoch=traffic.epoch)
    return Working(0, prepared.to_json(), f"version {version} is ready beside version {made.stable}", answers)


def _gather(call: Call, context: Context, inputs: Canary, stands: Progress, traffic: Traffic) -> Outcome:
    """Freeze the champion's baseline, then make the first shift."""
    assert stands.watch is not None
    if _moved(call, inputs, stands, traffic) is None:
        return _foreign(traffic)
    watch, blocks = warmed(call, context, stands.watch)
    stands = replace(stands, watch=watch)
    if blocks == PAGE:
        return Working(0, stands.to_json(), "more was measured than one look takes in")
    if watch.lacks:
        note = f"the champion's baseline has {' and '.join(watch.lacks)}"
        if context.now >= call.deadline:
            return Inconclusive(f"{note} when its time was up")
        return Working(_soon(inputs), stands.to_json(), note)
    return _shift(call, context, inputs, stands, 0)


def _look(call: Call, context: Context, inputs: Canary, stands: Progress, traffic: Traffic) -> Outcome:
    """Take in what was measured since the last look, and judge: reject, go on, go up a step, or pass."""
    assert stands.watch is not None
    moved = _moved(call, inputs, stands, traffic)
    if moved is None:
        return _foreign(traffic)
    watch, blocks = looked(call, context, stands.watch)
    stands = replace(moved, watch=watch)
    verdict = judge.verdict(watch.canary)
    share = inputs.steps[stands.step]
    if verdict.outlook is judge.Outlook.REJECT:
        why = f"worse at {share} % of the traffic: {reasons(verdict)}"
        return Failed(why, quarantine=True, answers=(evidence(verdict),), barred=stands.barred)
    if blocks == PAGE:
        return Working(0, stands.to_json(), "more was measured than one look takes in")
    if context.now >= call.deadline:
        return Inconclusive(f"its time is up at {share} %: {reasons(verdict)}", answers=(evidence(verdict),))
    rest = (datetime.fromisoformat(stands.since) + inputs.each - context.now).total_seconds()
    note = f"{share} % of the traffic, {verdict.requests} requests: {reasons(verdict)}"
    if rest > 0:
        return Working(min(rest, _soon(inputs)), stands.to_json(), note)
    if watch.is_stale(context.now, _soon(inputs)):
        return Working(_soon(inputs), stands.to_json(), f"{note}; nothing was measured lately, so nothing is concluded")
    if stands.step + 1 < len(inputs.steps):
        if verdict.requests - stands.requests < min(LEAST_PER_STEP, inputs.min_requests):
            return Working(_soon(inputs), stands.to_json(), f"{note}; too few requests on this step to go up")
        return _shift(call, context, inputs, replace(stands, requests=verdict.requests), stands.step + 1)
    if verdict.outlook is judge.Outlook.ELIGIBLE:
        return _passed(inputs, stands, verdict)
    return Working(_soon(inputs), stands.to_json(), note)


def _shift(call: Call, context: Context, inputs: Canary, stands: Progress, step: int) -> Outcome:
    assert stands.watch is not None
    try:
        traffic, answers = shift(call, context, _weights(inputs, stands, step), stands.epoch)
    except Conflict as conflict:
        return Failed(f"somebody else changed the traffic, it is left as it is: {conflict}")
    since = context.now.isoformat()
    shifted = replace(stands, step=step, since=since, epoch=traffic.epoch)
    told = evidence(judge.verdict(stands.watch.canary))
    soon = min(_soon(inputs), inputs.each.total_seconds())
    return Working(soon, shifted.to_json(), f"shifted to {inputs.steps[step]} %", (*answers, told))


def _moved(call: Call, inputs: Canary, stands: Progress, traffic: Traffic) -> Progress | None:
    """Where it stands by the traffic itself: a shift of ours that a crash kept from being noted counts.

    None when somebody else changed the traffic.
    """
    if traffic.epoch == stands.epoch:
        return stands
    following = stands.step + 1
    if (
        ours(call, traffic)
        and traffic.epoch == stands.epoch + 1
        and following < len(inputs.steps)
        and same(traffic.goal, _weights(inputs, stands, following))
    ):
        return stands
    return None


def _weights(inputs: Canary, stands: Progress, step: int) -> dict[str, float]:
    assert stands.pin is not None
    share = float(inputs.steps[step])
    return {stands.barred["version"]: share, stands.pin.stable: 100 - share}


def _foreign(traffic: Traffic) -> Failed:
    return Failed(
        f"somebody else ({traffic.by or 'unknown'}) changed the traffic to {dict(traffic.weights)}, it is left as it is",
        answers=(Answer("serving", "traffic", {"weights": dict(traffic.weights), "by": traffic.by}),),
    )


def _passed(inputs: Canary, stands: Progress, verdict: judge.Verdict) -> Done:
    assert stands.watch is not None
    assert stands.pin is not None
    outputs = {
        "stable": stands.pin.stable,
        "soak": inputs.soak.total_seconds() if inputs.soak else 0.0,
        "canary": {
            "watch": stands.watch.to_json(),
            "epoch": stands.epoch,
            "holdback": inputs.holdback,
            "look": inputs.look.total_seconds(),
            "barred": dict(stands.barred),
            "requests": verdict.requests,
        },
    }
    return Done(outputs, answers=(evidence(verdict),))


def _soon(inputs: Canary) -> float:
    return inputs.look.total_seconds()
