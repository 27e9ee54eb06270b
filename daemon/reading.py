"""Reading the store: what the command line and the pages ask. Nothing here writes.

Lists come newest first, unless they say otherwise. Names that a person typed may be a beginning of the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson

from daemon.core.audit import GENESIS, AuditRecord
from daemon.core.errors import AuditBroken, NotFound
from daemon.core.memory import Memory, from_storage
from daemon.core.runs import Run
from daemon.store.base import Row, Session
from daemon.store.rows import (
    StoredCall,
    StoredDecision,
    StoredEvent,
    call_of,
    decision_of,
    event_of,
    moment,
    run_of,
)

CHUNK = 2000
"""Audit records read at once."""
NEVER_ENDS = 2**62
"""A place after all others."""


class Readable(Protocol):
    """A store, for those who only read."""

    def read(self) -> AbstractContextManager[Session]:
        """A consistent view."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One audit record; `body` is what its hash covers."""

    seq: int
    kind: str
    ref: str
    """The run that it is about; empty when it is about none."""
    body: bytes
    hash: str

    @property
    def content(self) -> dict[str, Any]:
        """The body as JSON values."""
        content: dict[str, Any] = orjson.loads(self.body)
        return content


@dataclass(frozen=True, slots=True)
class StoredProblem:
    """A problem, and how often it was met."""

    kind: str
    where: str
    reason: str
    dead_letter: str
    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Barred:
    """A version in quarantine, or released from it."""

    model: str
    created: str
    """Creation time of the registered model; empty means any."""
    version: str
    digest: str
    at: datetime
    run: str
    """The run that rejected it; empty when a person did."""
    reason: str
    released: str
    """Who released it and why; empty while it is barred."""


@dataclass(frozen=True, slots=True)
class StoredTimer:
    """A due time that a rule has asked for."""

    due: datetime
    key: str
    why: str


def events(session: Session, kind: str = "", subject: str = "", limit: int = 50) -> list[StoredEvent]:
    """The newest events, of one type or about one subject when that is said."""
    return [event_of(row) for row in session.rows("events_newest", kind, subject, limit)]


def event(session: Session, seq: int) -> StoredEvent:
    """One event; NotFound when there is none."""
    rows = session.rows("event", seq)
    if not rows:
        raise NotFound(f"there is no event {seq}")
    return event_of(rows[0])


def events_between(session: Session, kind: str, subject: str, after: int, until: int) -> Iterator[StoredEvent]:
    """All events of a type about a subject with `after < seq <= until`, oldest first."""
    while rows := session.rows("events_of", kind, subject, after, CHUNK):
        for row in rows:
            if row[0] > until:
                return
            yield event_of(row)
        after = rows[-1][0]


def decisions(session: Session, rule: str = "", verdict: str = "", limit: int = 50) -> list[StoredDecision]:
    """The newest decisions, of one rule or with one verdict when that is said."""
    return [decision_of(row) for row in session.rows("decisions_newest", rule, verdict, limit)]


def decision(session: Session, seq: int) -> StoredDecision:
    """One decision; NotFound when there is none."""
    rows = session.rows("decision", seq)
    if not rows:
        raise NotFound(f"there is no decision {seq}")
    return decision_of(rows[0])


def decisions_of_event(session: Session, seq: int) -> list[StoredDecision]:
    """What each concerned rule made of an event, in the order of deciding."""
    return [decision_of(row) for row in session.rows("decisions_of_event", seq)]


def decisions_of_key(
    session: Session, rule: str, key: str, until: int = NEVER_ENDS, limit: int = 1000
) -> list[StoredDecision]:
    """The decisions of a rule for one key up to and with decision `until`."""
    return [decision_of(row) for row in session.rows("decisions_of_key", rule, key, until, limit)]


def rule_memory(session: Session, rule: str) -> dict[str, Memory]:
    """What a rule remembers now, by key."""
    return {key: from_storage(orjson.loads(state)) for key, state in session.rows("memory_of_rule", rule)}


def rule_timers(session: Session, rule: str) -> list[StoredTimer]:
    """When a rule is asked again, soonest first."""
    return [StoredTimer(moment(due), key, why) for due, key, why in session.rows("timers_of_rule", rule)]


def rule_files(session: Session, revision: str) -> dict[str, str]:
    """The rule files of a revision as they were loaded; empty when they are not stored."""
    rows = session.rows("ruleset", revision)
    return dict(orjson.loads(rows[0][0])) if rows else {}


def runs(session: Session, limit: int = 50) -> list[Run]:
    """The newest runs."""
    return [run_of(row) for row in session.rows("runs_newest", limit)]


def live_runs(session: Session) -> list[Run]:
    """All runs that have not ended, oldest first."""
    return [run_of(row) for row in session.rows("live_runs")]


def run(session: Session, name: str) -> Run:
    """The run whose id begins so; NotFound when there is none, or more than one."""
    rows: list[Row] = session.rows("runs_like", name) if name and name.isalnum() else []
    if not rows:
        raise NotFound(f"there is no run {name}")
    if len(rows) > 1:
        raise NotFound(f"more than one run begins with {name}")
    return run_of(rows[0])


def calls(session: Session, run_id: str) -> list[StoredCall]:
    """The calls of a run, by step."""
    return [call_of(row) for row in session.rows("calls_of_run", run_id)]


def locks(session: Session) -> dict[str, str]:
    """Target -> the run that holds it."""
    return dict(session.rows("locks"))


def audit(session: Session, kind: str = "", limit: int = 50) -> list[StoredRecord]:
    """The newest audit records, of one kind when that is said."""
    return [_record(row) for row in session.rows("audit_newest", kind, limit)]


def audit_of(session: Session, ref: str) -> list[StoredRecord]:
    """All audit records about a run, oldest first."""
    return [_record(row) for row in session.rows("audit_of", ref)]


def audit_records(store: Readable, after: int = 0) -> Iterator[StoredRecord]:
    """All audit records, oldest first, never more than a few thousand in memory."""
    while True:
        with store.read() as session:
            rows = session.rows("audit_after", after, CHUNK)
        if not rows:
            return
        yield from (_record(row) for row in rows)
        after = rows[-1][0]


def audit_chain(store: Readable) -> Iterator[AuditRecord]:
    """The chain for `core.audit.verify`. AuditBroken when what a record is filed under is not what its body says."""
    previous = GENESIS
    for record in audit_records(store):
        try:
            content = orjson.loads(record.body)
        except orjson.JSONDecodeError:
            raise AuditBroken(record.seq, "its body is no JSON any more") from None
        yield AuditRecord(record.seq, record.body, previous, record.hash)
        if (content.get("kind"), content.get("ref")) != (record.kind, record.ref):
            raise AuditBroken(record.seq, "it is filed under another kind or run than its body says")
        previous = record.hash


def problems(session: Session, limit: int = 50) -> list[StoredProblem]:
    """The problems met last."""
    return [
        StoredProblem(kind, place, reason, letter, moment(first), moment(last), count)
        for kind, place, reason, letter, first, last, count in session.rows("problems", limit)
    ]


def quarantine(session: Session) -> list[Barred]:
    """All versions that are or were barred, oldest first."""
    return [
        Barred(model, created, version, digest, moment(at), run_id, reason, released or "")
        for model, created, version, digest, at, run_id, reason, released in session.rows("quarantine")
    ]


def paused(session: Session) -> bool:
    """Whether an operator has paused all rules."""
    rows = session.rows("meta", "paused")
    return bool(rows and rows[0][0] == "yes")


def _record(row: Row) -> StoredRecord:
    seq, kind, ref, body, hash_ = row
    return StoredRecord(seq, kind, ref, body.encode(), hash_)
