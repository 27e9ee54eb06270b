"""`driftd runs`: what rules started, how it went, and why it ended so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any

import typer

from daemon import reading
from daemon.commands.explain import explanation_json, parser, print_clauses
from daemon.commands.operate import RunName, cancel
from daemon.commands.printing import AsJson, Limit, brief, print_json, print_line, print_table, when
from daemon.commands.workplace import workplace
from daemon.core.runs import ASKING, Run
from daemon.reports import Report, StepReport, Told, report, report_json

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="What rules started, how it went, and why it ended so."
)
app.command()(cancel)

_SHOWN = 4
"""Answers of one kind that are shown in full; a canary looks often, and only its last looks matter on paper."""


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, as_json: AsJson = False) -> None:
    """What rules started, how it went, and why it ended so."""
    if context.invoked_subcommand is None:
        list_(context, as_json=as_json)


@app.command("list")
def list_(
    context: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Only those that have not ended.")] = False,
    rule: Annotated[str, typer.Option("--rule", help="Only of this rule.")] = "",
    limit: Limit = 30,
    as_json: AsJson = False,
) -> None:
    """The newest runs, the newest first."""
    with workplace(context).reading() as session:
        found = reading.runs(session, 100_000 if live or rule else limit)
    found = [run for run in found if not (live and run.ended) and (not rule or run.rule == rule)][:limit]
    if as_json:
        print_json([_listed(run) for run in found])
        return
    print_table(
        ("run", "began", "took", "rule", "state", "steps", "why"),
        ((r.id[:8], when(r.created), _took(r.created, _end(r)), r.rule, _state(r), _progress(r), r.why)
         for r in found),
        "No such runs.",
    )  # fmt: skip


@app.command()
def show(context: typer.Context, run: RunName, as_json: AsJson = False) -> None:
    """One page: trigger, evidence, clauses with values, steps, answers, read-backs, and how it ended."""
    place = workplace(context)
    with place.reading() as session:
        found = reading.run(session, run)
        told = report(session, parser(place), found, place.home / "evidence" / found.id)
    if as_json:
        explanation = explanation_json(told.explanation) if told.explanation else None
        print_json({**report_json(told), "decision": explanation})
    else:
        _print(told)


def _listed(run: Run) -> dict[str, Any]:
    end = _end(run)
    return {
        "id": run.id, "rule": run.rule, "model": run.model, "key": run.key, "state": run.state.value, "why": run.why,
        "created": run.created.isoformat(), "ended": end.isoformat() if end else None,
        "steps": [step.verb for step in run.steps], "position": run.position, "given": dict(run.given),
        "trigger": run.trigger_seq, "targets": list(run.targets), "held": run.held,
    }  # fmt: skip


def _state(run: Run) -> str:
    return f"held ({run.held})" if run.held and not run.ended else run.state.value


def _progress(run: Run) -> str:
    return " > ".join(
        f"[{step.verb}]" if index == run.position and not run.ended else step.verb
        for index, step in enumerate(run.steps)
    )


def _end(run: Run) -> datetime | None:
    return run.moves[-1].at if run.ended and run.moves else None


def _took(began: datetime | None, ended: datetime | None) -> str:
    if began is None or ended is None:
        return ""
    seconds = (ended - began).total_seconds()
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _print(told: Report) -> None:
    run = told.run
    print_line(f"run {run.id}")
    ended = f", ended {when(told.ended)} ({_took(run.created, told.ended)})" if told.ended else ""
    print_line(f"{run.state.value.upper()}{': ' + run.why if run.why else ''}")
    if run.held and not run.ended:
        print_line(
            f"a {run.held} holds it before its start: `driftd approve {run.id[:8]}` or `driftd reject {run.id[:8]}`"
        )
    if run.state in ASKING:
        verb = run.steps[run.position].verb
        print_line(
            f"it waits for a person before {verb}: `driftd approve {run.id[:8]}` or `driftd reject {run.id[:8]}`"
        )
    print_line(f"began {when(run.created)}{ended}; rule {run.rule}, model {run.model or '-'}, key {run.key or '-'}")
    if told.verified:
        print_line(f"rollback: {told.verified}{_MEANS.get(told.verified, '')}")
    _print_trigger(told)
    _print_steps(told)
    print_line()
    print_line("moves")
    for move in run.moves:
        print_line(f"  {when(move.at)}  {move.signal:<24} -> {move.state}" + (f": {move.note}" if move.note else ""))
    for barred in told.barred:
        released = f", released by {barred.released}" if barred.released else ""
        print_line(f"quarantined: {barred.model} version {barred.version}: {barred.reason}{released}")
    print_line()
    print_line("evidence" if told.evidence else "evidence: no files")
    for path, size in told.evidence:
        print_line(f"  {path} ({size:,} bytes)")
    if told.records:
        print_line(
            f"audit records {told.records[0]} to {told.records[-1]} ({len(told.records)}); `driftd audit show --run {run.id[:8]}`"
        )


_MEANS = {
    "proven": " (by what the serving side says, and by the requests in the prediction log)",
    "unverified": " (the prediction log did not show enough requests in time: a person should look)",
    "untouched": " (this run changed neither traffic nor alias)",
}


def _print_trigger(told: Report) -> None:
    run, event = told.run, told.run.trigger
    print_line()
    print_line(
        f"trigger: event {run.trigger_seq}, {event.type} about {event.subject or '-'} from {event.source}, {when(event.time)}"
    )
    if told.explanation is not None:
        print_line(
            f"decision {told.explanation.decision.seq}: {told.explanation.decision.why}; {told.admission or told.explanation.decision.admission}"
        )
        print_clauses(told.explanation.clauses)
        for what, how in told.explanation.before:
            print_line(f"  before: {what} {how}")
    commit = f", commit {told.commit[:12]}" if told.commit else ""
    print_line(f"rule revision {run.revision}{commit}" + (":" if told.rule_text else ""))
    for line in told.rule_text.rstrip().splitlines():
        print_line(f"  | {line}")


def _print_steps(told: Report) -> None:
    for step in told.steps:
        print_line()
        name = {"step": f"step {step.number + 1}", "undo": "undo", "after": "after the end"}[step.kind]
        took = f" in {step.seconds:.1f} s" if step.seconds is not None else ""
        again = f", tried again {step.attempts} times" if step.attempts else ""
        print_line(f"{name}: {step.verb}: {step.status}{took}{again}" + (f": {step.note}" if step.note else ""))
        if step.inputs:
            print_line(f"  inputs   {_pairs(step.inputs)}")
        if step.outputs:
            print_line(f"  outputs  {_pairs(step.outputs)}")
        _print_answers(step)


def _print_answers(step: StepReport) -> None:
    by_kind = sorted(step.answers, key=lambda told: (told.read_back, told.service, told.operation))
    for (read_back, service, operation), group in groupby(by_kind, key=_kind):
        answers = list(group)
        if len(answers) > _SHOWN:
            print_line(f"  {len(answers)} answers of {service} {operation}, the last {_SHOWN}:")
        for told in answers[-_SHOWN:]:
            name = "read back" if read_back else "answer   "
            print_line(f"  {name}  {when(told.at)}  {service} {operation}: {_pairs(told.result)}")


def _kind(told: Told) -> tuple[bool, str, str]:
    return told.read_back, told.service, told.operation


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {brief(value, 160)}" for name, value in values.items())
