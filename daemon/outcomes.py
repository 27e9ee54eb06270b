"""What an outcome leaves behind: the row of its call, what later steps are given, and its audit record; and a firing's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from daemon.core.calls import Again, Done, Failed, Inconclusive, Outcome, Working
from daemon.core.events import Recorded
from daemon.core.rules import Rule
from daemon.core.runs import Run
from daemon.core.verdicts import Decision
from daemon.ledger import Ledger
from daemon.store.rows import StoredCall, answers_json

OF_VERSION = ("digest", "created")
"""What goes with a `version`: of its artifacts, and of its registered model."""


def given_after(before: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What later steps are given: the newest of each name, and nothing of a version that is no longer meant."""
    if outputs.get("version", before.get("version")) != before.get("version"):
        before = {name: value for name, value in before.items() if name not in OF_VERSION}
    return {**before, **outputs}


def settled(call: StoredCall, outcome: Outcome, now: datetime) -> tuple[str, datetime, int, Mapping[str, Any], str]:
    """The call's row after an outcome: status, due, attempt, state, note."""
    if isinstance(outcome, Working):
        due = now + timedelta(seconds=max(outcome.poll_after, 0.0))
        return "due", due, call.attempt, outcome.state, outcome.note or call.note
    if isinstance(outcome, Again):
        due = now + timedelta(seconds=max(outcome.after, 0.0))
        return "due", due, call.attempt + 1, outcome.state or call.state, outcome.why
    if isinstance(outcome, Done):
        return "done", now, call.attempt, call.state, ""
    if isinstance(outcome, Failed):
        return "failed", now, call.attempt, call.state, outcome.why
    assert isinstance(outcome, Inconclusive)
    return "inconclusive", now, call.attempt, call.state, outcome.why


def audit_firing(ledger: Ledger, rule: Rule, decision: Decision, recorded: Recorded, run: Run, admission: str) -> None:
    """Keep why a rule fired, with its text and values, what it asked for, and whether that may begin."""
    values = [
        [condition.text, clause.truth, clause.reason]
        for condition, clause in zip(rule.when, decision.clauses, strict=False)
    ]
    commit = ledger.rules.commit if ledger.rules else ""
    ledger.audit(
        "firing", run.id,
        {
            "rule": rule.name, "revision": rule.revision, "commit": commit, "text": rule.text,
            "key": decision.key, "why": decision.why, "clauses": values, "event": recorded.seq,
            "trigger": {"source": run.trigger.source, "id": run.trigger.id, "type": run.trigger.type,
                        "data": dict(run.trigger.data)},
            "admission": admission, "steps": [[step.verb, dict(step.inputs)] for step in run.steps],
            "targets": list(run.targets),
        },
    )  # fmt: skip


def audit_outcome(ledger: Ledger, call: StoredCall, outcome: Outcome, *, accepted: bool) -> None:
    """Keep every answer; a mere "still working" with nothing new is not worth a record."""
    quiet = isinstance(outcome, Working) and not outcome.answers and not outcome.events
    if quiet and accepted:
        return
    body: dict[str, Any] = {
        "call": call.id, "step": call.step, "verb": call.verb, "outcome": type(outcome).__name__.lower(),
        "accepted": accepted, "answers": answers_json(outcome.answers),
    }  # fmt: skip
    if isinstance(outcome, Done):
        body["outputs"] = dict(outcome.outputs)
    elif isinstance(outcome, Working):
        body["note"] = outcome.note
    else:
        body["why"] = outcome.why
    ledger.audit("outcome", call.run, body)
