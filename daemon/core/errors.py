"""Everything driftd raises on purpose.

DaemonError
├─ ConfigError          mistakes in config.yaml, rules or templates; collected, never raised one by one
├─ IllegalTransition    the run table has no such move
├─ AuditBroken          the audit chain does not verify
├─ StoreError           database trouble; the cause is chained
│  ├─ StoreBusy         locked or full: nothing was written, try again
│  ├─ Fenced            progress is owned by another: the batch was refused whole
│  ├─ Deposed           another leader's epoch is stored: this process must stop
│  └─ Kept              a transaction whose end was not told had been committed: do not write it again
├─ NotFound             nothing of that name is there
├─ BadInput             a record, file or request that cannot be read; it becomes a stored problem
└─ ClientError          a service said no
   ├─ Unavailable       try again later                 -> outcome Again
   ├─ Conflict          it exists already, or moved on  -> adopt or re-read
   └─ Refused           never going to work             -> outcome Failed
"""

from __future__ import annotations

from dataclasses import dataclass


class DaemonError(Exception):
    """Base of everything driftd raises on purpose."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a file that a person wrote; `line` and `column` count from 1, 0 means unknown."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        """`file:line:col: message`, as editors and compilers print it."""
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(DaemonError):
    """All the mistakes found in the files a person wrote, at once."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class IllegalTransition(DaemonError):
    """The run table has no move for this state and signal."""

    def __init__(self, state: str, signal: str) -> None:
        super().__init__(f"a run in state {state} has no move for signal {signal}")
        self.state = state
        self.signal = signal


class AuditBroken(DaemonError):
    """The audit chain does not verify at `seq`."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"audit record {seq}: {why}")
        self.seq = seq
        self.why = why


class StoreError(DaemonError):
    """The store could not do it; the database's own error is chained."""


class StoreBusy(StoreError):
    """The database is locked or its disk is full: nothing was written, try again later."""


class Fenced(StoreError):
    """Progress is not where the writer of the batch thought: somebody else owns it, and the batch was refused whole."""


class Deposed(StoreError):
    """Another process leads now: nothing was written, and this one must stop."""


class Kept(StoreError):
    """A transaction before, whose COMMIT was not answered and which counted as busy, is durable: it must not be done again."""


class NotFound(DaemonError):
    """What was asked for by name is not there."""


class BadInput(DaemonError):
    """A record, file or request that cannot be read; becomes a stored problem with this reason."""


class ClientError(DaemonError):
    """A service said no, or nothing."""

    def __init__(self, service: str, operation: str, why: str, hint: str = "") -> None:
        super().__init__(f"{service}: {operation}: {why}" + (f" ({hint})" if hint else ""))
        self.service = service
        self.operation = operation
        self.why = why
        self.hint = hint


class Unavailable(ClientError):
    """The service cannot answer now; the same call may work later."""


class Conflict(ClientError):
    """What was to be made exists already, or the precondition of the write no longer holds."""


class Refused(ClientError):
    """The service understood and will never do it."""
