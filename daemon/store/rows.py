"""Rows to the core's types and back: two named functions per type, nothing else knows the columns' order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from daemon.core.calls import Answer, Call
from daemon.core.canonical import canonical
from daemon.core.events import Event, Recorded, event_from_json, event_json
from daemon.core.runs import AFTER_STEP, Moved, Run, RunStep, State
from daemon.core.verdicts import Decision
from daemon.store.base import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Microseconds since the epoch."""
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def moment(micro: int) -> datetime:
    """The aware UTC time of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=micro)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as stored; `undecidable` says why no rule could be asked, and is empty otherwise."""

    recorded: Recorded
    undecidable: str


def event_row(recorded: Recorded, data: bytes, undecidable: str = "") -> Row:
    """For `add_event`; `data` is the event's data as canonical JSON."""
    event = recorded.event
    return (
        recorded.seq, micros(recorded.at), event.type, event.subject, event.source, event.id,
        event.time.isoformat(), data.decode(), canonical(event.chain).decode() if event.chain else "[]",
        undecidable or None,
    )  # fmt: skip


def event_of(row: Row) -> StoredEvent:
    """From `event` and its like."""
    seq, at, kind, subject, source, id_, time, data, chain, undecidable = row
    event = Event(
        id_, source, kind, subject, datetime.fromisoformat(time), orjson.loads(data), tuple(orjson.loads(chain))
    )  # fmt: skip
    return StoredEvent(Recorded(seq, moment(at), event), undecidable or "")


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision as stored."""

    seq: int
    event: int
    rule: str
    revision: str
    key: str
    verdict: str
    admission: str
    """Of a firing: `admitted`, `queued`, or why it started nothing; empty otherwise."""
    why: str
    clauses: list[list[str]]
    run: str


def decision_row(seq: int, event: int, decision: Decision, admission: str = "", run: str = "") -> Row:
    """For `add_decision`."""
    clauses = [[clause.text, clause.truth, clause.reason] for clause in decision.clauses]
    return (
        seq, event, decision.rule, decision.revision, decision.key, decision.verdict.value, admission, decision.why,
        orjson.dumps(clauses).decode(), run,
    )  # fmt: skip


def decision_of(row: Row) -> StoredDecision:
    """From `decision` and its like."""
    seq, event, rule, revision, key, verdict, admission, why, clauses, run = row
    return StoredDecision(seq, event, rule, revision, key, verdict, admission, why, orjson.loads(clauses), run)


def run_json(run: Run) -> dict[str, Any]:
    """A run as JSON values."""
    return {
        "id": run.id, "rule": run.rule, "revision": run.revision, "model": run.model, "key": run.key,
        "trigger": event_json(run.trigger), "trigger_seq": run.trigger_seq, "targets": list(run.targets),
        "steps": [_step_json(step) for step in run.steps],
        "on_failure": [_step_json(step) for step in run.on_failure],
        "chain": list(run.chain), "created": run.created.isoformat(), "state": run.state.value,
        "position": run.position, "approved": run.approved, "given": dict(run.given), "why": run.why,
        "moves": [[move.at.isoformat(), move.signal, move.state, move.note] for move in run.moves],
        "replaces": run.replaces, "changes": run.changes, "held": run.held, "storm": run.storm,
    }  # fmt: skip


def run_from_json(stored: Mapping[str, Any]) -> Run:
    """A run from what `run_json` made."""
    return Run(
        stored["id"], stored["rule"], stored["revision"], stored["model"], stored["key"],
        event_from_json(stored["trigger"]), stored["trigger_seq"], tuple(stored["targets"]),
        tuple(_step_from(step) for step in stored["steps"]),
        tuple(_step_from(step) for step in stored["on_failure"]),
        tuple(stored["chain"]), datetime.fromisoformat(stored["created"]), State(stored["state"]),
        stored["position"], stored["approved"], stored["given"], stored["why"],
        tuple(Moved(datetime.fromisoformat(at), signal, state, note) for at, signal, state, note in stored["moves"]),
        stored["replaces"], stored.get("changes", False), stored.get("held", ""), stored.get("storm", ""),
    )  # fmt: skip


def run_row(run: Run) -> Row:
    """For `put_run`."""
    ended = micros(run.moves[-1].at) if run.ended else None
    doc = canonical(run_json(run)).decode()
    return (run.id, run.rule, run.model, run.state.value, int(not run.ended), micros(run.created), ended, doc)


def run_of(row: Row) -> Run:
    """From `run` and its like."""
    return run_from_json(orjson.loads(row[0]))


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call as stored."""

    id: str
    run: str
    step: int
    verb: str
    status: str
    """`due`, `claimed`, `done`, `failed` or `inconclusive`; of one that is no longer needed: `ending` and `closing`, while
    what it started is ended, and `dropped`."""
    priority: int
    due: datetime
    deadline: datetime
    attempt: int
    epoch: int
    lease: datetime
    state: Mapping[str, Any]
    note: str


def call_of(row: Row) -> StoredCall:
    """From `call` and its like."""
    id_, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note = row
    return StoredCall(
        id_, run, step, verb, status, priority, moment(due), moment(deadline), attempt, epoch, moment(lease),
        orjson.loads(state), note,
    )  # fmt: skip


def call_for(stored: StoredCall, run: Run, step: RunStep) -> Call:
    """The call as its handler sees it. A step after the run's end is also given how it ended."""
    given = run.given
    if stored.step >= AFTER_STEP:
        given = {**given, "rule": run.rule, "state": run.state.value, "why": run.why}
    return Call(
        stored.id, run.id, stored.step, stored.verb, run.model, step.inputs, given, stored.state, run.trigger,
        stored.attempt, stored.deadline, run.chain, run.rule,
    )  # fmt: skip


def answers_json(answers: tuple[Answer, ...]) -> list[dict[str, Any]]:
    """Answers as JSON values, for the audit."""
    return [
        {"service": answer.service, "operation": answer.operation, "result": dict(answer.result)} for answer in answers
    ]


def _step_json(step: RunStep) -> dict[str, Any]:
    return {
        "verb": step.verb, "inputs": dict(step.inputs), "approve": step.approve, "traffic": step.traffic,
        "seconds": step.seconds,
    }  # fmt: skip


def _step_from(stored: Mapping[str, Any]) -> RunStep:
    return RunStep(stored["verb"], stored["inputs"], stored["approve"], stored["traffic"], stored["seconds"])
