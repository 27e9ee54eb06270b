"""The store that several replicas share: a PostgreSQL database, in which one process at a time leads.

Each transaction of the leader first holds its epoch's row (`hold_epoch`), so another leader's epoch is either seen, and the
write refused, or cannot begin before the transaction has ended. Commits are durable when they return (synchronous_commit).

A connection that is lost in a COMMIT leaves open whether it was one. The next transaction asks the server first, by the id
of the one before (https://www.postgresql.org/docs/current/functions-info.html, pg_xact_status), and raises Kept when it had
been committed: what it wrote is there, and must not be written again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

from daemon.core.errors import Deposed, Kept, StoreBusy, StoreError
from daemon.store.base import Session
from daemon.store.lease import Lease
from daemon.store.links import Connection, Server, Statements, broken, connect, named_errors, undo
from daemon.store.readers import Readers, schema_of
from daemon.store.statements import postgres_migrations

MIGRATING = 0x6472_6966_7464
"""Advisory lock of the database under which the schema is brought up to date."""
LIMITS = ["statement_timeout", "lock_timeout"]
"""What does not hold meanwhile."""


class PostgresStore:
    """A store in one database."""

    def __init__(self, server: Server) -> None:
        """StoreBusy when the server cannot be reached now, StoreError when the database is not fit."""
        self._server = server
        self._writer: Connection | None = None
        self._doubt = ""
        """Id of the transaction of which it is not known whether it was committed; empty when there is none."""
        self._lease: Lease | None = None
        self._readers = Readers(server)
        try:
            _migrate(self._connected())
        except BaseException:
            self.close()
            raise

    @property
    def lease_s(self) -> float:
        """See Store."""
        return 0.0 if self._lease is None else self._lease.left_s

    def lead(self) -> int:
        """Take the lead if nobody has it, and the next epoch."""
        if self._lease is None:
            self._lease = Lease(self._server, f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}")
        return self._lease.take()

    @contextmanager
    def transaction(self, epoch: int) -> Iterator[Session]:
        """One transaction of the leader of `epoch`."""
        connection = self._connected()
        session = Statements(connection)
        self._settle_doubt(session)
        try:
            with named_errors():
                connection.execute("BEGIN")
            ((stored, transaction),) = session.rows("hold_epoch")
            if stored != epoch:
                if self._lease is not None:
                    self._lease.lost()
                raise Deposed(f"epoch {epoch} no longer leads: {stored} does")
            yield session
            self._doubt = transaction
            with named_errors():
                ended = connection.execute("COMMIT").statusmessage
            self._doubt = ""
            if ended != "COMMIT":
                raise StoreError("the transaction was rolled back: a statement of it had failed")
        except BaseException:
            undo(connection)
            if not broken(connection):
                self._doubt = ""  # the server has said that it was not committed
            raise

    def read(self) -> AbstractContextManager[Session]:
        """A view for reading, on a connection that nobody else uses meanwhile."""
        return self._readers.read()

    def close(self) -> None:
        """Let others lead, and close all connections; nobody writes any more. Who is reading closes his own at the end."""
        if self._lease is not None:
            self._lease.leave()
        if self._writer is not None:
            self._writer.close()
        self._readers.close()

    def _connected(self) -> Connection:
        """The writer's connection, made anew when the last one broke."""
        if self._writer is None or broken(self._writer):
            self._writer = connect(self._server)
        return self._writer

    def _settle_doubt(self, session: Statements) -> None:
        """Ask what became of a COMMIT that was not answered."""
        if not self._doubt:
            return
        ((outcome,),) = session.rows("outcome", self._doubt)
        if outcome == "in progress":
            raise StoreBusy(f"transaction {self._doubt}, whose end was not told, is still at work")
        transaction, self._doubt = self._doubt, ""
        if outcome == "committed":
            raise Kept(f"transaction {transaction}, whose end was not told, was committed")


def _migrate(connection: Connection) -> None:
    """Bring the database to the newest schema, in one transaction: of two processes that open it at once, one does it."""
    newest = postgres_migrations()[-1][0]
    with named_errors():
        if schema_of(connection) == newest:
            return
        connection.execute("BEGIN")
        try:
            # Another may be at it, and an index over much takes its time.
            connection.execute(
                "SELECT set_config(name, '600s', true) FROM unnest(%s::text[]) AS limits(name)", (LIMITS,)
            )
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
            # Before the look: what another made while we waited is only seen by a statement that locks what it names, and
            # to_regclass locks nothing.
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, at TIMESTAMPTZ NOT NULL)"
            )
            version = schema_of(connection)
            if version > newest:
                raise StoreError(f"the store has schema {version}, this driftd knows {newest}: a newer one wrote it")
            for number, script in postgres_migrations():
                if number > version:
                    connection.execute(script.encode())
                    connection.execute("INSERT INTO migrations VALUES (%s, now())", (number,))
            connection.execute("COMMIT")
        except BaseException:
            undo(connection)
            raise
