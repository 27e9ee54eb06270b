"""Files of records -> raw columns, a bounded number of records at a time: JSONL, CSV and Parquet, by file name, also gzipped.

A malformed record costs that record; what cannot be read at all raises BadInput with the place reached. Reading the same
file from the same record gives the same chunks, so a restart goes on where the last transaction ended.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from daemon.core.errors import BadInput

CHUNK = 10_000
"""Records per chunk: the unit in which a file is measured, and after which progress may be stored."""
LINE = "line"
"""The column of `whole_lines`."""
_LINE = 8 << 20
"""Longest line in bytes; a longer one is a malformed record."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that cannot be used."""

    where: int
    """Its line (JSONL, CSV) or row (Parquet), counted from 1."""
    reason: str
    raw: Any
    """The record as a dict when it could be parsed, else its bytes."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Some records of a file as columns; the columns that the file does not have at all are left out."""

    start: int
    """Index of the first record, malformed ones counted."""
    read: int
    """Records read, malformed ones included."""
    columns: dict[str, Any]
    """Field -> list of values, or pyarrow array."""
    lines: Sequence[int]
    """Line or row of each record in the columns."""
    malformed: tuple[Malformed, ...]
    text: bool
    """Every value is text (CSV), so numbers are parsed."""
    is_safe: bool = False
    """The stream's privacy is applied already."""

    @property
    def count(self) -> int:
        """Records in the columns."""
        return len(self.lines)


def chunks(path: Path, fields: Sequence[str], start: int = 0, size: int = CHUNK) -> Iterator[Raw]:
    """The records of a file from record `start` on, `size` at a time, with the columns named by `fields`.

    A dot in a field reaches into nested records unless a field of exactly that name is there.
    Raises BadInput when the file, or the rest of it, cannot be read; the message says where and why.
    """
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    try:
        if plain.endswith((".parquet", ".pq")):
            yield from _parquet(path, fields, start, size)
        elif plain.endswith((".jsonl", ".ndjson", ".json")):
            yield from _jsonl(path, fields, start, size)
        elif plain.endswith(".csv"):
            yield from _csv(path, fields, start, size)
        else:
            raise BadInput(f"{path}: its name does not say what it is; expected .jsonl, .csv or .parquet")
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read to its end ({str(error) or type(error).__name__})") from error


def whole_lines(path: Path, start: int = 0, size: int = CHUNK) -> Iterator[Raw]:
    """The lines of a file as they are, in the column LINE, for formats of their own. Otherwise as `chunks`."""
    try:
        with _open(path) as file:
            lines = _numbered(file)
            skipped = sum(1 for _ in itertools.islice(lines, start))
            while batch := list(itertools.islice(lines, size)):
                reason = f"the line is longer than {_LINE >> 20} MiB"
                good = [(number, line) for number, line in batch if len(line) <= _LINE]
                malformed = tuple(Malformed(number, reason, line) for number, line in batch if len(line) > _LINE)
                columns = {LINE: [line for _, line in good]}
                yield Raw(skipped, len(batch), columns, [number for number, _ in good], malformed, text=False)
                skipped += len(batch)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read to its end ({str(error) or type(error).__name__})") from error


def dig(record: dict[str, Any], field: str) -> Any:
    """The value of a field of a record, nested or not; None when it is not there."""
    if field in record:
        return record[field]
    value: Any = record
    for name in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _jsonl(path: Path, fields: Sequence[str], start: int, size: int) -> Iterator[Raw]:
    with _open(path) as file:
        lines = _numbered(file)
        skipped = sum(1 for _ in itertools.islice(lines, start))
        while batch := list(itertools.islice(lines, size)):
            records: list[dict[str, Any]] = []
            numbers: list[int] = []
            malformed: list[Malformed] = []
            for number, line in batch:
                record = _object(line)
                if isinstance(record, dict):
                    records.append(record)
                    numbers.append(number)
                else:
                    malformed.append(Malformed(number, record, line))
            yield Raw(skipped, len(batch), by_field(records, fields), numbers, tuple(malformed), text=False)
            skipped += len(batch)


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1; of a line that is too long, its beginning."""
    for number in itertools.count(1):
        line = file.readline(_LINE + 1)
        if not line:
            return
        if len(line) > _LINE:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(_LINE)
        if line.strip():
            yield number, line


def _object(line: bytes) -> dict[str, Any] | str:
    """The record of a line, or why there is none."""
    if len(line) > _LINE:
        return f"the line is longer than {_LINE >> 20} MiB"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    return record if isinstance(record, dict) else "not a JSON object"


def by_field(records: list[dict[str, Any]], fields: Sequence[str]) -> dict[str, Any]:
    """The records' fields as lists, None where one is not there."""
    columns: dict[str, Any] = {}
    for field in fields:
        if "." in field:
            columns[field] = [dig(record, field) for record in records]
        else:
            columns[field] = [record.get(field) for record in records]
    return columns


def _csv(path: Path, fields: Sequence[str], start: int, size: int) -> Iterator[Raw]:
    with _open(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="") as file:
        # surrogateescape: a byte that is no UTF-8 costs its record, not the file.
        reader = csv.reader(file, strict=True)
        header = _header(path, reader)
        wanted = {field: header.index(field) for field in fields if field in header}
        rows = _numbered_rows(reader)
        skipped = sum(1 for _ in itertools.islice(rows, start))
        while batch := list(itertools.islice(rows, size)):
            good: list[list[str]] = []
            numbers: list[int] = []
            malformed: list[Malformed] = []
            for number, row, fault in batch:
                reason = fault or _row_fault(row, len(header))
                if reason:
                    malformed.append(Malformed(number, reason, _row_raw(header, row)))
                else:
                    good.append(row)
                    numbers.append(number)
            columns: dict[str, Any] = {field: [row[at] for row in good] for field, at in wanted.items()}
            yield Raw(skipped, len(batch), columns, numbers, tuple(malformed), text=True)
            skipped += len(batch)


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        return [name.strip() for name in next(reader)]
    except StopIteration:
        raise BadInput(f"{path}: has no header line") from None
    except csv.Error as error:
        raise BadInput(f"{path}: its header cannot be read ({error})") from error


def _numbered_rows(reader: Any) -> Iterator[tuple[int, list[str], str]]:
    """Each row with the line on which it begins and, when the CSV itself is wrong there, the fault."""
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, [], f"not CSV: {error}"
            continue
        if row:
            yield number, row, ""


def _row_fault(row: list[str], width: int) -> str:
    if len(row) != width:
        return f"has {len(row)} values, the header has {width}"
    text = "".join(row)
    if not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text):
        return "not UTF-8"
    return ""


def _row_raw(header: list[str], row: list[str]) -> Any:
    """The row for the dead letter: a record where its columns are known, else bytes."""
    if len(row) == len(header):
        clean = (value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for value in row)
        return dict(zip(header, clean, strict=True))
    return ",".join(row).encode("utf-8", "surrogateescape")


def _parquet(path: Path, fields: Sequence[str], start: int, size: int) -> Iterator[Raw]:
    import pyarrow as pa  # noqa: PLC0415 - 40 MB that a stream of JSONL does not need
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            roots = [name for name in names if any(name == field or field.startswith(f"{name}.") for field in fields)]
            skipped = 0
            for batch in _rebatched(file.iter_batches(batch_size=size, columns=roots), size, pa):
                if skipped >= start:
                    lines = range(skipped + 1, skipped + batch.num_rows + 1)
                    yield Raw(skipped, batch.num_rows, _arrow_columns(batch, fields), lines, (), text=False)
                skipped += batch.num_rows
    except pa.ArrowException as error:
        raise BadInput(f"{path}: not Parquet, or cut off ({str(error).splitlines()[0]})") from error


def _rebatched(batches: Iterable[Any], size: int, pa: Any) -> Iterator[Any]:
    """The batches cut anew into `size` rows: a batch ends with its row group, which must not decide where chunks end."""
    held: list[Any] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= size:
            table = pa.Table.from_batches(held).combine_chunks()
            yield table.slice(0, size)
            rest = table.slice(size)
            held, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(held).combine_chunks()


def _arrow_columns(table: Any, fields: Sequence[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for field in fields:
        array = _arrow_field(table, field)
        if array is not None:
            columns[field] = array
    return columns


def _arrow_field(table: Any, field: str) -> Any:
    import pyarrow.compute as pc  # noqa: PLC0415 - see above

    if field in table.column_names:
        return table.column(field)
    root, _, rest = field.partition(".")
    if not rest or root not in table.column_names:
        return None
    array = table.column(root)
    for name in rest.split("."):
        kind = array.type
        if not hasattr(kind, "get_field_index") or kind.get_field_index(name) < 0:
            return None
        array = pc.struct_field(array, name)
    return array
