"""Exit codes: what a script may rely on."""

from __future__ import annotations

from enum import IntEnum

from daemon.core.errors import (
    AuditBroken,
    BadInput,
    ConfigError,
    DaemonError,
    NotFound,
    Refused,
    StoreBusy,
    StoreError,
    Unavailable,
)


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FOUND = 1
    USAGE = 2
    NOT_RUNNING = 3
    NOT_FOUND = 4
    REFUSED = 5


MEANING = {
    Exit.DONE: "done, and all is well",
    Exit.FOUND: "something is wrong: mistakes in files, a broken audit chain, nothing answered, a word that changed nothing",
    Exit.USAGE: "the command line is not understood",
    Exit.NOT_RUNNING: "no daemon runs here, or it does not answer",
    Exit.NOT_FOUND: "there is no such run, event, decision, rule, version or file",
    Exit.REFUSED: "not now: refused, busy, or another daemon leads",
}
"""The table that `driftd --help` shows."""

OF_ERROR: tuple[tuple[type[DaemonError], Exit], ...] = (
    (ConfigError, Exit.FOUND),
    (AuditBroken, Exit.FOUND),
    (BadInput, Exit.FOUND),
    (NotFound, Exit.NOT_FOUND),
    (Unavailable, Exit.NOT_RUNNING),
    (Refused, Exit.REFUSED),
    (StoreBusy, Exit.REFUSED),
    (StoreError, Exit.FOUND),
    (DaemonError, Exit.FOUND),
)
"""Which code an error ends a command with: the first that fits."""


def exit_of(error: DaemonError) -> Exit:
    """The code of an error that ended a command."""
    return next(code for kind, code in OF_ERROR if isinstance(error, kind))


def table() -> str:
    """The codes for people, a line each."""
    return "\n".join(f"{code.value}  {meaning}" for code, meaning in MEANING.items())
