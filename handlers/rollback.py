"""rollback: all traffic to the last known good version, the alias restored, and both read back twice.

As a rule's own step it goes where `to` says. As the undo of a run it goes where the run's pin says, and takes back only
what the run did: a change that somebody else made since is left to people.

Proven means: the serving side says so, and the prediction log shows that requests go there. Without enough requests it is
done but `unverified`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from daemon.handling import (
    UNDO_STEP,
    Answer,
    Call,
    Conflict,
    Context,
    Done,
    Duration,
    Failed,
    Inputs,
    Outcome,
    Refused,
    Traffic,
    Unavailable,
    Verb,
    Working,
    parse_duration,
)
from handlers.parts.settled import settled
from handlers.parts.traffic import (
    READY_SECONDS,
    deployed,
    is_split,
    move_alias,
    ours,
    pin_tag,
    pinned,
    settled_down,
    shift,
    trouble,
)

STRAY = 0.001
"""Share of requests that may be logged late under the old version, after the time to settle."""
POLL = 1.0
SETTLE_POLL = 3.0


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


@dataclass(frozen=True, slots=True)
class Way:
    """Where a rollback goes, and from where."""

    good: str
    bad: str
    """The version that is to lose its traffic; empty: whatever else has some."""
    aliases: Mapping[str, str]
    """Aliases to put back, each with the version to put it on (empty: it pointed nowhere)."""
    undo: bool
    """It takes back what its own run did."""


@settled
def run(call: Call, context: Context) -> Outcome:
    """Shift, restore, read back, prove, retire: each found done is not done again. Tries until its deadline."""
    inputs = Rollback.model_validate(dict(call.inputs))
    try:
        traffic = context.serving.traffic(context.target(call.model))
        way = _undo_way(call, context, traffic) if call.step == UNDO_STEP else _asked_way(call, context, inputs)
        if way is None:
            return Done({"verified": "untouched", "restored": "", "why": "this run changed neither traffic nor alias"})
        return _back(call, context, inputs, way, traffic)
    except (Unavailable, Conflict) as passing:
        if context.now >= call.deadline:
            return Failed(f"not rolled back by its deadline: {passing}")
        return Working(POLL, call.state, f"again: {passing}")


def _undo_way(call: Call, context: Context, traffic: Traffic) -> Way | None:
    """Back to the run's pin; None when it made none, for it is made before the first change."""
    bad = str(call.given.get("version") or "")
    if not bad:
        return None
    model = context.model(call.model)
    try:
        made = pinned(call, context, bad)
    except Refused:  # the version was deleted meanwhile, and the pin with it
        if kept := call.state.get("way"):
            return Way(kept["good"], kept["bad"], {}, undo=True)
        champion = context.registry.alias(model.registered, model.alias)
        others = [name for name, share in traffic.weights.items() if share and name != bad]
        good = champion if champion not in {"", bad} else next(iter(others), "")
        return Way(good, bad, {}, undo=True) if traffic.weights.get(bad) else None
    if made is None:
        return None
    aliases = {made.alias: made.aliased}
    prefix = f"{pin_tag(call.run)}."
    tags = context.registry.version(model.registered, bad).tags
    aliases |= {tag.removeprefix(prefix): before for tag, before in tags.items() if tag.startswith(prefix)}
    return Way(made.stable, bad, aliases, undo=True)


def _asked_way(call: Call, context: Context, inputs: Rollback) -> Way:
    """Where the rule says. Refused when there is no such version."""
    model = context.model(call.model)
    champion = context.registry.alias(model.registered, model.alias)
    kept = call.state.get("way")  # once the alias is back, `last_good` would mean something else
    if kept:
        return Way(kept["good"], kept["bad"], {model.alias: kept["good"]}, undo=False)
    if inputs.to == "champion":
        good = champion
    elif inputs.to == "last_good":
        tags = context.registry.version(model.registered, champion).tags if champion else {}
        good = tags.get("driftd.previous", "")
    else:
        good = context.registry.version(model.registered, inputs.to).version
    if not good:
        raise Refused("rollback", "aim", f"there is no {inputs.to.replace('_', ' ')} version to go back to")
    return Way(good, champion if champion != good else "", {model.alias: good}, undo=False)


def _back(call: Call, context: Context, inputs: Rollback, way: Way, traffic: Traffic) -> Outcome:
    if not call.state.get("way"):
        # What is aimed at is noted before anything is changed.
        state = {**call.state, "way": {"good": way.good, "bad": way.bad}}
        return Working(0, state, f"back to version {way.good or 'none'}")
    if not way.good:
        return Failed("nothing was served before this run: there is no version to go back to")
    if way.undo and not traffic.weights.get(way.bad) and traffic.by and not ours(call, traffic):
        # The run never got to traffic, or somebody else has taken it from the version already.
        return _done(call, context, way, "untouched", _restore(call, context, way))
    answers: tuple[Answer, ...] = ()
    if not is_split(traffic, {way.good: 100}):
        blocked = _blocked(call, context, way, traffic)
        if blocked is not None:
            return blocked
        try:
            traffic, answers = shift(call, context, {way.good: 100}, traffic.epoch)
        except Refused as not_ready:  # it was ready a moment ago
            return Working(POLL, call.state, f"again: {not_ready}")
    restored = _restore(call, context, way)
    if "since" not in call.state:
        state = {**call.state, "since": (context.now + inputs.settle).isoformat()}
        note = f"all traffic is on version {way.good}, now it is proven"
        return Working(inputs.settle.total_seconds() + POLL, state, note, (*answers, *restored))
    return _prove(call, context, inputs, way, (*answers, *restored))


def _blocked(call: Call, context: Context, way: Way, traffic: Traffic) -> Outcome | None:
    """Why the traffic cannot be shifted now: a person has changed it since, or the last known good is not ready."""
    if way.undo and traffic.by and not ours(call, traffic):
        return Failed(
            f"somebody else ({traffic.by}) changed the traffic since, to {dict(traffic.weights)}: a person must decide",
            answers=(Answer("serving", "traffic", {"weights": dict(traffic.weights), "by": traffic.by}),),
        )
    if deployed(call, context, way.good, traffic):
        return None
    waits = call.state.get("waits") or context.now.isoformat()
    late = context.now - datetime.fromisoformat(waits) >= timedelta(seconds=READY_SECONDS)
    if not late and context.now + timedelta(seconds=2 * POLL) < call.deadline:
        return Working(POLL, {**call.state, "waits": waits}, f"version {trouble([way.good], traffic)} loads")
    why = f"version {trouble([way.good], traffic)}, the last known good, does not become ready"
    healthy = [name for name, share in traffic.weights.items() if share and traffic.ready.get(name)]
    if not healthy:
        return Failed(f"{why}, and no other version answers")
    # Better a version that is doubted than requests that fail.
    _, answers = shift(call, context, {healthy[0]: 100}, traffic.epoch)
    return Failed(f"{why}: traffic stays on version {healthy[0]}, which answers", answers=answers)


def _restore(call: Call, context: Context, way: Way) -> tuple[Answer, ...]:
    """Put the aliases back, and read them back. As an undo only those that point to the bad version: another pointer is
    somebody else's. An alias that pointed nowhere cannot be put back, and is noted.
    """
    registered = context.model(call.model).registered
    answers: list[Answer] = []
    for alias, version in way.aliases.items():
        points = context.registry.alias(registered, alias)
        if points == version or (way.undo and points != way.bad):
            answers.append(Answer("registry", "alias", {"alias": alias, "version": points, "moved": False}))
            continue
        if not version:
            answers.append(
                Answer("registry", "alias", {"alias": alias, "version": points, "before": "", "moved": False})
            )
            continue
        after = move_alias(call, context, alias, version, points)
        answers.append(Answer("registry", "read_back", {"alias": alias, "version": after, "before": points}))
    return tuple(answers)


def _prove(call: Call, context: Context, inputs: Rollback, way: Way, before: tuple[Answer, ...]) -> Outcome:
    """The two read-backs: what the serving side says, and where the logged requests went."""
    target, since = context.target(call.model), str(call.state["since"])
    traffic = context.serving.traffic(target)
    requests = _requests(context, target, since)
    total = sum(requests.values())
    stray = total - requests.get(way.good, 0)
    allowed = math.ceil(total * STRAY + 3 * math.sqrt(total * STRAY))
    shown = {
        "requests": requests, "since": since, "stray": stray, "stray_allowed": allowed,
        "requests_needed": inputs.min_requests,
    }  # fmt: skip
    answers = (
        *before,
        Answer("serving", "traffic", {"weights": dict(traffic.weights), "epoch": traffic.epoch, "by": traffic.by}),
        Answer("prediction log", "served", shown),
    )
    proven = total >= inputs.min_requests and stray <= allowed
    late = context.now >= datetime.fromisoformat(since) + inputs.prove_within or context.now >= call.deadline
    if not proven and not late:
        note = f"{total} requests logged since the shift, {stray} of them on another version"
        return Working(POLL, call.state, note)
    if total >= inputs.min_requests and not proven:
        return Failed(
            f"the serving side says that all traffic is on version {way.good}, but {stray} of {total} logged requests "
            "went elsewhere",
            answers=answers,
        )
    return _done(call, context, way, "proven" if proven else "unverified", answers)


def _requests(context: Context, target: str, since: str) -> dict[str, int]:
    """Logged requests by version; none when the log cannot say: that proves nothing, and undoes nothing."""
    try:
        return dict(context.serving.served(target, since).requests)
    except Unavailable:
        return {}


def _done(call: Call, context: Context, way: Way, verified: str, answers: tuple[Answer, ...]) -> Outcome:
    target = context.target(call.model)
    traffic = context.serving.traffic(target)
    if way.bad and way.bad in traffic.ready and not traffic.weights.get(way.bad):
        context.serving.retire(target, way.bad)
        answers += (Answer("serving", "retire", {"target": target, "version": way.bad}),)
    why = f"all traffic is back on version {way.good} ({verified})"
    if verified != "untouched":
        left, told = settled_down(call, context)
        if left and context.now + timedelta(seconds=2 * SETTLE_POLL) < call.deadline:
            return Working(SETTLE_POLL, call.state, f"{why}; still: {left}")
        answers += told
        why += f"; left over: {left}" if left else ""
    else:
        why = f"the traffic is not this run's any more, or never was: {dict(traffic.weights)}, last by {traffic.by}"
    outputs: dict[str, Any] = {"verified": verified, "restored": way.good, "why": why}
    return Done(outputs, answers=answers)
