"""The exit codes are one table, in the help, in the module's text and in what commands do."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from daemon import cli
from daemon.commands.exits import MEANING, Exit, exit_of, table
from daemon.core.errors import AuditBroken, ConfigError, DaemonError, Mistake, NotFound, Refused, StoreBusy, Unavailable
from tests.cli.conftest import Household


def test_every_code_has_its_sentence() -> None:
    """No exit code is undocumented."""
    assert set(Exit) == set(MEANING)


def test_the_help_and_the_module_show_the_table() -> None:
    """`driftd --help` and the module's text say the same of every code."""
    shown = " ".join(CliRunner().invoke(cli.app, ["--help"]).stdout.split())
    written = " ".join((cli.__doc__ or "").split())

    assert [line for line in table().splitlines() if " ".join(line.split()) not in shown] == []
    assert [line for line in table().splitlines() if " ".join(line.split()) not in written] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError((Mistake("a", 1, 1, "b"),)), Exit.FOUND),
        (AuditBroken(1, "x"), Exit.FOUND),
        (NotFound("x"), Exit.NOT_FOUND),
        (Unavailable("a", "b", "c"), Exit.NOT_RUNNING),
        (Refused("a", "b", "c"), Exit.REFUSED),
        (StoreBusy("x"), Exit.REFUSED),
        (DaemonError("x"), Exit.FOUND),
    ],
)
def test_every_error_ends_with_its_code(error: DaemonError, code: Exit) -> None:
    """What driftd raises on purpose has an exit code."""
    assert code == exit_of(error)


@pytest.mark.parametrize(
    "arguments", [("no-such-command",), ("explain",), ("events", "--limit", "none"), ("runs", "nonsense")]
)
def test_a_command_line_that_is_not_understood_ends_with_2(household: Household, arguments: tuple[str, ...]) -> None:
    """Usage mistakes have a code of their own."""
    assert household.driftd(*arguments).exit_code == Exit.USAGE


def test_every_command_in_the_table_can_be_loaded() -> None:
    """The lazy table names real commands, each with a sentence of help."""
    group = CliRunner().invoke(cli.app, ["--help"])

    assert group.exit_code == 0
    assert [name for name in cli.COMMANDS if f"  {name} " not in group.stdout] == []


def test_a_misspelt_command_is_guessed() -> None:
    """A near miss names what was probably meant."""
    assert "Did you mean 'explain'?" in CliRunner().invoke(cli.app, ["explian"]).output
