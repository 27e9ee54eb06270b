"""Named SQL statements, read from `sql/queries.sql`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """Name -> statement."""
    parts = _NAME.split((FOLDER / "queries.sql").read_text(encoding="utf-8"))
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """(number, script) of each migration, ascending."""
    files = sorted((FOLDER / "migrations").glob("[0-9][0-9][0-9]_*.sql"))
    return tuple((int(file.name[:3]), file.read_text(encoding="utf-8")) for file in files)
