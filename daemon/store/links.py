"""Connections to PostgreSQL: how they are opened, what runs on them, and the server's errors as ours.

The one module that imports psycopg; it is imported only where `store: {kind: postgres}` is configured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from daemon.core.errors import StoreBusy, StoreError
from daemon.store.base import Row
from daemon.store.statements import postgres_statements

Connection = psycopg.Connection[Any]

CONNECT_S = 5
"""How long making a connection may take, per address of the server."""
STATEMENT_S = 30
"""How long one statement may take; the server ends it then."""
LOCK_S = 5
"""How long a statement waits for a row or table that somebody else holds."""
IDLE_S = 10
"""How long a transaction may do nothing: a leader that is stopped in the middle of one must not hold up the next."""
SILENT_MS = 15_000
"""A server that has not acknowledged what was sent to it for so long counts as gone."""
OLDEST = 140_000
"""PostgreSQL 14: executemany without a round trip per row needs what it brought."""

_PASSING = ("08", "25P03", "40", "53", "55P03", "57", "58")
"""Beginnings of SQLSTATEs that pass: no connection, an idle transaction ended, a conflict, no room or memory, a lock, an
operator's or a time limit's word, an I/O error (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
_APPEND = re.compile(r"INSERT INTO (\w+ \([^)]*\))\s*VALUES \((?:\$\d+(?:, )?)+\)")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a PostgreSQL is, and how long it is waited for."""

    conninfo: str = field(repr=False)
    """libpq's connection string or URI; it may have a password in it."""
    lease_s: float = 60.0
    """How long a leader leads without a word."""
    readers: int = 8
    """Most connections for reading, of one process."""


class Statements:
    """Named statements on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(connection)
        self._statements = postgres_statements()

    def rows(self, name: str, *parameters: Any) -> list[Row]:
        """All the rows of a query."""
        with named_errors():
            return self._cursor.execute(self._statements[name], _shown(parameters)).fetchall()

    def run(self, name: str, *parameters: Any) -> int:
        """Run a statement; the number of rows it changed."""
        with named_errors():
            return self._cursor.execute(self._statements[name], _shown(parameters)).rowcount

    def many(self, name: str, rows: Iterable[Row]) -> None:
        """Run a statement once per row of parameters; rows that are only added are copied in one stream."""
        statement = self._statements[name]
        target = _appended(statement)
        with named_errors():
            if target is None:
                self._cursor.executemany(statement, map(_shown, rows))
                return
            with self._cursor.copy(f"COPY {target} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(_shown(row))


def _shown(row: Row) -> Row:
    """PostgreSQL's texts have no NUL. Names of events have none either (`unstorable`), and in JSON it is escaped; in what
    remains, like a handler's note, it is shown as U+2400.
    """
    if any(type(value) is str and "\x00" in value for value in row):
        return tuple(value.replace("\x00", "\u2400") if isinstance(value, str) else value for value in row)
    return row


@cache
def _appended(statement: str) -> str | None:
    found = _APPEND.fullmatch(statement)
    return found and found[1]


def connect(server: Server, **settings: str) -> Connection:
    """A new connection, with its time limits. StoreBusy when there is none to be had now."""
    limits = {
        "statement_timeout": f"{STATEMENT_S}s",
        "lock_timeout": f"{LOCK_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        "synchronous_commit": "on",
        "client_encoding": "UTF8",
        **settings,
    }
    with named_errors():
        connection: Connection = psycopg.connect(
            make_conninfo(
                server.conninfo, connect_timeout=CONNECT_S, tcp_user_timeout=SILENT_MS,
                keepalives_idle=10, keepalives_interval=5, keepalives_count=2,
            ),
            autocommit=True,
        )  # fmt: skip
        try:
            _check(connection)
            # Every whole number is a bigint: a statement is prepared once, not once per size of its numbers.
            connection.adapters.register_dumper(int, Int8Dumper)
            connection.prepare_threshold = 2
            connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted(name, value)",
                ([*limits], [*limits.values()]),
            )
        except BaseException:
            connection.close()
            raise
    return connection


def _check(connection: Connection) -> None:
    if connection.info.server_version < OLDEST:
        raise StoreError(f"PostgreSQL {connection.info.server_version // 10_000} is too old: driftd needs 14 or newer")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(f"the database's encoding is {encoding}: create it anew with ENCODING 'UTF8'")


def broken(connection: Connection) -> bool:
    """Whether nothing can be done on it any more; then it is let go of."""
    if not connection.closed and connection.pgconn.transaction_status is not TransactionStatus.UNKNOWN:
        return False
    connection.close()
    return True


def undo(connection: Connection) -> None:
    """Roll back; a connection on which that cannot be done is closed, which does the same."""
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:
        connection.close()


@contextmanager
def named_errors() -> Iterator[None]:
    """The server's errors as ours: what passes means try again, the rest is trouble."""
    try:
        yield
    except psycopg.Error as error:
        text = " ".join(str(error).split())
        code = error.sqlstate or ""
        if code.startswith(_PASSING) or (not code and isinstance(error, psycopg.OperationalError)):
            raise StoreBusy(f"{text} ({code})" if code else text) from error
        raise StoreError(f"{text} ({code})" if code else text) from error
