"""The report of one run, put together from what is stored: nothing in it is remembered, estimated or made up.

The audit records of the run say what was asked for, what outside services answered, and what was read back; the decision
says why; the run's moves say how it went and why it ended so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from daemon import reading
from daemon.core.runs import AFTER_STEP, UNDO_STEP, Run, State
from daemon.explaining import Explanation, explain
from daemon.reading import Barred, StoredRecord
from daemon.recalling import Parse
from daemon.store.base import Session
from daemon.store.rows import StoredCall, moment

READ_BACKS = frozenset({"read_back", "traffic", "served", "alias"})
"""Operations whose answer is what a service says by itself, not what it said to a change."""
_FINAL = frozenset({"done", "failed", "inconclusive"})


@dataclass(frozen=True, slots=True)
class Told:
    """One answer of an outside service, or one read-back."""

    at: datetime
    service: str
    operation: str
    result: Mapping[str, Any]

    @property
    def read_back(self) -> bool:
        """It was asked how things stand, after a change."""
        return self.operation in READ_BACKS


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of a run and what came of it."""

    number: int
    """As the run counts: from 0; UNDO_STEP is the rollback that undoes it, from AFTER_STEP on what runs after the end."""
    kind: str
    """`step`, `undo` or `after`."""
    verb: str
    inputs: Mapping[str, Any]
    status: str
    """`not begun`, or the status of its call: `due`, `claimed`, `done`, `failed`, `inconclusive`, `dropped`."""
    note: str
    """Why, or where it stands."""
    began: datetime | None
    ended: datetime | None
    attempts: int
    """Times it was tried again after a passing fault."""
    outputs: Mapping[str, Any]
    answers: tuple[Told, ...]

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it has not ended."""
        return (self.ended - self.began).total_seconds() if self.began and self.ended else None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one run."""

    run: Run
    explanation: Explanation | None
    """Of the decision that started it."""
    rule_text: str
    commit: str
    admission: str
    evidence: tuple[tuple[str, int], ...]
    """Files kept for it: (path, bytes)."""
    steps: tuple[StepReport, ...]
    barred: tuple[Barred, ...]
    """Versions that it put into quarantine."""
    records: tuple[int, ...]
    """Places of its audit records."""

    @property
    def verified(self) -> str:
        """Of a run that touched traffic and went back: `proven`, `unverified` or `untouched`; empty for others."""
        return str(self.run.given.get("verified", "")) if self.run.state is not State.PROMOTED else ""

    @property
    def ended(self) -> datetime | None:
        """When it ended."""
        return self.run.moves[-1].at if self.run.ended and self.run.moves else None


def report(session: Session, parse: Parse, run: Run, evidence: Path) -> Report:
    """The report of a run; `evidence` is the folder of what was kept for it."""
    records = reading.audit_of(session, run.id)
    firing = next((record.content for record in records if record.kind == "firing"), {})
    decisions = reading.decisions_of_event(session, run.trigger_seq)
    decision = next((one for one in decisions if one.run == run.id), None)
    return Report(
        run,
        explain(session, parse, decision) if decision else None,
        str(firing.get("text", "")),
        str(firing.get("commit", "")),
        str(firing.get("admission", "")),
        _files(evidence),
        _steps(run, reading.calls(session, run.id), records),
        tuple(barred for barred in reading.quarantine(session) if barred.run == run.id),
        tuple(record.seq for record in records),
    )


def report_json(one: Report) -> dict[str, Any]:
    """A report as JSON values, without its explanation."""
    run = one.run
    return {
        "run": run.id, "rule": run.rule, "revision": run.revision, "commit": one.commit, "model": run.model,
        "key": run.key, "state": run.state.value, "why": run.why, "verified": one.verified,
        "created": run.created.isoformat(), "ended": one.ended.isoformat() if one.ended else None,
        "targets": list(run.targets), "chain": list(run.chain), "admission": one.admission,
        "given": dict(run.given),
        "steps": [step_json(step) for step in one.steps],
        "moves": [
            {"at": move.at.isoformat(), "signal": move.signal, "state": move.state, "note": move.note}
            for move in run.moves
        ],
        "evidence": [{"file": path, "bytes": size} for path, size in one.evidence],
        "quarantine": [
            {"model": barred.model, "version": barred.version, "digest": barred.digest, "reason": barred.reason,
             "released": barred.released}
            for barred in one.barred
        ],
        "audit": list(one.records), "rule_text": one.rule_text,
    }  # fmt: skip


def step_json(step: StepReport) -> dict[str, Any]:
    """A step as JSON values."""
    return {
        "number": step.number, "kind": step.kind, "verb": step.verb, "inputs": dict(step.inputs),
        "status": step.status, "note": step.note, "began": step.began.isoformat() if step.began else None,
        "ended": step.ended.isoformat() if step.ended else None, "seconds": step.seconds, "attempts": step.attempts,
        "outputs": dict(step.outputs),
        "answers": [
            {"at": told.at.isoformat(), "service": told.service, "operation": told.operation,
             "read_back": told.read_back, "result": dict(told.result)}
            for told in step.answers
        ],
    }  # fmt: skip


def _files(folder: Path) -> tuple[tuple[str, int], ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file()))


def _steps(run: Run, calls: Sequence[StoredCall], records: Sequence[StoredRecord]) -> tuple[StepReport, ...]:
    """The rule's steps, begun or not, and the others that were begun."""
    begun = {call.step: call for call in calls}
    numbers = sorted({*range(len(run.steps)), *begun})
    return tuple(_step(run, number, begun.get(number), records) for number in numbers)


def _step(run: Run, number: int, call: StoredCall | None, records: Sequence[StoredRecord]) -> StepReport:
    kind = "after" if number >= AFTER_STEP else "undo" if number == UNDO_STEP else "step"
    if call is None:
        step = run.steps[number]
        return StepReport(number, kind, step.verb, step.inputs, "not begun", "", None, None, 0, {}, ())
    own = [
        (record.kind, content, moment(int(content["now"])))
        for record in records
        if record.kind in {"call", "outcome"} and (content := record.content).get("call") == call.id
    ]
    begun = next(((content, at) for kind_, content, at in own if kind_ == "call"), None)
    outcomes = [(content, at) for kind_, content, at in own if kind_ == "outcome"]
    final = next(
        ((content, at) for content, at in outcomes if content["outcome"] in _FINAL and content["accepted"]), None
    )
    return StepReport(
        number, kind, call.verb,
        begun[0]["inputs"] if begun else {},
        call.status,
        call.note or (str(final[0].get("why", "")) if final else ""),
        begun[1] if begun else None,
        final[1] if final else None,
        call.attempt,
        final[0].get("outputs", {}) if final else {},
        tuple(
            Told(at, answer["service"], answer["operation"], answer["result"])
            for content, at in outcomes
            for answer in content["answers"]
        ),
    )  # fmt: skip
