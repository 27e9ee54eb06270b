"""Where the rows of a body are, when many bodies were decoded together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CELL = 16
"""What a value is taken to need besides its letters (bytes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """The rows of some bodies: those of body n are [starts[n], starts[n + 1])."""

    starts: list[int]
    columns: Mapping[str, Any]
    """Arrow arrays of those columns that are wanted and there."""
    sizes: list[int]
    """What the columns of each body are taken to need, as `halves` counts it (bytes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The rows of one body."""

    table: Together
    at: int

    @property
    def start(self) -> int:
        """Where they begin."""
        return self.table.starts[self.at]

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.table.starts[self.at + 1] - self.table.starts[self.at]

    @property
    def size(self) -> int:
        """See Together."""
        return self.table.sizes[self.at]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a half is whose body was decoded with others, and which is not kept beyond them."""

    place: Place
    number: str = ""
    """Of the call, by which its rows are called; empty where the stream has other ids."""
    said: Mapping[str, str | None] | None = None
    """The attributes that are wanted: the same for all rows."""

    @property
    def size(self) -> int:
        """What its columns are taken to need (bytes)."""
        rows, size = self.place.rows, self.place.size
        for name, text in (self.said or {}).items():
            size += len(name) + (CELL + len(text or "")) * rows
        if self.number:
            size += len("id") + (CELL + len(self.number) + 1) * rows + _digits(rows)
        return size


def _digits(count: int) -> int:
    """How many digits the numbers from 0 on have, together."""
    digits, least = count, 10
    while least < count:
        digits += count - least
        least *= 10
    return digits
