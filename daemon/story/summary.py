"""What the story has shown, at its end."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from daemon.core.audit import verify
from daemon.reading import audit_chain
from daemon.store.sqlite import SqliteStore
from daemon.story.acts import CHANGE, Seen
from daemon.story.onkafka import PARTITIONS
from daemon.story.stage import Stage


def show(stage: Stage, seen: Seen, seconds: float) -> None:
    """Print what was detected, the runs with their steps, the state of the audit chain, and where the evidence lies."""
    console = Console(soft_wrap=True, highlight=False)
    home = stage.config.home
    console.rule("What happened")
    console.print(
        f"The applicants change at row {CHANGE}. The rule fired after row {seen.fired_at_row} "
        f"({seen.fired_at_row - CHANGE} rows later; event time {seen.fired_at})."
    )
    for expected, run in seen.runs:
        table = Table(
            title=f"run {run.id[:12]} of {run.rule}: {run.state.value} (expected: {expected})", title_justify="left"
        )
        for column in ("at", "signal", "state", "note"):
            table.add_column(column, overflow="fold")
        for move in run.moves:
            table.add_row(move.at.strftime("%H:%M:%S"), move.signal, move.state, move.note)
        console.print(table)
        facts = {name: run.given[name] for name in ("version", "stable", "rows", "verified") if name in run.given}
        console.print(f"  why: {run.why or 'all steps done'}; facts: {facts}; evidence: {home / 'evidence' / run.id}")
    store = SqliteStore(home / stage.config.store.path)
    try:
        head = verify(audit_chain(store))
    finally:
        store.close()
    console.print(f"Audit chain verified; head {head[:16]}…, exported heads in {home / 'audit' / 'heads.jsonl'}")
    if stage.broker is not None and seen.log is not None:
        topics = ", ".join(f"{name} {records:,}" for name, records in seen.log.sent.items())
        console.print(
            f"Kafka broker {stage.broker.address}, topics of {PARTITIONS} partitions; records sent: {topics}; "
            f"read: {sum(seen.log.sent.values()) - seen.log.lag:,}; lag at the end: {seen.log.lag}"
        )
    console.print(f"Look around: {stage.at_home} .venv/bin/driftd runs | explain | audit verify")
    console.print(f"The story took {seconds:.0f} s.")
