"""Folds SQLite's log back into its file, beside the writer instead of in one of its commits.

In WAL mode the commit that fills the log copies it into the database file and syncs both: tens of milliseconds in which
nothing else is stored. A thread with a connection of its own does that work early (PASSIVE, https://sqlite.org/wal.html
section 3.2: it waits for nobody and holds nobody up); what is left to the writer's own checkpoint is the last part.
"""

from __future__ import annotations

import sqlite3
import threading

ROWS = 4000
"""Changed rows after which folding is worth its syncs."""


class Folding:
    """A thread that folds when enough has been committed, on a connection that is its own from now on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._wake = threading.Event()
        self._over = False
        self._folded = 0
        self._thread = threading.Thread(target=self._loop, name="folding", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def committed(self, changes: int) -> None:
        """The writer has committed; `changes` is its count of all changed rows so far."""
        if changes - self._folded >= ROWS:
            self._folded = changes
            self._wake.set()

    def close(self) -> None:
        """End; returns when nothing is being folded any more."""
        self._over = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._connection.close()

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._over:
                return
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error:
                # A full disk or a lock: the log keeps everything, and the writer meets the same trouble and tells it.
                continue
