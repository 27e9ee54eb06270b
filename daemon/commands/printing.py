"""How commands print: JSON for programs, plain tables for people, errors to standard error.

Text that came from outside (reasons, names, event data) is printed as it is: never as markup, and control characters
that a terminal would obey are shown, not sent.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

import orjson
import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many, the newest first.")]

_WIDE = 200
"""Columns where there is no terminal to ask."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), 11, 12, *range(14, 32), 127, *range(128, 160))}


def print_json(value: Any) -> None:
    """One JSON document: on one line for programs, indented on a terminal."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.write(orjson.dumps(value, default=_plain, option=option).decode() + "\n")


def print_line(text: str = "") -> None:
    """A line of text."""
    sys.stdout.write(shown(text) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A table; the sentence `empty` when there are no rows. The last column may wrap."""
    from rich.console import Console  # noqa: PLC0415 - only commands that print a table wait for rich
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(Text(shown(str(cell))) for cell in row))
    if not table.row_count:
        print_line(empty)
        return
    width = None if sys.stdout.isatty() else _WIDE
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def print_error(text: str) -> None:
    """A line to standard error."""
    sys.stderr.write(shown(text) + "\n")


def shown(text: str) -> str:
    """Text from outside, harmless to a terminal."""
    return text.translate(_CONTROL)


def when(moment: datetime | None) -> str:
    """A time for people, to the second, in UTC; empty when there is none."""
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def brief(value: Any, longest: int = 100) -> str:
    """A JSON value on one line, cut when it is long."""
    text = value if isinstance(value, str) else orjson.dumps(value, default=_plain).decode()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def as_json(value: Any) -> dict[str, Any]:
    """A frozen dataclass as JSON values, one level deep: fields by their names."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
