"""What sources and monitors ask of the store: how far they had come. The writer answers, from a view for reading."""

from __future__ import annotations

from typing import Any

import orjson

from daemon.intake import FileMark
from daemon.store.base import Store


class Answers:
    """The half of `daemon.intake.Intake` that only reads. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def cursor(self, source: str) -> Any:
        """The stored cursor of a source."""
        with self._store.read() as session:
            rows = session.rows("cursor", source)
        return orjson.loads(rows[0][0]) if rows else None

    def files(self, owner: str) -> dict[str, FileMark]:
        """The files of an owner, by path."""
        with self._store.read() as session:
            marks = [FileMark(*row) for row in session.rows("files", owner)]
        return {mark.path: mark for mark in marks}

    def progress(self, stream: str, partition: str) -> int:
        """How far a partition was measured."""
        with self._store.read() as session:
            rows = session.rows("progress", stream, partition)
        return int(rows[0][0]) if rows else 0

    def states(self, stream: str) -> dict[str, bytes]:
        """The state blobs of a stream."""
        with self._store.read() as session:
            return {key: bytes(blob) for key, blob in session.rows("states", stream)}
