"""What sources and monitors ask of the store: how far they had come. The writer answers, from a view for reading."""

from __future__ import annotations

from typing import Any

import orjson

from daemon.clients.gone import pack
from daemon.intake import ALL, FileMark
from daemon.store.base import Row, Store

GONE = 10_000
"""Files that are gone that are read at once."""


class Answers:
    """The half of `daemon.intake.Intake` that only reads. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def cursor(self, source: str) -> Any:
        """The stored cursor of a source."""
        with self._store.read() as session:
            rows = session.rows("cursor", source)
        return orjson.loads(rows[0][0]) if rows else None

    def files(self, owner: str, after: str = "", limit: int = ALL) -> dict[str, FileMark]:
        """The files of an owner that are there, by path."""
        with self._store.read() as session:
            return {row[1]: FileMark(*row) for row in session.rows("files", owner, after, limit)}

    def gone(self, owner: str) -> bytes:
        """What is known of the files of an owner that are gone."""
        pieces: list[bytes] = []
        last: Row = (b"", b"", 0)
        with self._store.read() as session:
            while rows := session.rows("gone", owner, last[2], last[0], GONE):
                pieces.append(pack(rows))
                last = rows[-1]
        return b"".join(pieces)

    def progress(self, stream: str, partition: str) -> int:
        """How far a partition was measured."""
        with self._store.read() as session:
            rows = session.rows("progress", stream, partition)
        return int(rows[0][0]) if rows else 0

    def states(self, stream: str) -> dict[str, bytes]:
        """The state blobs of a stream."""
        with self._store.read() as session:
            return {key: bytes(blob) for key, blob in session.rows("states", stream)}
