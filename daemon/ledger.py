"""What one transaction of the writer does: events in, decisions, memory, timers and audit out.

A `Ledger` lives as long as one transaction. It reads the writer's `Standing` (counters, the audit head, all rule memory)
and collects what changes; after COMMIT the writer puts `Ledger.standing()` in the old one's place. If the transaction is
rolled back the ledger is thrown away, and nothing in memory has moved.

One event is done with before the next begins: what an event causes in its own transaction (a run that ends because
another takes its target over) is recorded after all its decisions. So a replay, which has the events one after the other
and the stored admissions, meets the same memory at each of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import orjson

from daemon.clients.gone import content_key, path_key
from daemon.core import memory as remembering
from daemon.core.audit import GENESIS, hash_of
from daemon.core.canonical import canonical, content_id, digest
from daemon.core.decisions import decide, world_after
from daemon.core.errors import Fenced
from daemon.core.events import CATALOGUE, Event, Recorded, clean, legible, unstorable
from daemon.core.memory import Memory
from daemon.core.problems import Problem
from daemon.core.rules import RuleSet
from daemon.core.verdicts import Decided, Decision, Due, Remembered, World
from daemon.intake import Batch, Receipt
from daemon.store.base import Row, Session
from daemon.store.rows import decision_row, event_row, micros, moment
from daemon.tally import Counts

_TICK = timedelta(microseconds=1)
_TYPE, _VERDICT = itemgetter(2), itemgetter(5)
"""Of the rows of events, and of decisions."""

Begin = Callable[["Ledger", Decision, Recorded], tuple[str, str]]
"""Starts the run of a firing: (admission, run id)."""

Handle = Callable[["Ledger", Recorded], None]
"""What else an event means: a person's word for a run, a deadline."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the store stands, as the writer holds it in memory between two transactions."""

    seq: int
    """The newest event's place."""
    at: datetime
    """When it was recorded; the next is recorded later."""
    decision: int
    """The newest decision's place."""
    audit: int
    """The newest audit record's place."""
    head: str
    """Its hash."""
    world: World
    memory: Mapping[tuple[str, str], Memory] = field(repr=False)
    """All rule memory. Owned by the writer; changed only after COMMIT."""


class Ledger:
    """One transaction's worth of changes."""

    def __init__(self, session: Session, standing: Standing, rules: RuleSet | None, now: datetime) -> None:
        self.session = session
        self.rules = rules
        """None: none are in force yet."""
        self.now = max(now, standing.at)
        """The time of the event at work, else of the transaction: never before anything that was recorded."""
        self.begin: Begin | None = None
        self.handle: Handle | None = None
        self._standing = standing
        self._seq = standing.seq
        self._at = standing.at
        self._decision = standing.decision
        self._audit, self._head = standing.audit, standing.head
        self._world = standing.world
        self._changed: dict[tuple[str, str], Memory] = {}
        self._events: list[Row] = []
        self._decisions: list[Row] = []
        self._records: list[Row] = []
        self._timers: list[Row] = []
        self._problems: Counter[str] = Counter()
        self._undecidable = 0
        self._fresh: dict[tuple[str, str], int] = {}
        self._deciding = False
        self._caused: deque[Event] = deque()
        self.begun: list[tuple[str, Event]] = []
        """Runs that began in this transaction, each with its trigger: evidence is gathered after COMMIT."""
        self.ended: list[str] = []
        """Runs that ended in this transaction: their audit head is exported after COMMIT."""

    # -- what sources and workers bring

    def take(self, batch: Batch) -> Receipt:
        """Everything in one batch. Raises Fenced when a progress is not where it was expected; nothing is kept then."""
        for progress in batch.progress:
            self.session.run("start_progress", progress.stream, progress.partition)
            moved = self.session.run(
                "move_progress", progress.position, progress.stream, progress.partition, progress.expected
            )
            if not moved:
                raise Fenced(f"{progress.stream}/{progress.partition} is no longer at {progress.expected}")
        for state in batch.states:
            if state.blob is None:
                self.session.run("drop_state", state.stream, state.key)
            else:
                self.session.run("put_state", state.stream, state.key, state.blob)
        for cursor in batch.cursors:
            self.session.run("put_cursor", cursor.source, canonical(cursor.value).decode())
        self._keep_files(batch)
        for problem in batch.problems:
            self.problem(problem)
        return self.record(batch.events)

    def _keep_files(self, batch: Batch) -> None:
        """What is known of files that are there, and of those that are gone."""
        if batch.gone:
            self.session.many("drop_file", [(file.owner, file.path) for file in batch.gone])
            known = [
                (file.owner, content_key(file.digest), path_key(file.path), file.at)
                for file in batch.gone
                if file.digest
            ]
            self.session.many("put_gone", known)
        for forgotten in batch.forgotten:
            self.session.run("forget_gone", forgotten.owner, forgotten.until)
        if batch.files:
            self.session.many(
                "put_file", [(f.owner, f.path, f.size, f.mtime_ns, f.digest, f.status, f.device) for f in batch.files]
            )

    def record(self, events: tuple[Event, ...]) -> Receipt:
        """Store events and decide them, in order. One that is known already keeps its place and is not decided again;
        one that cannot be stored becomes a problem, and has the place 0.
        """
        seqs: list[int] = []
        fresh: list[bool] = []
        refused = {number: why for number, event in enumerate(events) if (why := unstorable(event))}
        stored = self._stored([event for number, event in enumerate(events) if number not in refused])
        for number, event in enumerate(events):
            if number in refused:
                self.problem(Problem("event", event.source, refused[number]))
                seqs.append(0)
                fresh.append(False)
                continue
            name = event.source, event.id
            known = self._fresh.get(name) or stored.get(name)
            if known is None:
                known = self._new(event)
                fresh.append(True)
            else:
                fresh.append(False)
            seqs.append(known)
        return Receipt(tuple(seqs), tuple(fresh))

    def _stored(self, events: Iterable[Event]) -> dict[tuple[str, str], int]:
        """The places of those events that were stored before this transaction."""
        ids: dict[str, list[str]] = {}
        for event in events:
            ids.setdefault(event.source, []).append(event.id)
        return {
            (source, name): seq
            for source, names in ids.items()
            for name, seq in self.session.rows("places", source, orjson.dumps(names).decode())
        }

    def follow(self, event: Event) -> None:
        """Record an event that this transaction causes: at once, or after the one that is being decided."""
        self._caused.append(event)
        while self._caused and not self._deciding:
            self.record((self._caused.popleft(),))

    def problem(self, problem: Problem) -> None:
        """Store a problem, or count it up; a new one is also an event that rules can listen to."""
        where, reason, letter = legible(problem.where), legible(problem.reason), legible(problem.dead_letter)
        name = content_id("problem", problem.kind, where, reason)
        self._problems[problem.kind] += 1
        micro = micros(self.now)
        self.session.run("put_problem", name, problem.kind, where, reason, letter, micro, micro)
        data = {"kind": problem.kind, "where": where, "reason": reason}
        self.follow(Event(name, "driftd:problems", "problem.recorded", problem.kind, self.now, data))

    def _new(self, event: Event) -> int:
        self._deciding = True
        seq = self._place(event)
        self._deciding = False
        while self._caused:
            self.record((self._caused.popleft(),))
        return seq

    def _place(self, event: Event) -> int:
        """Give an event its place, decide it, and do what the decisions ask for."""
        self._seq += 1
        self._at = self.now = max(self.now, self._at + _TICK)
        data, raw = clean(event.data)
        recorded = Recorded(
            self._seq,
            self._at,
            Event(event.id, event.source, event.type, event.subject, event.time, data, event.chain),
        )
        self._fresh[event.source, event.id] = self._seq
        decided, undecidable = decided_or_why(self.rules, self._remembered, recorded, self._world)
        self._undecidable += bool(undecidable)
        row = event_row(recorded, raw, undecidable)
        self._events.append(row)
        self._changed.update(decided.memory)
        self._world = decided.world
        for due in decided.dues:
            self._wish(due)
        entries = [self._decided(recorded, decision) for decision in decided.decisions]
        self.audit(
            "event",
            "",
            {
                "seq": recorded.seq, "at": row[1], "source": event.source, "id": event.id, "type": event.type,
                "digest": digest(raw), "undecidable": undecidable, "decisions": entries,
            },
        )  # fmt: skip
        if self.handle is not None:
            self.handle(self, recorded)
        return recorded.seq

    def _decided(self, recorded: Recorded, decision: Decision) -> list[str]:
        """Store one decision, and begin what it asks for; a firing that started nothing leaves the rule armed."""
        admission, run = "", ""
        if decision.firing is not None and self.begin is not None:
            admission, run = self.begin(self, decision, recorded)
            if not run and decision.otherwise is not None:
                self._changed[decision.rule, decision.key] = decision.otherwise
                if decision.again is not None:
                    self._wish(decision.again)
        self._decision += 1
        self._decisions.append(decision_row(self._decision, recorded.seq, decision, admission, run))
        return [decision.rule, decision.revision, decision.key, decision.verdict.value, admission, run]

    def _remembered(self, rule: str, key: str) -> Memory | None:
        return self._changed.get((rule, key)) or self._standing.memory.get((rule, key))

    # -- timers and audit

    def _wish(self, due: Due) -> None:
        self._timers.append((due.id, micros(due.at), due.rule, due.key, due.why))

    def timer(self, name: str, due: datetime, key: str, why: str) -> None:
        """A due time of a run."""
        self._timers.append((name, micros(due), "", key, why))

    def drop_timer(self, name: str) -> None:
        """The due time is not needed any more."""
        self.flush_timers()
        self.session.run("drop_timer", name)

    def due_timers(self, limit: int) -> int:
        """Turn timers whose time has come into events; how many there were."""
        self.flush_timers()
        rows = self.session.rows("timers_due", micros(self.now), limit)
        for name, due, rule, key, why in rows:
            self.session.run("drop_timer", name)
            data = {"rule": rule, "key": key, "due": moment(due).isoformat(), "why": why}
            self.record((Event(name, "driftd:timers", "timer.due", rule, moment(due), data),))
        return len(rows)

    def audit(self, kind: str, ref: str, body: dict[str, Any]) -> None:
        """Add a record to the chain; `ref` is the run that it is about, or empty."""
        raw = canonical({"kind": kind, "ref": ref, "now": micros(self.now), **body})
        self._audit += 1
        self._head = hash_of(raw, self._head)
        self._records.append((self._audit, kind, ref, raw.decode(), self._head))

    # -- the end

    def flush_timers(self) -> None:
        """Write the due times collected so far, so that they can be read back."""
        if self._timers:
            self.session.many("add_timer", self._timers)
            self._timers = []

    def flush(self) -> None:
        """Write everything that was collected; COMMIT comes next."""
        self.flush_timers()
        if self._events:
            self.session.many("add_event", self._events)
        if self._decisions:
            self.session.many("add_decision", self._decisions)
        if self._records:
            self.session.many("add_audit", self._records)
        if self._changed:
            self.session.many(
                "put_memory",
                [
                    (rule, key, canonical(remembering.for_storage(memory)).decode())
                    for (rule, key), memory in self._changed.items()
                ],
            )

    def standing(self, memory: dict[tuple[str, str], Memory]) -> Standing:
        """Where things stand after COMMIT; `memory` is the writer's own map and is brought up to date."""
        memory.update(self._changed)
        return Standing(self._seq, self._at, self._decision, self._audit, self._head, self._world, memory)

    def counts(self) -> Counts:
        """How much was stored."""
        return Counts(
            Counter(map(_TYPE, self._events)),
            self._undecidable,
            Counter(map(_VERDICT, self._decisions)),
            self._problems,
        )


NO_RULES = "no rules are in force yet"
"""Why an event that came before the first load of rules was not decided."""


def decided_or_why(
    rules: RuleSet | None, remembered: Remembered, recorded: Recorded, world: World
) -> tuple[Decided, str]:
    """The decisions, or why there can be none: one bad event must not stop the others."""
    if rules is None:
        return Decided((), {}, (), world_after(world, recorded)), NO_RULES
    if recorded.event.type not in CATALOGUE:
        return Decided((), {}, (), world), f"there is no event type {recorded.event.type!r}"
    try:
        return decide(rules, remembered, recorded, world), ""
    except Exception as error:  # noqa: BLE001 - the one place where a fault of `decide` becomes a stored reason
        return Decided((), {}, (), world_after(world, recorded)), f"{type(error).__name__}: {error}"


def standing_of(session: Session) -> tuple[Standing, dict[tuple[str, str], Memory]]:
    """Where the store stands, read at start."""
    events = session.rows("last_event")
    seq, at = events[0] if events else (0, 0)
    audits = session.rows("last_audit")
    audit, head = audits[0] if audits else (0, GENESIS)
    paused = session.rows("meta", "paused")
    memory = {(rule, key): remembering.from_storage(orjson.loads(state)) for rule, key, state in session.rows("memory")}
    decision = session.rows("last_decision")[0][0]
    world = World(paused=bool(paused and paused[0][0] == "yes"))
    return Standing(seq, moment(at), decision, audit, head, world, memory), memory
