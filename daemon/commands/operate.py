"""What an operator says to the running daemon, and what came of it.

Every word goes through the control socket and is a stored, attributed event when the command returns; then the store is
read to tell what it changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from daemon import reading
from daemon.commands.exits import Exit
from daemon.commands.printing import AsJson, print_error, print_json, print_line, print_table, when
from daemon.commands.workplace import Workplace, workplace
from daemon.control import ask
from daemon.core.errors import NotFound, StoreError, Unavailable
from daemon.core.holding import Holder
from daemon.core.runs import ASKING, Run, State
from daemon.freezes import calendar
from daemon.store.base import Session
from daemon.words import HELD

By = Annotated[str, typer.Option("--by", help="Who says so; default: the user's own name, which is kept beside it.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept in the audit.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or how it begins.")]
OneOrHeld = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id, or how it begins.")]
Held = Annotated[
    Holder | None, typer.Option("--held", help="Instead of one run: all that a storm of firings, or a freeze, holds.")
]
Override = Annotated[
    str,
    typer.Option("--override-freeze", metavar="REASON", help="Do it although production is frozen; kept in the audit."),
]


@dataclass(frozen=True, slots=True)
class Word:
    """What an operator says."""

    verb: str
    target: str
    by: str
    reason: str
    as_json: bool
    override: str = ""
    """Why a freeze shall not count."""


def pause(context: typer.Context, by: By = "", reason: Reason = "", as_json: AsJson = False) -> None:
    """Pause all rules: they decide and remember, and start nothing. Runs that are under way go on."""
    _pause(workplace(context), Word("pause", "", by, reason, as_json))


def resume(context: typer.Context, by: By = "", reason: Reason = "", as_json: AsJson = False) -> None:
    """Let rules start runs again; firings are counted anew, so a storm is over. What it holds stays held: see `approve`."""
    _pause(workplace(context), Word("resume", "", by, reason, as_json))


def approve(  # noqa: PLR0913, PLR0917 - options of a command line
    context: typer.Context,
    run: OneOrHeld = None,
    held: Held = None,
    override: Override = "",
    by: By = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Say yes to the step that a run waits with, or let a run go that a storm or a freeze holds."""
    _tell(workplace(context), Word("approve", _target(run, held), by, reason, as_json, override))


def reject(
    context: typer.Context,
    run: OneOrHeld = None,
    held: Held = None,
    by: By = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Say no to the step that a run waits with: the run ends, and what it did to traffic is undone. A held one is discarded."""
    _tell(workplace(context), Word("reject", _target(run, held), by, reason, as_json))


def cancel(context: typer.Context, run: RunName, by: By = "", reason: Reason = "", as_json: AsJson = False) -> None:
    """Cancel a run; what it did to traffic is undone. A rollback that is under way goes on."""
    _tell(workplace(context), Word("cancel", run, by, reason, as_json))


def reload(context: typer.Context, as_json: AsJson = False) -> None:
    """Read the rules again now, all or nothing (it happens by itself within a second or two of an edit)."""
    answer = ask(workplace(context).home, {"op": "reload"})
    if as_json:
        print_json(answer["rules"])
    else:
        print_line(f"{answer['rules'].get('rules')} rules are in force, revision {answer['rules'].get('revision')}.")


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """How the daemon and its store are doing. Exit code 3 when no daemon runs, 1 when it runs and is not ready."""
    place = workplace(context)
    try:
        answer: dict[str, Any] = ask(place.home, {"op": "status"}, 10.0)["status"]
        running, why = True, ""
    except Unavailable as error:
        answer, running, why = {}, False, str(error)
    try:
        with place.reading() as session:
            stored = {**_stored(session), "freeze": _frozen(place)}
    except (StoreError, NotFound) as error:
        stored = {"problem": str(error)}
    ready = bool(answer.get("ready", running))
    told = {"running": running, "ready": ready, "home": str(place.home), "daemon": answer, "store": stored}
    if as_json:
        print_json(told)
    else:
        _print_status(told)
    if not running:
        print_error(f"driftd: {why}")
        raise typer.Exit(Exit.NOT_RUNNING)
    if not ready:
        raise typer.Exit(Exit.FOUND)


def _target(run: str | None, held: Holder | None) -> str:
    """The one run, or all that are held."""
    if (run is None) == (held is None):
        raise typer.BadParameter("say either a run, or --held storm, or --held freeze")
    return f"{HELD}{held.value}" if held is not None else run or ""


def _stored(session: Session) -> dict[str, Any]:
    newest = reading.events(session, limit=1)
    live = [run for run in reading.runs(session, 1000) if not run.ended]
    return {
        "events": newest[0].recorded.seq if newest else 0,
        "last_event": newest[0].recorded.at.isoformat() if newest else None,
        "paused": reading.paused(session),
        "live_runs": [{"id": run.id, "rule": run.rule, "state": run.state.value} for run in live],
        "waiting_for_approval": [run.id for run in live if run.state in ASKING],
        "held_by_storm": [run.id for run in live if run.held == Holder.STORM.value],
        "held_by_freeze": [run.id for run in live if run.held == Holder.FREEZE.value],
        "stuck_runs": [run.id for run in reading.runs(session, 1000) if run.state is State.STUCK],
        "problems": sum(problem.count for problem in reading.problems(session, 1000)),
        "barred_versions": sum(not barred.released for barred in reading.quarantine(session)),
    }


def _print_status(told: Mapping[str, Any]) -> None:
    daemon, stored = told["daemon"], told["store"]
    state = ("ready" if told["ready"] else "running, but not ready") if told["running"] else "not running"
    rows: list[tuple[str, Any]] = [("daemon", state), ("home", told["home"])]
    for name, value in daemon.items():
        if name == "sources" and isinstance(value, Mapping):
            rows += [(f"source {source}", _source(health)) for source, health in value.items()]
        elif name == "streams" and isinstance(value, Mapping):
            rows += [(f"stream {stream}", _stream(figures)) for stream, figures in value.items()]
        elif name == "reasons" and isinstance(value, list):
            rows += [("not ready", reason) for reason in value]
        elif name == "web" and isinstance(value, Mapping):
            rows.append((name, value.get("address") or value.get("problem") or "starts"))
        elif isinstance(value, Mapping):
            rows.append((name, ", ".join(f"{key} {item}" for key, item in value.items())))
        elif name != "ready" and value not in ("", []):
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else value))
    for name, value in stored.items():
        if name == "live_runs":
            rows += [(f"run {run['id'][:8]}", f"{run['state']}, of {run['rule']}") for run in value]
        elif isinstance(value, list):
            rows += [(name.replace("_", " "), ", ".join(run[:8] for run in value))] if value else []
        elif name not in daemon:
            rows.append((name.replace("_", " "), value))
    print_table(("what", "how"), rows, "")


def _source(health: Mapping[str, Any]) -> str:
    if health.get("problem"):
        return str(health["problem"])
    alive = f"alive {health.get('alive_at') or 'never'}, last event {health.get('event_at') or 'never'}"
    if not health.get("lag"):
        return alive
    return f"{alive}, {health['lag']} unread" + (f" since {health['unread_at']}" if health.get("unread_at") else "")


def _stream(figures: Mapping[str, Any]) -> str:
    told = {
        name: value for name, value in figures.items() if not isinstance(value, Mapping) and value not in (None, "")
    }
    return str(told.get("problem") or ", ".join(f"{name} {value}" for name, value in told.items()) or "not open yet")


def _pause(place: Workplace, word: Word) -> None:
    answer = place.say(word.verb, "", word.by, word.reason)
    with place.reading() as session:
        paused = reading.paused(session)
        held = sum(run.held == Holder.STORM.value for run in reading.live_runs(session))
    came = {"event": answer["seq"], "by": answer["by"], "paused": paused}
    if word.as_json:
        print_json(came)
        return
    print_line(
        "Paused: rules decide and remember, and start nothing until `driftd resume`." if paused else "Rules start runs."
    )
    if held and not paused:
        print_line(
            f"{held} runs are held: `driftd approve --held storm` starts them, `driftd reject --held storm` discards."
        )


def _tell(place: Workplace, word: Word) -> None:
    """Say a word about one run, or about all that are held, and tell what it changed."""
    with place.reading() as session:
        before = _meant(session, word.target)
    frozen = _frozen(place)
    objections = {run.id: _objection(word, run, frozen) for run in before}
    if not before or all(objections.values()):
        why = next((f"run {run[:8]} {why}" for run, why in objections.items()), "nothing is held by it")
        print_error(f"driftd: {why}")
        raise typer.Exit(Exit.REFUSED)
    one = before[0] if not word.target.startswith(HELD) else None
    more = {"override_freeze": word.override} if word.override else {}
    answer = place.say(
        word.verb, one.id if one else word.target, word.by, word.reason, subject=one.model if one else "", **more
    )
    with place.reading() as session:
        pairs = [(run, reading.run(session, run.id)) for run in before]
    told = [
        {"event": answer["seq"], "by": answer["by"], "run": after.id, "before": was.state.value,
         "state": after.state.value, "why": after.why, "changed": after != was}
        for was, after in pairs
    ]  # fmt: skip
    if word.as_json:
        print_json(told[0] if one else told)
    for was, after in pairs:
        if not word.as_json and after != was:
            _print_change(was, after, named=one is None)
        elif after == was:
            print_error(
                f"driftd: event {answer['seq']} is stored, but run {after.id[:8]} stands as it was: {after.state.value}"
            )
    if not any(one["changed"] for one in told):
        raise typer.Exit(Exit.FOUND)


def _meant(session: Session, target: str) -> list[Run]:
    """The run, or all that are held, oldest first."""
    if not target.startswith(HELD):
        return [reading.run(session, target)]
    return [run for run in reading.live_runs(session) if run.held == target.removeprefix(HELD)]


def _print_change(was: Run, now: Run, *, named: bool) -> None:
    name = f"run {now.id[:8]}  " if named else ""
    moves = now.moves[len(was.moves) :]
    for move in moves:
        print_line(f"{name}{when(move.at)}  {move.signal}  ->  {move.state}" + (f": {move.note}" if move.note else ""))
    if not moves:
        print_line(
            f"{name}{now.state.value}, held by nothing any more: {now.why}" if not now.held else f"{name}{now.why}"
        )


def _frozen(place: Workplace) -> str:
    """The freeze that is on, in words; empty when there is none."""
    frozen = calendar(place.config.freeze)(datetime.now(UTC))
    return frozen.why if frozen else ""


def _objection(word: Word, run: Run, frozen: str) -> str:
    """Why the word would change nothing; empty when it may."""
    if run.ended:
        return f"has ended: {run.state.value}"
    if word.verb == "approve" and run.state not in ASKING and not run.held:
        return f"waits for nobody's word: it is {run.state.value}"
    if (
        word.verb == "approve"
        and not word.override
        and (run.held == Holder.FREEZE.value or (frozen and run.changes and run.state in ASKING))
    ):
        return f"changes production, and {frozen or run.why}; to do it all the same say --override-freeze REASON"
    if word.verb in {"reject", "cancel"} and run.state is State.UNDOING:
        return "is rolling back, and a rollback is not stopped"
    return ""
