"""Named SQL statements and numbered migrations, read from `sql/`.

`queries.sql` and `migrations/` are SQLite's. PostgreSQL takes the same statements, with its own placeholders; those that it
says in other words, and its migrations under the same numbers, are in `sql/postgres/`.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PLACE = re.compile(r"\?(\d*)")
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """Name -> statement, as SQLite takes it."""
    return _named(FOLDER / "queries.sql")


@cache
def postgres_statements() -> dict[str, str]:
    """Name -> statement, as PostgreSQL takes it: `$1` for the first parameter."""
    return {name: _numbered(text) for name, text in statements().items()} | _named(FOLDER / "postgres" / "queries.sql")


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """(number, script) of each of SQLite's migrations, ascending."""
    return _scripts(FOLDER / "migrations")


@cache
def postgres_migrations() -> tuple[tuple[int, str], ...]:
    """(number, script) of each of PostgreSQL's migrations, ascending."""
    return _scripts(FOLDER / "postgres" / "migrations")


def _named(path: Path) -> dict[str, str]:
    parts = _NAME.split(path.read_text(encoding="utf-8"))
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _scripts(folder: Path) -> tuple[tuple[int, str], ...]:
    files = sorted(folder.glob("[0-9][0-9][0-9]_*.sql"))
    return tuple((int(file.name[:3]), file.read_text(encoding="utf-8")) for file in files)


def _numbered(text: str) -> str:
    """With `$1` for `?` and `?1`. No statement has a question mark in a text; in a comment it may."""
    count = itertools.count(1)
    return _PLACE.sub(lambda found: f"${found[1] or next(count)}", _COMMENT.sub("", text))
