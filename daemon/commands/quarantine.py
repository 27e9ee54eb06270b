"""`driftd quarantine`: versions that no rule may promote."""

from __future__ import annotations

from typing import Annotated

import typer

from daemon import reading
from daemon.commands.exits import Exit
from daemon.commands.operate import By
from daemon.commands.printing import AsJson, print_error, print_json, print_line, print_table, when
from daemon.commands.printing import as_json as fields_of
from daemon.commands.workplace import Workplace, workplace
from daemon.core.errors import NotFound
from daemon.reading import Barred

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Versions that no rule may promote.")

Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="The model as config.yaml names it, and a version.")
]
Why = Annotated[str, typer.Option("--reason", "-m", help="Why; kept in the audit.")]


@app.callback(invoke_without_command=True)
def quarantine(context: typer.Context, as_json: AsJson = False) -> None:
    """Versions that no rule may promote."""
    if context.invoked_subcommand is None:
        _list(context, everything=False, as_json=as_json)


@app.command("list")
def list_(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were released.")] = False,
    as_json: AsJson = False,
) -> None:
    """The versions in quarantine, with their reasons."""
    _list(context, everything=everything, as_json=as_json)


@app.command()
def release(context: typer.Context, version: Version, reason: Why, by: By = "", as_json: AsJson = False) -> None:
    """Let a version be promoted again."""
    place = workplace(context)
    model, number = _split(place, version)
    if not _barred(place, model, number):
        raise NotFound(f"{model}@{number} is not in quarantine")
    _change(place, "release", f"{model}@{number}", by, reason, as_json)


@app.command()
def add(
    context: typer.Context,
    version: Version,
    reason: Why,
    by: By = "",
    digest: Annotated[str, typer.Option("--digest", help="Also bar every version with these artifacts.")] = "",
    as_json: AsJson = False,
) -> None:
    """Bar a version: no rule promotes it until it is released."""
    place = workplace(context)
    model, number = _split(place, version)
    _change(place, "quarantine", f"{model}@{number}", by, reason, as_json, digest)


def _list(context: typer.Context, *, everything: bool, as_json: bool) -> None:
    with workplace(context).reading() as session:
        found = [barred for barred in reading.quarantine(session) if everything or not barred.released]
    if as_json:
        print_json([fields_of(barred) for barred in found])
        return
    print_table(
        ("model", "version", "since", "run", "released", "reason"),
        ((b.model, b.version, when(b.at), b.run[:8], b.released, b.reason) for b in found),
        "No version is in quarantine.",
    )


def _change(  # noqa: PLR0913, PLR0917 - one word with all its parts
    place: Workplace, verb: str, target: str, by: str, reason: str, as_json: bool, digest: str = ""
) -> None:
    model, _, number = target.partition("@")
    more = {"digest": digest} if digest else {}
    answer = place.say(verb, target, by, reason, subject=model, **more)
    barred = bool(_barred(place, model, number))
    if as_json:
        print_json({"event": answer["seq"], "by": answer["by"], "model": model, "version": number, "barred": barred})
    else:
        print_line(f"{target} is {'in quarantine' if barred else 'no longer in quarantine'}.")
    if barred is not (verb == "quarantine"):
        print_error(f"driftd: event {answer['seq']} is stored, but it did not change that")
        raise typer.Exit(Exit.FOUND)


def _split(place: Workplace, version: str) -> tuple[str, str]:
    model, _, number = version.rpartition("@")
    if not model or not number:
        raise typer.BadParameter(f"{version!r} is no version; write MODEL@VERSION, e.g. churn@12")
    if model not in place.config.models:
        raise NotFound(f"config.yaml has no model {model!r}; it has {', '.join(place.config.models) or 'none'}")
    return model, number


def _barred(place: Workplace, model: str, version: str) -> list[Barred]:
    with place.reading() as session:
        return [
            barred
            for barred in reading.quarantine(session)
            if (barred.model, barred.version) == (model, version) and not barred.released
        ]
