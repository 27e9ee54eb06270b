"""What the tests of sources share: the real writer over a real store, a clock, and a source at work."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from daemon.config import Config
from daemon.core.rules import RuleSet
from daemon.intake import ALL, Batch, FileMark, Receipt
from daemon.running import Running
from daemon.sources.base import Source
from daemon.store.sqlite import SqliteStore
from daemon.writer import Writer


def eventually(holds: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `holds`, asked again and again; fails when there is none in time."""
    until = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < until, "it never came true"
        threading.Event().wait(0.02)
    return value


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def move(self, **by: float) -> None:
        """Move it by a timedelta's parts; negative ones move it back."""
        self.now += timedelta(**by)


class Desk:
    """A daemon's store and writer, which can be killed and opened again. It is the Intake of the sources under test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "store.db"
        self.patience = 30.0
        """Most seconds that `submit` waits, whatever it is told."""
        self._open()

    def _open(self) -> None:
        self._store = SqliteStore(self.path)
        self.writer = Writer(
            self._store, Running(Config(home=self.home), {}), lambda: datetime.now(UTC), self.home / "heads.jsonl"
        )
        self.writer.start()
        self.writer.load(RuleSet(()), {})

    def reopen(self) -> None:
        """Stop and start again: only what is stored is left."""
        self.close()
        self._open()

    def close(self) -> None:
        """Stop."""
        self.writer.stop()
        self._store.close()

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """See Intake."""
        return self.writer.submit(batch, min(timeout, self.patience))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else has the database locked, so the writer can write nothing."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    def cursor(self, source: str) -> Any:
        """See Intake."""
        return self.writer.cursor(source)

    def files(self, owner: str, after: str = "", limit: int = ALL) -> dict[str, FileMark]:
        """See Intake."""
        return self.writer.files(owner, after, limit)

    def gone(self, owner: str) -> bytes:
        """See Intake."""
        return self.writer.gone(owner)

    def progress(self, stream: str, partition: str) -> int:
        """See Intake."""
        return self.writer.progress(stream, partition)

    def states(self, stream: str) -> dict[str, bytes]:
        """See Intake."""
        return self.writer.states(stream)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The data of all stored events of a type, in order."""
        return [orjson.loads(row[0]) for row in self._rows("SELECT data FROM events WHERE type = ? ORDER BY seq", kind)]

    def chains(self, kind: str) -> list[tuple[str, ...]]:
        """The chains of all stored events of a type, in order."""
        rows = self._rows("SELECT chain FROM events WHERE type = ? ORDER BY seq", kind)
        return [tuple(orjson.loads(row[0])) for row in rows]

    def problems(self, kind: str) -> list[tuple[str, str]]:
        """Where and why, of all stored problems of a kind."""
        return sorted(self._rows("SELECT place, reason FROM problems WHERE kind = ?", kind))

    def _rows(self, query: str, *parameters: Any) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            return database.execute(query, parameters).fetchall()


@contextlib.contextmanager
def running(source: Source, desk: Desk) -> Iterator[None]:
    """The source at work in a thread of its own; a source that raises fails the test."""
    stop = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            source.run(desk, stop)
        except BaseException as error:
            raised.append(error)
            raise

    thread = threading.Thread(target=run, name=source.name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the source does not stop"
        assert raised == []
