"""The decision: rules, memory and one recorded event in; decisions, new memory and due times out.

`decide` is a pure function. `now` is the time at which the event was recorded, so feeding the stored events again in
their order gives the same decisions, bit by bit. Silence, durations and expiries come in as `timer.due` events: a
decision asks for them by returning a `Due`, and the writer records the event when its time has come.

The ladder of one rule and one event, in this order:

OWN, LOOP     the event was caused by our own runs on this model, or by a chain of runs that is too long
REPEATED      the window was counted already (where windows are not counted: one in which it held, or an older one)
UNKNOWN       not knowing is not "no": memory is left as it is, for `stale_after` at most
CLEARED       the open episode has ended
NOT_MET       the condition does not hold
HELD          it holds, but not yet long enough, in enough windows, or often enough
EPISODE       it holds and has fired in this episode (of something that lasts: `Rule.lasting`)
COOLDOWN, LIMIT, PAUSED   it would fire, and may not now; it stays armed
OBSERVED      it fired, and only says so (`mode: observe`)
FIRED         it fired, and a run is asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from daemon.core import memory as remembering
from daemon.core.durations import write_duration
from daemon.core.errors import BadInput
from daemon.core.events import Event, Recorded, event_from_json, event_json
from daemon.core.expressions import Activation, Truth, activation
from daemon.core.inputs import complete_inputs, known_inputs
from daemon.core.memory import Condition, Memory, Window
from daemon.core.rules import Mode, OnUnknown, Rule, RuleSet
from daemon.core.verdicts import Clause, Decided, Decision, Due, Firing, Remembered, Verdict, World

LONGEST_CHAIN = 8
"""Runs that may cause one another in a row; beyond it the firing is suppressed as a loop."""

ASK_AGAIN = timedelta(minutes=5)
"""A rule that waits for a time, and may not fire when it has come (paused, target busy), is asked again at the next
multiple of this."""

CATCH_UP = timedelta(minutes=1)
"""After a start silence proves nothing for so long: the sources still bring what came while nobody listened."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

OWN_ALLOWED = frozenset({"run.finished"})
"""Event types that only ever come from our own runs: listening to them is asking for one's own events."""


class _Told(NamedTuple):
    """What one rule is asked about: the event, when it was recorded, and what it meant."""

    rule: Rule
    key: str
    event: Event
    now: datetime
    truth: Truth
    clauses: tuple[Clause, ...]
    reason: str
    values: Activation
    world: World


def decide(rules: RuleSet, remembered: Remembered, recorded: Recorded, world: World) -> Decided:
    """Ask every rule that the event concerns."""
    event, now = recorded.event, recorded.at
    if event.type == "timer.due":
        return _timer(rules, remembered, recorded, world)
    world = world_after(world, recorded)
    if event.type == "rules.loaded":
        return _armed(rules, remembered, now, world)
    candidates = rules.candidates(event.type, event.subject)
    if not candidates:
        return Decided((), {}, (), world)
    one = len(candidates) == 1
    reads = candidates[0].reads if one else frozenset[str]().union(*(rule.reads for rule in candidates))
    values = activation(event, reads)
    decisions: list[Decision] = []
    changed: dict[tuple[str, str], Memory] = {}
    dues: list[Due] = []
    for rule in candidates:
        key = key_of(rule, event)
        memory = (remembered(rule.name, key) or Memory(rule.semantics)).under(rule.semantics)
        told = _asked(rule, key, recorded, values, world)
        decision, after, wishes = _one(told, memory)
        decisions.append(decision)
        if after is not memory and after != memory:
            changed[rule.name, key] = after
        dues.extend(wishes)
        if rule.absent is not None and after.condition.seen == now:
            changed.update(_heard(rule, key, remembered))
    return Decided(tuple(decisions), changed, tuple(dues), world)


def key_of(rule: Rule, event: Event) -> str:
    """The memory key of an event under a rule: monitor, model and segment where it has them, and `for_each` fields."""
    data = event.data
    measured = "monitor" in data
    parts = [str(data["monitor"]), str(data["model"]), str(data["segment"])] if measured else [event.subject]
    for name in rule.for_each:
        value: Any = data
        for part in name.removeprefix("event.").split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        parts.append("" if value is None else str(value))
    return "|".join(parts)


def world_after(world: World, recorded: Recorded) -> World:
    """What all rules share, after an event: an operator paused or resumed, the daemon started."""
    event = recorded.event
    if event.type == "rules.loaded":
        return replace(world, started=recorded.at) if event.data.get("started") is True else world
    if event.type != "control.changed":
        return world
    verb, target = event.data.get("verb"), event.data.get("target")
    return world if target or verb not in {"pause", "resume"} else replace(world, paused=verb == "pause")


def _asked(rule: Rule, key: str, recorded: Recorded, values: Activation, world: World) -> _Told:
    clauses: list[Clause] = []
    truth, reason = Truth.TRUE, ""
    for condition in rule.when:
        result = condition.evaluate(values)
        clauses.append(Clause(condition.text, result.truth.value, result.reason))
        if result.truth is Truth.FALSE:
            truth, reason = Truth.FALSE, ""
        elif result.truth is Truth.UNKNOWN and truth is Truth.TRUE:
            truth, reason = Truth.UNKNOWN, result.reason
    return _Told(rule, key, recorded.event, recorded.at, truth, tuple(clauses), reason, values, world)


def _one(told: _Told, memory: Memory) -> tuple[Decision, Memory, tuple[Due, ...]]:
    """One rung of the ladder after the other."""
    rule, window = told.rule, _window(told.event)
    ignored = _ignored(told, window, memory.condition)
    if ignored is not None:
        return ignored, memory, ()
    if told.truth is Truth.UNKNOWN and rule.on_unknown is not OnUnknown.ACT:
        return _unknown(told, memory)
    holds = told.truth is not Truth.FALSE
    condition = memory.condition
    if condition.unknown_since is not None:
        condition = replace(condition, unknown_since=None, unknown_told=False)
    if rule.absent is not None:
        return _seen(told, replace(memory, condition=condition), holds)
    cleared = condition.episode is not None and _ends_episode(told, holds)
    if cleared:
        condition = remembering.rearmed(condition)
    condition = _counted(told, condition, window, holds)
    if condition is not memory.condition:
        memory = Memory(memory.semantics, condition, memory.fired)
    if cleared and not holds:
        return _decision(told, Verdict.CLEARED, "the episode has ended"), memory, ()
    if not holds and not (rule.hold and rule.hold.windows) and not rule.count:
        return _decision(told, Verdict.NOT_MET, "the condition does not hold"), memory, ()
    enough, why, wish = _enough(told, condition)
    if not enough:
        verdict = Verdict.HELD if holds else Verdict.NOT_MET
        return _decision(told, verdict, why), memory, (wish,) if wish else ()
    if not holds:
        return _decision(told, Verdict.NOT_MET, "the condition does not hold in this window"), memory, ()
    return _fire(told, memory, why)


def _ignored(told: _Told, window: Window | None, condition: Condition) -> Decision | None:
    """The rungs on which an event does not count at all."""
    rule, event = told.rule, told.event
    if event.chain and not rule.include_own and event.type not in OWN_ALLOWED and event.subject == rule.model:
        return _decision(told, Verdict.OWN, "a run on this model caused the event")
    if len(event.chain) > LONGEST_CHAIN:
        return _decision(told, Verdict.LOOP, f"{len(event.chain)} runs caused one another in a row")
    if window is not None and condition.windows and window.last <= condition.windows[-1].last:
        return _decision(told, Verdict.REPEATED, f"window up to row {window.last} was counted before")
    return None


def _unknown(told: _Told, memory: Memory) -> tuple[Decision, Memory, tuple[Due, ...]]:
    rule, now = told.rule, told.now
    condition, why = memory.condition, told.reason
    since = condition.unknown_since or now
    notify = (
        rule.on_unknown is OnUnknown.NOTIFY
        and not condition.unknown_told
        and not told.world.paused
        and rule.mode is not Mode.OBSERVE
    )
    firing = None
    if notify and rule.on_failure:
        firing = Firing((), known_inputs(rule.on_failure, told.values, condition.since_start), told.event, notice=True)
    if now - since >= rule.stale_after:
        why = f"unknown for {write_duration(now - since)}: what was known before is stale ({told.reason})"
        known = remembering.rearmed(condition)
    else:
        known = condition
    after = replace(known, unknown_since=since, unknown_told=condition.unknown_told or notify)
    return _decision(told, Verdict.UNKNOWN, why, firing), Memory(memory.semantics, after, memory.fired), ()


def _ends_episode(told: _Told, holds: bool) -> bool:
    if told.rule.clear is None:
        return not holds
    return told.rule.clear.evaluate(told.values).truth is Truth.TRUE


def _counted(told: _Told, condition: Condition, window: Window | None, holds: bool) -> Condition:
    """The condition memory after this event: streak, windows and hits."""
    rule, now = told.rule, told.now
    in_windows = rule.hold is not None and rule.hold.windows is not None
    # Where windows are not counted, only one in which it held could do harm when it is told again.
    if window is not None and (holds or in_windows):
        condition = remembering.with_window(condition, Window(window.last, holds, window.start), rule.hold)
    if rule.count is not None:
        counted = remembering.with_hit if holds else remembering.without_old_hits
        condition = counted(condition, now, rule.count)
    timed = rule.hold is not None and rule.hold.duration is not None
    if not holds:
        start = _streak_start(condition) if in_windows else ""
        if condition.since is None and condition.since_start == start:
            return condition
        return replace(condition, since=None, since_start=start, latest=None)
    first = condition.since is None
    if not first and not in_windows and not timed:
        return condition
    start = condition.since_start
    if in_windows:
        start = _streak_start(condition)
    elif first:
        start = window.start if window else told.event.time.isoformat()
    since = now if first else condition.since
    return replace(condition, since=since, since_start=start, latest=event_json(told.event) if timed else None)


def _streak_start(condition: Condition) -> str:
    """Event time of the oldest window in the ring that held: where the change began."""
    return next((window.start for window in condition.windows if window.held), "")


def _enough(told: _Told, condition: Condition) -> tuple[bool, str, Due | None]:
    """Whether it held long enough, in enough windows, or often enough; else why not, and when to ask again."""
    rule, now = told.rule, told.now
    if rule.count is not None:
        hits = len(condition.hits)
        why = f"{hits} of {rule.count.hits} times within {write_duration(rule.count.within)}"
        return hits >= rule.count.hits, why, None
    if rule.hold is None:
        return True, "the condition holds", None
    if rule.hold.windows is not None:
        held = sum(window.held for window in condition.windows)
        return held >= rule.hold.hits, f"{held} of the last {rule.hold.windows} windows (asked: {rule.hold.hits})", None
    duration = rule.hold.duration
    if duration is None or condition.since is None:
        return False, "the condition does not hold", None
    since = condition.since
    if now - since >= duration:
        return True, f"it has held for {write_duration(now - since)}", None
    wish = Due(since + duration, rule.name, told.key, "for")
    return False, f"it has held for {write_duration(now - since)} of {write_duration(duration)}", wish


def _fire(told: _Told, memory: Memory, why: str) -> tuple[Decision, Memory, tuple[Due, ...]]:
    """The condition is met; whether the rule may fire now."""
    rule, now = told.rule, told.now
    before = memory.condition.episode
    timed = bool(rule.hold and rule.hold.duration) or rule.absent is not None
    again = Due(_later(now), rule.name, told.key, "again") if timed else None
    if before is not None:
        if rule.repeat is None:
            return _decision(told, Verdict.EPISODE, "it has fired in this episode"), memory, ()
        if now - before < rule.repeat:
            return _decision(told, Verdict.EPISODE, f"it repeats after {write_duration(rule.repeat)}"), memory, ()
    cooled = remembering.cooled_at(memory, rule.cooldown)
    if cooled is not None and now < cooled:
        dues = (Due(cooled, rule.name, told.key, "cooldown"),) if timed else ()
        return _decision(told, Verdict.COOLDOWN, f"in cooldown until {cooled.isoformat()}"), memory, dues
    limited = remembering.limited_until(memory, rule.limit, now)
    if limited is not None:
        dues = (Due(limited, rule.name, told.key, "cooldown"),) if timed else ()
        return _decision(told, Verdict.LIMIT, f"its limit is used up until {limited.isoformat()}"), memory, dues
    if told.world.paused and rule.mode is not Mode.OBSERVE:
        return _decision(told, Verdict.PAUSED, "driftd is paused"), memory, (again,) if again else ()
    steps, missing = complete_inputs(rule.steps, told.values, memory.condition.since_start)
    if missing:
        return _decision(told, Verdict.UNKNOWN, missing), memory, ()
    after = memory.with_firing(now, rule.limit, lasting=rule.lasting)
    repeats = (Due(now + rule.repeat, rule.name, told.key, "repeat"),) if rule.repeat and timed else ()
    if rule.mode is Mode.OBSERVE:
        return _decision(told, Verdict.OBSERVED, why), after, repeats
    firing = Firing(steps, known_inputs(rule.on_failure, told.values, memory.condition.since_start), told.event)
    return _decision(told, Verdict.FIRED, why, firing, memory, again), after, repeats


def _later(now: datetime) -> datetime:
    """The next of the times at which rules are asked again: the same for all events until then, so one due time serves."""
    return now + ASK_AGAIN - (now - _EPOCH) % ASK_AGAIN


def _seen(told: _Told, memory: Memory, holds: bool) -> tuple[Decision, Memory, tuple[Due, ...]]:
    """The event that an `absent` rule waits for: silence starts over."""
    rule, now = told.rule, told.now
    if not holds or rule.absent is None:
        return _decision(told, Verdict.NOT_MET, "the event does not count"), memory, ()
    condition = memory.condition
    verdict = Verdict.CLEARED if condition.episode is not None else Verdict.NOT_MET
    # The due time that is set already will see that this came, and set the next: not one due time per event.
    waiting = condition.asked is not None and condition.asked > now
    asked = condition.asked if waiting else now + rule.absent
    after = replace(memory, condition=Condition(seen=now, asked=asked, latest=event_json(told.event)))
    wishes = () if waiting else (Due(now + rule.absent, rule.name, told.key, "absent"),)
    return _decision(told, verdict, "it came"), after, wishes


def _heard(rule: Rule, key: str, remembered: Remembered) -> dict[tuple[str, str], Memory]:
    """Something came under a key of its own: the wait that began with the loading of the rule is over for good."""
    armed = _armed_key(rule)
    memory = remembered(rule.name, armed) if armed != key else None
    if memory is None or memory.condition.seen is None or memory.semantics != rule.semantics:
        return {}
    return {(rule.name, armed): Memory(memory.semantics, Condition(), memory.fired)}


def _timer(rules: RuleSet, remembered: Remembered, recorded: Recorded, world: World) -> Decided:
    """A due time that a rule asked for: `for` has elapsed, silence has lasted, or a cooldown has ended."""
    data, now = recorded.event.data, recorded.at
    rule = rules.by_name.get(data["rule"])
    nothing = Decided((), {}, (), world)
    if rule is None:
        return nothing
    key = data["key"]
    stored = remembered(rule.name, key)
    if stored is None or stored.semantics != rule.semantics:
        return nothing
    condition = stored.condition
    if rule.absent is not None:
        return _silence(rule, stored, recorded, world, key)
    duration = rule.hold.duration if rule.hold else None
    if duration is None or condition.since is None or condition.latest is None or now - condition.since < duration:
        return nothing
    event = event_from_json(condition.latest)
    values = activation(event, rule.reads)
    quiet = condition.unknown_since
    told = _Told(rule, key, event, now, Truth.TRUE, (), "", values, world)
    if quiet is not None and now - quiet >= rule.stale_after:
        stale = replace(remembering.rearmed(condition), unknown_since=quiet, unknown_told=condition.unknown_told)
        after = replace(stored, condition=stale)
        return Decided(
            (_decision(told, Verdict.UNKNOWN, "what was known before is stale"),), {(rule.name, key): after}, (), world
        )
    decision, after, dues = _fire(told, stored, f"it has held for {write_duration(now - condition.since)}")
    return Decided((decision,), {(rule.name, key): after}, dues, world)


def _silence(rule: Rule, memory: Memory, recorded: Recorded, world: World, key: str) -> Decided:
    """The time that an `absent` rule waits for has come; whether it was silent until now."""
    now, condition, absent = recorded.at, memory.condition, rule.absent
    if condition.seen is None or absent is None or (condition.asked is not None and condition.asked > now):
        return Decided((), {}, (), world)
    until = condition.seen + absent
    if world.started is not None:
        until = max(until, world.started + CATCH_UP)
    if now < until:
        waiting = replace(memory, condition=replace(condition, asked=until))
        return Decided((), {(rule.name, key): waiting}, (Due(until, rule.name, key, "absent"),), world)
    event = event_from_json(condition.latest) if condition.latest else recorded.event
    told = _Told(rule, key, event, now, Truth.TRUE, (), "", activation(event, rule.reads), world)
    asked = replace(memory, condition=replace(condition, asked=None))
    decision, after, dues = _fire(told, asked, f"nothing came for {write_duration(now - condition.seen)}")
    return Decided((decision,), {(rule.name, key): after}, dues, world)


def _armed(rules: RuleSet, remembered: Remembered, now: datetime, world: World) -> Decided:
    """Rules were loaded: silence counts from now for those that wait for something that never came."""
    changed: dict[tuple[str, str], Memory] = {}
    dues: list[Due] = []
    for rule in rules.rules:
        if rule.absent is None:
            continue
        key = _armed_key(rule)
        memory = remembered(rule.name, key)
        if memory is not None and memory.semantics == rule.semantics:
            continue
        fired = memory.fired if memory else ()
        until = now + rule.absent
        changed[rule.name, key] = Memory(rule.semantics, Condition(seen=now, asked=until), fired)
        dues.append(Due(until, rule.name, key, "absent"))
    return Decided((), changed, tuple(dues), world)


def _armed_key(rule: Rule) -> str:
    """The memory key of an `absent` rule before anything has come."""
    return rule.subject or rule.model


def _window(event: Event) -> Window | None:
    window = event.data.get("window")
    if window is None:
        return None
    last, start = (window.get("last"), window.get("start")) if isinstance(window, Mapping) else (None, None)
    if not isinstance(last, int) or not isinstance(start, str):
        raise BadInput(f"{event.type} from {event.source}: its window does not say where it starts and ends")
    return Window(last, held=False, start=start)


def _decision(
    told: _Told,
    verdict: Verdict,
    why: str,
    firing: Firing | None = None,
    otherwise: Memory | None = None,
    again: Due | None = None,
) -> Decision:
    rule = told.rule
    return Decision(
        rule.name, rule.revision, told.key, rule.model, verdict, why, told.clauses, firing, otherwise, again
    )  # fmt: skip
