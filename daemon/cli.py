"""`driftd`: the command line.

A command's module is imported when the command is named, so that each starts as fast as it can. `--json` prints JSON for
programs; errors go to standard error as text. Exit codes, for all commands:

    0  done, and all is well
    1  something is wrong: mistakes in files, a broken audit chain, nothing answered, a word that changed nothing
    2  the command line is not understood
    3  no daemon runs here, or it does not answer
    4  there is no such run, event, decision, rule, version or file
    5  not now: refused, busy, or another daemon leads
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from daemon import __version__
from daemon.commands.exits import exit_of, table
from daemon.core.errors import ConfigError, DaemonError

COMMANDS = {
    "start": "daemon.commands.start:start",
    "stop": "daemon.commands.stop:stop",
    "status": "daemon.commands.operate:status",
    "check": "daemon.commands.check:check",
    "reload": "daemon.commands.operate:reload",
    "pause": "daemon.commands.operate:pause",
    "resume": "daemon.commands.operate:resume",
    "events": "daemon.commands.lists:events",
    "decisions": "daemon.commands.lists:decisions",
    "explain": "daemon.commands.explain:explain",
    "runs": "daemon.commands.runs:app",
    "approve": "daemon.commands.operate:approve",
    "reject": "daemon.commands.operate:reject",
    "quarantine": "daemon.commands.quarantine:app",
    "audit": "daemon.commands.audit:app",
    "rbac": "daemon.commands.rbac:rbac",
    "problems": "daemon.commands.lists:problems",
    "feed": "daemon.commands.feed:feed",
}
"""Command -> where it is: a function, or a Typer app with commands of its own."""


class _Lazy(MutableMapping[str, Any]):
    """Commands by name, each imported when it is first asked for."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if not isinstance(found, typer.Typer):
                alone = typer.Typer(add_completion=False, rich_markup_mode=None)
                alone.command(name)(found)
                found = alone
            self._loaded[name] = typer.main.get_command(found)
            self._loaded[name].name = name
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Driftd(TyperGroup):
    """The group of all commands: loads them late, and ends with the documented exit codes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Lazy(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what driftd raises on purpose becomes a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except DaemonError as error:
            # Mistakes have places that editors find at the beginning of a line.
            typer.echo(str(error) if isinstance(error, ConfigError) else f"driftd: {error}", err=True)
            raise typer.Exit(exit_of(error)) from error


app = typer.Typer(
    cls=_Driftd,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExit codes:\n" + "\n".join(f"  {line}" for line in table().splitlines()),
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def driftd(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="config.yaml; default: DRIFTD_CONFIG, else the one here.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Watch models and act by rules: from prediction logs to a promoted, or rolled-back, model."""
    del version
    context.obj = config
