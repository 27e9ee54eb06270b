"""Opens the store that config.yaml names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from daemon.config import Config
from daemon.store.base import Session, Store
from daemon.store.readonly import SqliteReader
from daemon.store.sqlite import SqliteStore
from daemon.storeparts import conninfo


class Reader(Protocol):
    """A store, for those who only read."""

    def read(self) -> AbstractContextManager[Session]:
        """A consistent view."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_store(config: Config) -> Store:
    """The daemon's own. StoreBusy when its server cannot be reached now."""
    if config.store.kind == "sqlite":
        return SqliteStore(config.store.path)
    from daemon.store.links import Server  # noqa: PLC0415 - who has a file need not wait for psycopg
    from daemon.store.postgres import PostgresStore  # noqa: PLC0415

    store = config.store
    return PostgresStore(Server(conninfo(store), store.lease.total_seconds(), store.readers))


def open_reader(config: Config) -> Reader:
    """For those who only look. NotFound when no daemon has ever run on it."""
    if config.store.kind == "sqlite":
        return SqliteReader(config.store.path)
    from daemon.store.links import Server  # noqa: PLC0415
    from daemon.store.readers import PostgresReader  # noqa: PLC0415

    return PostgresReader(Server(conninfo(config.store)))
