"""`driftd explain`: why a rule did what it did, or did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from daemon import reading
from daemon.commands.lists import stored_event
from daemon.commands.printing import AsJson, brief, print_json, print_line, when
from daemon.commands.printing import as_json as fields_of
from daemon.commands.workplace import Workplace, workplace
from daemon.core.errors import NotFound
from daemon.core.events import Event, event_json
from daemon.explaining import Explanation, Read, WhyNot, memory_lines
from daemon.explaining import explain as explained
from daemon.explaining import why_not as missed
from daemon.freezes import calendar
from daemon.recalling import Parse, RulesThen, rule_at
from daemon.rulefiles import RuleFolder
from daemon.store.base import Session
from daemon.verbs import load_verbs

_MARKS = {"true": "yes", "false": "no ", "unknown": "?  "}


def explain(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(metavar="DECISION|event:SEQ|RULE", help="A decision's number, an event's, or a rule's name."),
    ],
    key: Annotated[str, typer.Option("--key", help="Of a rule: only for this key (monitor|model|segment).")] = "",
    why_not: Annotated[bool, typer.Option("--why-not", help="Of a rule: why it has not fired lately.")] = False,
    as_json: AsJson = False,
) -> None:
    """Clause by clause: text, truth, values, what was remembered, and what blocked; of what did not fire, too."""
    place = workplace(context)
    parse = parser(place)
    kind, _, number = what.rpartition(":")
    with place.reading() as session:
        if number.isdigit() and kind in {"", "decision"} and not why_not:
            _show([explained(session, parse, reading.decision(session, int(number)))], as_json)
        elif number.isdigit() and kind == "event":
            _event(session, parse, int(number), as_json)
        elif why_not:
            _must_exist(session, what)
            frozen = calendar(place.config.freeze)(datetime.now(UTC))
            _why_not(missed(session, parse, what, key), frozen.why if frozen else "", as_json)
        else:
            _rule(session, parse, what, key, as_json)


def parser(place: Workplace) -> Parse:
    """Reads stored rule files as the daemon would."""
    folder = RuleFolder(place.config, {name: loaded.verb for name, loaded in load_verbs().items()})
    return lambda files: folder.parse(files).rules


def explanation_json(one: Explanation) -> dict[str, Any]:
    """An explanation as JSON values."""
    return {
        "decision": fields_of(one.decision),
        "event": stored_event(one.event),
        "subject": event_json(one.subject),
        "clauses": [read_json(read) for read in one.clauses],
        "clear": read_json(one.clear) if one.clear else None,
        "memory": {"before": dict(one.before), "after": dict(one.after), "note": one.note},
        "rule": {"text": one.rule.text, "owner": one.rule.owner, "revision": one.rule.revision} if one.rule else None,
        "run": (
            {"id": one.run.id, "state": one.run.state.value, "why": one.run.why, "held": one.run.held}
            if one.run
            else None
        ),
    }


def read_json(read: Read) -> dict[str, Any]:
    """A clause as JSON values."""
    return {
        "text": read.text, "truth": read.truth, "reason": read.reason,
        "values": {operand.text: operand.value for operand in read.operands}, "shortfall": list(read.shortfall),
    }  # fmt: skip


def print_clauses(clauses: Sequence[Read]) -> None:
    """Clauses, a line each, with the values under them."""
    for read in clauses:
        print_line(f"  {_MARKS.get(read.truth, read.truth)}  {read.text}")
        if read.truth == "unknown":
            print_line(f"         unknown: {read.reason}")
        elif read.shortfall:
            _print_each(read.shortfall)
        else:
            _print_each(f"{operand.text} = {brief(operand.value, 80)}" for operand in read.operands[:8])


def _print_each(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(f"         {line}")


def _show(found: Sequence[Explanation], as_json: bool) -> None:
    if as_json:
        print_json([explanation_json(one) for one in found] if len(found) != 1 else explanation_json(found[0]))
        return
    for position, one in enumerate(found):
        if position:
            print_line()
        _print(one)


def _print(one: Explanation) -> None:
    decision, event = one.decision, one.event.recorded
    print_line(
        f"decision {decision.seq}: rule {decision.rule} (revision {decision.revision}), key {decision.key or '-'}"
    )
    print_line(f"on event {event.seq}: {_named(event.event)}, recorded {when(event.at)}")
    if one.subject is not event.event:
        print_line(f"which stands for: {_named(one.subject)} of {when(one.subject.time)}")
    print_line(f"verdict: {decision.verdict}: {decision.why}")
    if decision.admission:
        print_line(f"admission: {decision.admission}")
    if one.run is not None and one.run.held and not one.run.ended:
        print_line(f"run {one.run.id[:8]}: held ({one.run.held}): {one.run.why}; `driftd approve {one.run.id[:8]}`")
    elif one.run is not None:
        print_line(f"run {one.run.id[:8]}: {one.run.state.value}" + (f", {one.run.why}" if one.run.why else ""))
    print_line("clauses, all of which must hold:" if one.clauses else "no clauses: every such event counts")
    print_clauses(one.clauses)
    if one.clear is not None:
        print_line("the episode ends when:")
        print_clauses([one.clear])
    _print_memory("remembered before:", one.before)
    if one.after != one.before:
        _print_memory("remembered after:", one.after)
    if one.note:
        print_line(f"note: {one.note}")


def _print_memory(title: str, lines: Sequence[tuple[str, str]]) -> None:
    print_line(title if lines else f"{title} nothing")
    for what, how in lines:
        print_line(f"  {what:<14} {how}")


def _named(event: Event) -> str:
    return f"{event.type}" + (f" about {event.subject}" if event.subject else "") + f" from {event.source}"


def _event(session: Session, parse: Parse, seq: int, as_json: bool) -> None:
    event = reading.event(session, seq)
    found = [explained(session, parse, decision) for decision in reading.decisions_of_event(session, seq)]
    if as_json:
        print_json({"event": stored_event(event), "decisions": [explanation_json(one) for one in found]})
        return
    if event.undecidable:
        print_line(f"event {seq}, {_named(event.recorded.event)}, could not be decided: {event.undecidable}")
    elif not found:
        print_line(f"event {seq}, {_named(event.recorded.event)}, concerned no rule.")
    else:
        _show(found, as_json=False)


def _must_exist(session: Session, rule: str) -> None:
    """A rule that never decided anything may still be known: by its memory, or by its text."""
    if reading.decisions(session, rule, "", 1) or reading.rule_memory(session, rule):
        return
    loaded = reading.events(session, "rules.loaded", "", 1)
    texts = reading.rule_files(session, str(loaded[0].recorded.event.data["revision"])) if loaded else {}
    if not any(rule in text for text in texts.values()):
        raise NotFound(f"there is no rule, decision or event {rule!r}")


def _rule(session: Session, parse: Parse, name: str, key: str, as_json: bool) -> None:
    """What a rule remembers now, when it is asked again, and its last decision per key."""
    _must_exist(session, name)
    memory = reading.rule_memory(session, name)
    rule = rule_at(session, RulesThen(session, parse), name, reading.NEVER_ENDS)
    timers = reading.rule_timers(session, name)
    recent = {decision.key: decision for decision in reversed(reading.decisions(session, name, "", 1000))}
    keys = [key] if key else sorted({*memory, *recent})
    if key and key not in {*memory, *recent}:
        raise NotFound(f"rule {name} has no key {key!r}; it has {', '.join(sorted({*memory, *recent})) or 'none'}")
    now = datetime.now(UTC)
    lines = {one: memory_lines(memory.get(one), rule, now) for one in keys}
    latest = {one: explained(session, parse, recent[one]) for one in keys if one in recent}
    if as_json:
        print_json({
            "rule": name, "text": rule.text if rule else None,
            "keys": {
                one: {
                    "memory": dict(lines[one]),
                    "due": [{"at": t.due.isoformat(), "why": t.why} for t in timers if t.key == one],
                    "latest": explanation_json(latest[one]) if one in latest else None,
                }
                for one in keys
            },
        })  # fmt: skip
        return
    print_line(rule.text.rstrip() if rule else f"rule {name} is not in force")
    for one in keys:
        print_line()
        print_line(f"key {one or '-'}")
        _print_memory("remembers now:", lines[one])
        for timer in timers:
            if timer.key == one:
                print_line(f"  asked again    {when(timer.due)} ({timer.why})")
        if one in latest:
            _print(latest[one])


def _why_not(found: WhyNot, frozen: str, as_json: bool) -> None:
    if as_json:
        print_json({
            "rule": found.rule, "paused": found.paused, "frozen": frozen, "held": list(found.held), "verdicts": dict(found.verdicts),
            "last_fired": fields_of(found.last_fired) if found.last_fired else None,
            "nearest_miss": explanation_json(found.nearest) if found.nearest else None,
        })  # fmt: skip
        return
    told = ", ".join(
        f"{count} {verdict}" for verdict, count in sorted(found.verdicts.items(), key=lambda item: -item[1])
    )
    print_line(f"rule {found.rule}: of its last decisions {told or 'there are none: no event has concerned it'}")
    if found.paused:
        print_line("driftd is paused: no rule starts a run (`driftd resume`)")
    if frozen:
        print_line(f"{frozen}: what changes it waits, or is not started")
    for run in found.held:
        print_line(f"run {run[:8]} is held before its start (`driftd runs show {run[:8]}`)")
    if found.last_fired is not None:
        fired = found.last_fired
        print_line(f"it fired last with decision {fired.seq} (event {fired.event}), run {fired.run[:8]}")
    if found.nearest is not None:
        print_line("nearest miss:")
        _print(found.nearest)
