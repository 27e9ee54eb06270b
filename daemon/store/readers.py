"""Views of a PostgreSQL store, for who only reads: on connections that are kept, as many as ever read at once."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from daemon.core.errors import NotFound, StoreBusy, StoreError
from daemon.store.base import Session
from daemon.store.links import Connection, Server, Statements, broken, connect, named_errors, undo
from daemon.store.statements import postgres_migrations

READING_S = 10.0
"""How long a reader waits for a connection when all are taken."""
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Readers:
    """Connections for reading. Safe to use from any thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._idle: deque[Connection] = deque()
        self._places = threading.BoundedSemaphore(server.readers)
        self._closed = False

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One moment of the database, whatever is committed meanwhile. StoreBusy when all connections stay taken."""
        if not self._places.acquire(timeout=READING_S):
            raise StoreBusy(f"{self._server.readers} others have been reading for {READING_S:g} s")
        try:
            connection = self._begun()
            try:
                yield Statements(connection)
            finally:
                undo(connection)
                if not broken(connection):
                    self._idle.append(connection)
                if self._closed:
                    self._close_idle()
        finally:
            self._places.release()

    def close(self) -> None:
        """Close all connections; who is reading closes his own at the end."""
        self._closed = True
        self._close_idle()

    def _begun(self) -> Connection:
        """A connection in a transaction for reading. Those that a restart of the server has broken are passed over."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect(self._server)
                with named_errors():
                    connection.execute(_BEGIN)
                return connection
            try:
                with named_errors():
                    connection.execute(_BEGIN)
            except StoreBusy:
                connection.close()
            else:
                return connection

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


class PostgresReader:
    """A store that can be read: nothing is made, migrated or written, whether a daemon runs or not."""

    def __init__(self, server: Server) -> None:
        """NotFound when no daemon has ever used the database, StoreError when its schema is another than this driftd knows."""
        connection = connect(server)
        try:
            version = schema_of(connection)
        finally:
            connection.close()
        newest = postgres_migrations()[-1][0]
        if not version:
            raise NotFound("there is no store in that database: no daemon has used it yet")
        if version != newest:
            raise StoreError(f"the store has schema {version}, this driftd knows {newest}; `driftd start` migrates it")
        self._readers = Readers(server)

    def read(self) -> AbstractContextManager[Session]:
        """A consistent view."""
        return self._readers.read()

    def close(self) -> None:
        """Let go of the server."""
        self._readers.close()


def schema_of(connection: Connection) -> int:
    """Number of the last migration; 0 in a fresh database."""
    with named_errors():
        ((there,),) = connection.execute("SELECT to_regclass('migrations') IS NOT NULL").fetchall()
        if not there:
            return 0
        ((version,),) = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchall()
    return int(version)
