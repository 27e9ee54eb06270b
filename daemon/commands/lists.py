"""Lists of what is stored: events, decisions, problems."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daemon import reading
from daemon.commands.printing import AsJson, Limit, brief, print_json, print_table, when
from daemon.commands.printing import as_json as fields_of
from daemon.commands.workplace import workplace
from daemon.core.events import event_json
from daemon.store.rows import StoredEvent


def events(
    context: typer.Context,
    kind: Annotated[str, typer.Option("--type", help="Only this event type.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only about this model, source or schedule.")] = "",
    limit: Limit = 30,
    as_json: AsJson = False,
) -> None:
    """The newest events, the newest first."""
    with workplace(context).reading() as session:
        found = reading.events(session, kind, subject, limit)
    if as_json:
        print_json([stored_event(event) for event in found])
        return
    print_table(
        ("seq", "recorded", "type", "subject", "source", "data"),
        ((e.recorded.seq, when(e.recorded.at), e.recorded.event.type, e.recorded.event.subject,
          e.recorded.event.source, _told(e)) for e in found),
        "No such events.",
    )  # fmt: skip


def decisions(
    context: typer.Context,
    rule: Annotated[str, typer.Option("--rule", help="Only of this rule.")] = "",
    verdict: Annotated[str, typer.Option("--verdict", help="Only these, e.g. `fired` or `not met`.")] = "",
    limit: Limit = 30,
    as_json: AsJson = False,
) -> None:
    """The newest decisions, the newest first. `driftd explain SEQ` says more of one."""
    with workplace(context).reading() as session:
        found = reading.decisions(session, rule, verdict, limit)
    if as_json:
        print_json([fields_of(decision) for decision in found])
        return
    print_table(
        ("seq", "event", "rule", "key", "verdict", "run", "why"),
        ((d.seq, d.event, d.rule, d.key, d.verdict, d.run[:8],
          f"{d.admission}; {d.why}" if d.admission else d.why) for d in found),
        "No such decisions.",
    )  # fmt: skip


def problems(context: typer.Context, limit: Limit = 30, as_json: AsJson = False) -> None:
    """What came in and could not be used, met last first; nothing is dropped silently."""
    with workplace(context).reading() as session:
        found = reading.problems(session, limit)
    if as_json:
        print_json([fields_of(problem) for problem in found])
        return
    print_table(
        ("last", "times", "kind", "where", "reason"),
        ((when(p.last), p.count, p.kind, p.where,
          f"{p.reason} [kept in {p.dead_letter}]" if p.dead_letter else p.reason) for p in found),
        "No problems.",
    )  # fmt: skip


def stored_event(stored: StoredEvent) -> dict[str, Any]:
    """An event with its place, as JSON values."""
    recorded = stored.recorded
    return {
        "seq": recorded.seq, "at": recorded.at.isoformat(), **event_json(recorded.event), "undecidable": stored.undecidable,
    }  # fmt: skip


def _told(stored: StoredEvent) -> str:
    if stored.undecidable:
        return f"undecidable: {stored.undecidable}"
    plain = {name: value for name, value in stored.recorded.event.data.items() if not isinstance(value, dict | list)}
    return brief(plain, 120)
