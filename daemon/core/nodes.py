"""Nodes as they are seen, against what was told of them: which events lead from one to the other. Pure.

What is seen for a moment only is not told: a node whose kubelet restarts is not lost, and a device plugin that starts over
does not take its GPUs away. A difference counts once it has lasted for `settle` (losses) or `ready_after` (gains) without a
break; what is told then is how things stand at that moment. Every node has its own timers, so the order in which nodes are
heard of does not matter.

A node that is heard of for the first time offered nothing before: it becomes `node.ready` when it takes work. Where watching
begins (there is no stored state at all) nothing is told: that is how things stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

NEW = "new"
"""Instead of a hurdle: the node has not been told of yet."""
DELETED = "deleted"
_DOWN = frozenset({"unreachable", "not ready", DELETED})
"""Hurdles between which a node that is down may go without a word: one loss."""


@dataclass(frozen=True, slots=True)
class Hurdle:
    """Why a node takes no work."""

    reason: str
    """As `node.lost` names it."""
    why: str
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as it is now."""

    hurdle: Hurdle | None
    """None: it takes work."""
    gpus: Mapping[str, int] = field(default_factory=dict)
    """Per resource, how many are allocatable."""
    capacity: Mapping[str, int] = field(default_factory=dict)
    """Per resource, how many the node says it has."""
    product: str = ""
    memory_mb: int | None = None

    @property
    def reason(self) -> str:
        """Why it takes no work; empty when it does."""
        return self.hurdle.reason if self.hurdle else ""


GONE = Seen(Hurdle(DELETED, "the node was deleted"))
"""A node that is not there."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was last told of a node; this is stored."""

    reason: str
    """Why it takes no work, empty when it does, or NEW."""
    gpus: Mapping[str, int]
    product: str = ""
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """A node: what was told, what is seen, and since when the two differ."""

    told: Told
    seen: Seen
    reason_since: datetime | None = None
    gpus_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a difference must last until it counts."""

    settle: timedelta
    """Losses: of a node, of some of its GPUs."""
    ready_after: timedelta
    """Gains."""


class Happened(NamedTuple):
    """One event about a node, without its name."""

    at: datetime
    """When it counted: what was so had lasted long enough."""
    type: str
    since: datetime
    data: dict[str, Any]


def tracked(told: Told | None, seen: Seen, now: datetime) -> Track:
    """Begin to follow a node, of which something was told before, or not."""
    return observed(Track(told or Told(NEW, {}), seen), seen, now)


def baseline(seen: Seen) -> Told:
    """What counts as told where watching begins."""
    return Told(seen.reason, dict(seen.gpus), seen.product, seen.memory_mb)


def observed(track: Track, seen: Seen, now: datetime) -> Track:
    """The node was seen so at `now`. Ask `settled` up to `now` first: what was seen before has lasted until now."""
    told = track.told
    differs = _differs(told.reason, seen.reason)
    changed = _counts(told.gpus) != _counts(seen.gpus)
    # A hurdle after a moment without any, or the other way round, begins anew: it has not lasted yet.
    same_side = (track.seen.hurdle is None) == (seen.hurdle is None)
    return Track(
        told, seen,
        ((track.reason_since if same_side else None) or now) if differs else None,
        (track.gpus_since or now) if changed else None,
    )  # fmt: skip


def settled(track: Track, until: datetime, patience: Patience) -> tuple[Track, tuple[Happened, ...]]:
    """What counts by `until`, up to which the node is known to have been as it is seen; and the node after it was told."""
    happened: list[Happened] = []
    at = due(track, patience)
    while at is not None and at <= until:
        if at == _reason_due(track, patience):
            happened.append(_moved(track, at))
            told = _described(replace(track.told, reason=track.seen.reason), track.seen)
            track = replace(track, told=told, reason_since=None)
        else:
            happened += _gpus_changed(track, at)
            gpus = dict(_counts(track.seen.gpus))
            track = replace(track, told=_described(replace(track.told, gpus=gpus), track.seen), gpus_since=None)
        at = due(track, patience)
    return track, tuple(happened)


def due(track: Track, patience: Patience) -> datetime | None:
    """When something about the node counts, if it stays as it is; None: nothing will."""
    dues = [at for at in (_reason_due(track, patience), _gpus_due(track, patience)) if at is not None]
    return min(dues, default=None)


def over(track: Track) -> bool:
    """The node is gone and everything was told: nothing need be remembered of it."""
    return track.seen.reason == DELETED and track.reason_since is None and track.gpus_since is None


def _reason_due(track: Track, patience: Patience) -> datetime | None:
    if track.reason_since is None:
        return None
    return track.reason_since + (patience.settle if track.seen.reason else patience.ready_after)


def _gpus_due(track: Track, patience: Patience) -> datetime | None:
    if track.gpus_since is None:
        return None
    before, now = _counts(track.told.gpus), _counts(track.seen.gpus)
    fewer = any(now.get(resource, 0) < count for resource, count in before.items())
    return track.gpus_since + (patience.settle if fewer else patience.ready_after)


def _differs(told: str, seen: str) -> bool:
    """Whether it is worth a word that a node of which `told` was said is now `seen`."""
    if told == seen or (told == NEW and seen):
        return False
    if told and seen == DELETED:
        return False
    return not (told in _DOWN and seen in _DOWN)


def _counts(gpus: Mapping[str, int]) -> dict[str, int]:
    return {resource: count for resource, count in gpus.items() if count}


def _described(told: Told, seen: Seen) -> Told:
    """The labels as they are; those of a node that is gone are remembered."""
    if seen.reason == DELETED:
        return told
    return replace(told, product=seen.product, memory_mb=seen.memory_mb)


def _facts(track: Track) -> dict[str, Any]:
    seen = track.seen if track.seen.reason != DELETED else track.told
    facts = {"product": seen.product or None, "memory_mb": seen.memory_mb}
    return {name: value for name, value in facts.items() if value is not None}


def _gpus_changed(track: Track, at: datetime) -> list[Happened]:
    since = track.gpus_since
    assert since is not None  # asked for by its due time only
    before, now = _counts(track.told.gpus), _counts(track.seen.gpus)
    return [
        Happened(at, "gpu.capacity_changed", since, {
            **_facts(track), "resource": resource, "allocatable": now.get(resource, 0),
            "previous": before.get(resource, 0), "change": now.get(resource, 0) - before.get(resource, 0),
            "capacity": track.seen.capacity.get(resource, 0), "usable": track.seen.hurdle is None,
        })
        for resource in sorted(before.keys() | now.keys())
        if before.get(resource, 0) != now.get(resource, 0)
    ]  # fmt: skip


def _moved(track: Track, at: datetime) -> Happened:
    since, hurdle, told = track.reason_since, track.seen.hurdle, track.told
    assert since is not None  # asked for by its due time only
    if hurdle is None:
        new = told.reason == NEW
        gpus = sum(track.seen.gpus.values())
        data = {**_facts(track), "gpus": gpus, "new": new, "was": "" if new else told.reason}
        return Happened(at, "node.ready", since, data)
    data = {**_facts(track), "reason": hurdle.reason, "why": hurdle.why, "gpus": sum(told.gpus.values())}
    return Happened(at, "node.lost", since, data | ({"condition": hurdle.condition} if hurdle.condition else {}))
