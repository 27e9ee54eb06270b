"""The embedded store for those who only look: nothing is made, migrated, locked or written, whether a daemon runs or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.core.errors import NotFound, StoreError
from daemon.store.base import Session
from daemon.store.sqlite import BUSY_MS, Statements, named_errors
from daemon.store.statements import migrations


class SqliteReader:
    """A store that can be read, for one thread."""

    def __init__(self, path: Path) -> None:
        """NotFound when there is no store there, StoreError when its schema is another than this driftd knows."""
        if not path.is_file():
            raise NotFound(f"there is no store at {path}: no daemon has run here yet")
        with named_errors():
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_MS / 1000, isolation_level=None
            )
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        newest = migrations()[-1][0]
        if version != newest:
            self.close()
            raise StoreError(f"the store has schema {version}, this driftd knows {newest}; `driftd start` migrates it")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view."""
        with named_errors():
            self._connection.execute("BEGIN")
            try:
                yield Statements(self._connection)
            finally:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
