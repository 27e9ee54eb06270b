"""The store, as the writer and the readers see it: named statements, in a transaction or not.

The statements are in `sql/queries.sql`; a second database answers the same names, with its own dialect where it must
(`sql/postgres/`). Only the writer opens a transaction; everybody else reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

Row = tuple[Any, ...]


class Session(Protocol):
    """Runs statements by name."""

    def rows(self, name: str, *parameters: Any) -> list[Row]:
        """All the rows of a query."""
        ...

    def run(self, name: str, *parameters: Any) -> int:
        """Run a statement; the number of rows it changed."""
        ...

    def many(self, name: str, rows: Iterable[Row]) -> None:
        """Run a statement once per row of parameters."""
        ...


class Store(Protocol):
    """A database that driftd owns."""

    def transaction(self, epoch: int) -> AbstractContextManager[Session]:
        """One transaction of the leader: committed durably at the end, or nothing of it on any exception.

        Raises Deposed when another leader's epoch is stored, and StoreBusy when the database is locked, its disk full, or
        its server away. A StoreBusy at the end may leave open whether it was committed; the next transaction then begins
        with Kept when it was. Kept is raised once, before anything is written.
        """
        ...

    def read(self) -> AbstractContextManager[Session]:
        """A consistent view for reading, from any thread."""
        ...

    def lead(self) -> int:
        """Become the leader; the new epoch. Raises StoreBusy when another process leads."""
        ...

    @property
    def lease_s(self) -> float:
        """Seconds for which nobody else can become the leader, as far as is known here without asking; for ever when
        others must wait until this process ends, minus infinity when another leads by now.
        """
        ...

    def close(self) -> None:
        """Let go of everything, leadership too."""
        ...
