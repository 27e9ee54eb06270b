"""What a rule remembers per key, between one event and the next.

There are two parts with two lifetimes. The *condition* memory (streaks, counts, the open episode) belongs to the rule's
semantics: when those are edited it starts over. The *firing* memory (when it fired, for cooldown and limit) belongs to the
rule's name and survives every edit, so that an edit never makes a rule fire again sooner.

Everything here is frozen; `for_storage` and `from_storage` are the two ways between a Memory and its JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.core.rules import Count, For, Limit


@dataclass(frozen=True, slots=True)
class Window:
    """One window that the rule was told of, and whether its condition held there."""

    last: int
    """Position of its last row: tells one window from the next, and a repeat from news."""
    held: bool
    start: str
    """Event time at which it began (ISO), empty for events without windows."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition memory: re-armed when the rule's semantics change."""

    since: datetime | None = None
    """Recorded time since which the condition holds without a break; None: it does not."""
    since_start: str = ""
    """Event time of the first window of that streak, or of the first event."""
    windows: tuple[Window, ...] = ()
    """The newest windows that were true or false, oldest first; unknown ones are left out. Of a rule that does not count
    windows: the newest in which it held."""
    hits: tuple[datetime, ...] = ()
    """Recorded times at which the condition held, for `count`; oldest first."""
    episode: datetime | None = None
    """When the open episode fired last; None: there is no open episode."""
    unknown_since: datetime | None = None
    """Recorded time of the first of the latest unknowns in a row."""
    unknown_told: bool = False
    """`on_unknown: notify` has been served for these unknowns."""
    seen: datetime | None = None
    """When the event that an `absent` rule waits for came last (or the rule was loaded); None: nothing is waited for."""
    asked: datetime | None = None
    """The due time at which an `absent` rule will look next: one at a time, however many events come."""
    latest: Mapping[str, Any] | None = None
    """The event that was true last, kept where a timer may fire the rule later."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that one rule remembers for one key."""

    semantics: str
    """Of the rule that wrote the condition part."""
    condition: Condition = Condition()
    fired: tuple[datetime, ...] = ()
    """When it fired, oldest first; only as many as cooldown and limit can ask for."""

    def under(self, semantics: str) -> Memory:
        """This memory for a rule of these semantics: the condition part starts over when they changed."""
        return self if semantics == self.semantics else Memory(semantics, Condition(), self.fired)

    def with_firing(self, now: datetime, limit: Limit | None, *, lasting: bool) -> Memory:
        """It fired, which is remembered as long as anything may ask for it.

        A rule about something that lasts has an open episode now; any other has used up what it counted.
        """
        keep = limit.firings if limit else 1
        condition = (
            replace(self.condition, episode=now)
            if lasting
            else replace(self.condition, since=None, since_start="", hits=())
        )
        return Memory(self.semantics, condition, (*self.fired, now)[-max(keep, 1) :])


def rearmed(condition: Condition) -> Condition:
    """The condition memory after an episode ended or knowledge went stale: nothing held, nothing counted."""
    return Condition(
        seen=condition.seen,
        asked=condition.asked,
        windows=tuple(replace(window, held=False) for window in condition.windows[-1:]),
    )


def with_window(condition: Condition, window: Window, hold: For | None) -> Condition:
    """The ring of windows after one more; it is as long as `hold` asks for."""
    size = hold.windows if hold and hold.windows else 1
    return replace(condition, windows=(*condition.windows, window)[-size:])


def with_hit(condition: Condition, now: datetime, count: Count) -> Condition:
    """One more hit; hits that no longer count, and more than are asked for, are forgotten."""
    recent = tuple(hit for hit in (*condition.hits, now) if now - hit < count.within)
    return replace(condition, hits=recent[-count.hits :])


def without_old_hits(condition: Condition, now: datetime, count: Count) -> Condition:
    """The hits that still count at `now`."""
    recent = tuple(hit for hit in condition.hits if now - hit < count.within)
    return condition if recent == condition.hits else replace(condition, hits=recent)


def cooled_at(memory: Memory, cooldown: timedelta) -> datetime | None:
    """When the cooldown of the last firing ends; None when there was no firing or there is no cooldown."""
    if not memory.fired or not cooldown:
        return None
    return memory.fired[-1] + cooldown


def limited_until(memory: Memory, limit: Limit | None, now: datetime) -> datetime | None:
    """When the limit next allows a firing; None when it does now."""
    if limit is None:
        return None
    recent = [moment for moment in memory.fired if now - moment < limit.per]
    if len(recent) < limit.firings:
        return None
    return recent[-limit.firings] + limit.per


def for_storage(memory: Memory) -> dict[str, Any]:
    """The memory as JSON values, without what is empty."""
    condition = memory.condition
    stored: dict[str, Any] = {"semantics": memory.semantics}
    for name in ("since", "episode", "unknown_since", "seen", "asked", "latest"):
        value = getattr(condition, name)
        if value is not None:
            stored[name] = value
    if condition.since_start:
        stored["since_start"] = condition.since_start
    if condition.windows:
        stored["windows"] = [[window.last, window.held, window.start] for window in condition.windows]
    if condition.hits:
        stored["hits"] = list(condition.hits)
    if condition.unknown_told:
        stored["unknown_told"] = True
    if memory.fired:
        stored["fired"] = list(memory.fired)
    return stored


def from_storage(stored: Mapping[str, Any]) -> Memory:
    """The memory from what `for_storage` made, after a round trip through JSON."""
    return Memory(
        stored["semantics"],
        Condition(
            since=_time(stored.get("since")),
            since_start=stored.get("since_start", ""),
            windows=tuple(Window(last, held, start) for last, held, start in stored.get("windows", ())),
            hits=tuple(datetime.fromisoformat(moment) for moment in stored.get("hits", ())),
            episode=_time(stored.get("episode")),
            unknown_since=_time(stored.get("unknown_since")),
            unknown_told=stored.get("unknown_told", False),
            seen=_time(stored.get("seen")),
            asked=_time(stored.get("asked")),
            latest=stored.get("latest"),
        ),
        tuple(datetime.fromisoformat(moment) for moment in stored.get("fired", ())),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
