"""The embedded store: one SQLite file, one leading process.

WAL with synchronous=FULL: a commit is on disk when it returns. Leadership is an exclusive lock on a file beside the
database, held as long as the process lives, and an epoch inside the database that goes up with every leader; each
transaction checks it, so a process that lost the file lock (a restored disk, a removed lock file) is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.core.errors import Deposed, StoreBusy, StoreError
from daemon.store.base import Row, Session
from daemon.store.folding import Folding
from daemon.store.statements import migrations, statements

BUSY_MS = 5000
"""How long SQLite itself waits for another process's lock before the transaction counts as busy."""


class Statements:
    """Named statements on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._statements = statements()

    def rows(self, name: str, *parameters: Any) -> list[Row]:
        """All the rows of a query."""
        return self._connection.execute(self._statements[name], parameters).fetchall()

    def run(self, name: str, *parameters: Any) -> int:
        """Run a statement; the number of rows it changed."""
        return self._connection.execute(self._statements[name], parameters).rowcount

    def many(self, name: str, rows: Iterable[Row]) -> None:
        """Run a statement once per row of parameters."""
        self._connection.executemany(self._statements[name], rows)


class SqliteStore:
    """A store in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._idle: deque[sqlite3.Connection] = deque()
        """Connections for reading that nobody uses now: as many as ever read at once."""
        self._closed = False
        self._lock_file: int | None = None
        self._writer = self._connect()
        with named_errors():
            _migrate(self._writer)
        self._session = Statements(self._writer)
        self._folding: Folding | None = None

    @property
    def lease_s(self) -> float:
        """For ever while the file lock is held."""
        return 0.0 if self._lock_file is None else math.inf

    def lead(self) -> int:
        """Take the file lock, and the next epoch."""
        if self._lock_file is None:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(lock)
                raise StoreBusy(f"another driftd leads on {self._path}; stop it first (`driftd status`)") from error
            self._lock_file = lock
            self._folding = Folding(self._connect())
            self._folding.start()
        with named_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            epoch = self._epoch() + 1
            self._session.run("set_meta", "epoch", str(epoch))
            self._writer.execute("COMMIT")
        return epoch

    @contextmanager
    def transaction(self, epoch: int) -> Iterator[Session]:
        """One transaction of the leader of `epoch`."""
        with named_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                if self._epoch() != epoch:
                    raise Deposed(f"epoch {epoch} no longer leads: {self._epoch()} does")
                yield self._session
                self._writer.execute("COMMIT")
                if self._folding is not None:
                    self._folding.committed(self._writer.total_changes)
            except BaseException:
                # Some errors (a full disk) end the transaction by themselves.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A view for reading, on a connection that nobody else uses meanwhile."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
        with named_errors():
            connection.execute("BEGIN")
            try:
                yield Statements(connection)
            finally:
                connection.execute("ROLLBACK")
                self._idle.append(connection)
                if self._closed:
                    self._close_idle()

    def close(self) -> None:
        """Close all connections and let go of the lock; nobody writes any more. Who is reading closes his own at the end:
        SQLite crashes when a connection is closed that another thread uses.
        """
        if self._folding is not None:
            self._folding.close()
        self._writer.close()
        self._closed = True
        self._close_idle()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _epoch(self) -> int:
        rows = self._session.rows("epoch")
        return int(rows[0][0]) if rows else 0

    def _connect(self) -> sqlite3.Connection:
        with named_errors():
            connection = sqlite3.connect(
                self._path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            # The log is folded back at least every 32 MB, so that it stays in the page cache and bounded on disk.
            connection.execute("PRAGMA wal_autocheckpoint = 8000")
        return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. Of two that switch a fresh file at once SQLite refuses one without waiting: it tries again."""
    until, pause = time.monotonic() + BUSY_MS / 1000, threading.Event()
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY" or time.monotonic() > until:
                raise
            pause.wait(0.02)
        else:
            return


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema, in one transaction: of two processes that open it at once, one does it."""
    newest = migrations()[-1][0]
    if _version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > newest:
            raise StoreError(f"the store has schema {version}, this driftd knows {newest}: a newer one wrote it")
        for number, script in migrations():
            if number > version:
                for statement in _split(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _split(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def named_errors() -> Iterator[None]:
    """SQLite's errors as ours: locked, full and unwritable mean try again, the rest is trouble."""
    try:
        yield
    except sqlite3.OperationalError as error:
        passing = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY"}
        name = getattr(error, "sqlite_errorname", "")
        if any(name.startswith(prefix) for prefix in passing):
            raise StoreBusy(f"{error} ({name})") from error
        raise StoreError(f"{error} ({name})") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(str(error)) from error
