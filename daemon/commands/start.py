"""`driftd start`: run the daemon in this process, until it is told to stop."""

from __future__ import annotations

import typer

from daemon.app import run
from daemon.commands.workplace import workplace


def start(context: typer.Context) -> None:
    """Run the daemon here, until SIGTERM, SIGINT or `driftd stop`. Logs are JSON lines on standard error."""
    raise typer.Exit(run(workplace(context, with_secrets=True).config))
