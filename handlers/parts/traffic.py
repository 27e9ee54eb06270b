"""Traffic of a target: the pin that says where to go back to, shifts with their read-back, and whose shift it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from daemon.handling import Answer, Call, Conflict, Context, Refused, Traffic, Unavailable, canonical

READY_SECONDS = 300.0
"""Longest that a version may take to load."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Where a run goes back to: fixed before its first change, and kept as a tag of the version that it is about."""

    stable: str
    """The version with all the traffic then; empty when nothing was served."""
    alias: str
    """The champion alias's name."""
    aliased: str
    """The version that it pointed to then; empty when it was not set."""


def pin_tag(run: str) -> str:
    """The tag that holds a run's pin."""
    return f"driftd.pin.{run}"


def pinned(call: Call, context: Context, version: str) -> Pin | None:
    """The run's pin, or None: then this run has changed no traffic and no alias."""
    registered = context.model(call.model).registered
    raw = context.registry.version(registered, version).tags.get(pin_tag(call.run))
    return Pin(**json.loads(raw)) if raw else None


def pin(call: Call, context: Context, version: str, traffic: Traffic) -> Pin:
    """The run's pin, made now when there is none. Conflict when the traffic is split: somebody else is at work.

    A target that serves nothing yet, because it is new, has the alias's version as its last known good.
    """
    known = pinned(call, context, version)
    if known is not None:
        return known
    model = context.model(call.model)
    serving = [name for name, share in traffic.weights.items() if share > 0]
    if len(serving) > 1:
        split = ", ".join(f"{name} {traffic.weights[name]:g} %" for name in sorted(serving))
        raise Conflict("serving", "pin", f"the traffic is split already ({split}), last changed by {traffic.by}")
    aliased = context.registry.alias(model.registered, model.alias)
    made = Pin(serving[0] if serving else aliased, model.alias, aliased)
    if made.stable == version:
        raise Conflict("serving", "pin", f"version {version} has all the traffic already")
    context.registry.set_tag(model.registered, version, pin_tag(call.run), json.dumps(asdict(made)))
    written = pinned(call, context, version)
    if written != made:
        raise Unavailable("registry", "set_tag", f"the pin of version {version} reads back as {written}")
    return made


def alias_before(call: Call, context: Context, version: str, alias: str) -> str | None:
    """Where an alias other than the pin's pointed before this run moved it; None when it has not."""
    tags = context.registry.version(context.model(call.model).registered, version).tags
    return tags.get(f"{pin_tag(call.run)}.{alias}")


def note_alias(call: Call, context: Context, version: str, alias: str) -> str:
    """Keep where an alias other than the pin's points, before it is moved; what was kept first counts."""
    kept = alias_before(call, context, version, alias)
    if kept is not None:
        return kept
    registered = context.model(call.model).registered
    before = context.registry.alias(registered, alias)
    context.registry.set_tag(registered, version, f"{pin_tag(call.run)}.{alias}", before)
    return before


def mark(call: Call) -> str:
    """Who a shift of this call says it is by: the run and the call."""
    return f"{call.run}/{call.id}"


def ours(call: Call, traffic: Traffic) -> bool:
    """Whether a call of this very run made the last change."""
    return traffic.by.split("/", 1)[0] == call.run


def same(weights: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether two splits are the same; a version with no weight is not part of one."""
    return _some(weights) == _some(wanted)


def is_split(traffic: Traffic, wanted: Mapping[str, float]) -> bool:
    """Whether the traffic is split so, and no other split is under way: a change may be written and not have come yet."""
    return same(traffic.weights, wanted) and same(traffic.goal, wanted)


def shift(call: Call, context: Context, weights: Mapping[str, float], epoch: int) -> tuple[Traffic, tuple[Answer, ...]]:
    """Split the traffic so, if the epoch still stands, and read it back.

    The same shift again adopts the first. Conflict when somebody else changed the traffic.
    """
    target = context.target(call.model)
    wanted = _some(weights)
    made = context.serving.shift(target, wanted, epoch, mark(call))
    read = context.serving.traffic(target)
    answers = (
        Answer("serving", "shift", {"target": target, "asked": wanted, "epoch": epoch, **_shown(made)}),
        Answer("serving", "read_back", _shown(read)),
    )
    if not same(read.weights, wanted):
        raise Conflict("serving", "read_back", f"asked for {wanted}, it says {dict(read.weights)}, last by {read.by}")
    return read, answers


def deployed(call: Call, context: Context, version: str, traffic: Traffic) -> bool:
    """Whether the version is ready; when it is not deployed it is deployed, and becomes ready some time later.

    Refused when the registry says that it never will be.
    """
    if traffic.ready.get(version):
        return True
    if version not in traffic.ready:
        registered = context.registry.version(context.model(call.model).registered, version)
        if registered.status == "FAILED_REGISTRATION":
            raise Refused("registry", "version", f"version {version} is not complete: {registered.status}")
        if registered.status == "READY":
            context.serving.deploy(context.target(call.model), version, registered.source)
    return False


def trouble(versions: Iterable[str], traffic: Traffic) -> str:
    """The versions with what the serving side says is wrong with each."""
    return " and ".join(f"{name} ({traffic.problems[name]})" if name in traffic.problems else name for name in versions)


def retire_others(call: Call, context: Context, keep: tuple[str, ...]) -> tuple[Answer, ...]:
    """Unload what has no traffic and is not to be kept: every loaded version costs memory."""
    target = context.target(call.model)
    traffic = context.serving.traffic(target)
    gone = sorted(name for name in traffic.ready if name not in keep and not traffic.weights.get(name))
    for version in gone:
        context.serving.retire(target, version)
    return (Answer("serving", "retire", {"target": target, "versions": gone}),) if gone else ()


def settled_down(call: Call, context: Context) -> tuple[str, tuple[Answer, ...]]:
    """Let the serving side tidy up after a finished change: what is still left to do, and that for the audit."""
    target = context.target(call.model)
    left = context.serving.settle(target)
    return left, (Answer("serving", "settle", {"target": target, "left": left}),) if left else ()


def set_alias(call: Call, context: Context, alias: str, version: str, expected: str) -> tuple[Answer, ...]:
    """Move the alias from `expected` to `version` and read it back; nothing when it is there already.

    The registry has no compare-and-set, so it is read right before and right after. Conflict when it points elsewhere.
    """
    registered = context.model(call.model).registered
    before = context.registry.alias(registered, alias)
    if before == version:
        return (Answer("registry", "alias", {"name": registered, "alias": alias, "version": before}),)
    if before != expected:
        raise Conflict(
            "registry", "set_alias", f"{alias} points to version {before or 'none'}, not {expected or 'none'}"
        )
    after = move_alias(call, context, alias, version, before)
    return (
        Answer("registry", "set_alias", {"name": registered, "alias": alias, "version": version, "before": before}),
        Answer("registry", "read_back", {"name": registered, "alias": alias, "version": after}),
    )


def move_alias(call: Call, context: Context, alias: str, version: str, before: str) -> str:
    """Point the alias at the version and read it back; where it points then. Conflict when that is elsewhere.

    Who moves it from where is a tag of the version, written first: so the change is known as this run's when the registry
    is polled, and a rule does not start over because of what it did itself.
    """
    registered = context.model(call.model).registered
    moved = {"run": call.run, "chain": list(call.chain), "from": before}
    context.registry.set_tag(registered, version, f"driftd.moved.{alias}", canonical(moved).decode())
    context.registry.set_alias(registered, alias, version)
    after = context.registry.alias(registered, alias)
    if after != version:
        raise Conflict("registry", "set_alias", f"{alias} was set to version {version} and reads {after or 'none'}")
    return after


def identity(call: Call, context: Context, version: str) -> dict[str, str]:
    """What a quarantine bars: the version, the creation time of its registered model, and the digest of its artifacts,
    which is kept as a tag.
    """
    found = context.registry.version(context.model(call.model).registered, version)
    digest = found.tags.get("driftd.digest")
    if not digest:  # computed once: it takes a download
        digest = context.registry.digest(found.name, version)
        context.registry.set_tag(found.name, version, "driftd.digest", digest)
    return {"version": version, "created": found.created, "digest": digest}


def _some(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: float(share) for name, share in weights.items() if share > 0}


def _shown(traffic: Traffic) -> dict[str, object]:
    return {
        "weights": dict(traffic.weights),
        "epoch": traffic.epoch,
        "ready": dict(traffic.ready),
        "by": traffic.by,
    }
