"""Files of every format to rows: the same rows, the same mistakes with their place, and nothing private kept."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config import Fields
from daemon.core.errors import BadInput
from daemon.monitors.dead_letters import NAMED, DeadLetters
from daemon.monitors.plan import StreamPlan
from daemon.monitors.records import Malformed, Raw, chunks
from daemon.monitors.rows import Clock, labels, predictions
from daemon.monitors.values import instant, moment
from tests.monitors.lab import plan

FIELDS = Fields(
    id="id", time="when", unit="who", version="version", prediction="yhat", score="p", label="y", error="error",
    latency_ms="ms", features={"age": "number", "plan": "category", "geo.country": "category"},
)  # fmt: skip
NOW = 1_800_000_000_000_000
ROWS: list[dict[str, Any]] = [
    {"id": "a", "when": "2026-03-01T10:00:00Z", "who": "u1", "version": "3", "yhat": 1, "p": 0.9, "y": None,
     "error": None, "ms": 12.5, "age": 31, "plan": "basic", "geo": {"country": "NO"}},
    {"id": "b", "when": "2026-03-01T11:00:00+01:00", "who": None, "version": "3", "yhat": 0, "p": 0.25, "y": 1,
     "error": None, "ms": None, "age": None, "plan": None, "geo": {"country": None}},
    {"id": "c", "when": "2026-03-01T10:00:02.5", "who": "u1", "version": "4", "yhat": None, "p": None, "y": None,
     "error": "timed out", "ms": 3000.0, "age": 28.5, "plan": "1", "geo": {"country": "SE"}},
]  # fmt: skip


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row as CSV can hold it."""
    flattened = {name: value for name, value in row.items() if name != "geo"} | {"geo.country": row["geo"]["country"]}
    return {name: "" if value is None else value for name, value in flattened.items()}


def write(path: Path) -> Path:
    """ROWS in the format of the file's name."""
    if path.name.startswith("rows.jsonl"):
        content = b"\n".join(json.dumps(row).encode() for row in ROWS)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(flat(ROWS[0])))
            writer.writeheader()
            writer.writerows(map(flat, ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def read(path: Path, made: StreamPlan, **options: Any) -> Raw:
    """The only chunk of a file."""
    (raw,) = chunks(path, made.columns, **options)
    return raw


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_every_format_brings_the_same_rows(tmp_path: Path, name: str) -> None:
    """Ids, times, nested fields, gaps, classes and failures come out alike from JSON lines, CSV and Parquet."""
    made = plan(tmp_path, fields=FIELDS)

    rows, malformed = predictions(read(write(tmp_path / name), made), made, Clock(0, NOW, None))

    records = rows.batch.records
    assert malformed == []
    assert list("abc") == list(rows.batch.ids)
    start = 1_772_359_200_000_000
    assert [start, start, start + 2_500_000] == rows.batch.times.tolist()
    assert [None if np.isnan(age) else age for age in records.features["age"].values] == [31.0, None, 28.5]
    assert records.features["plan"].values.tolist() == ["basic", None, "1"]
    assert records.features["geo.country"].values.tolist() == ["NO", None, "SE"]
    assert records.prediction is not None
    assert records.prediction.values.tolist() == ["1", "0", None]
    assert records.label is not None
    assert records.label.values.tolist() == [None, "1", None]
    assert rows.failed.tolist() == [False, False, True]
    assert rows.versions is not None
    assert rows.versions.values.tolist() == ["3", "3", "4"]
    assert rows.units[0] == rows.units[2]
    assert rows.units[1] == rows.hashes[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(size=st.integers(1, 9), start=st.integers(0, 25), groups=st.integers(1, 25))
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_chunks_do_not_depend_on_where_reading_began(
    tmp_path: Path, kind: str, size: int, start: int, groups: int
) -> None:
    """Reading from a record on gives what reading from the beginning gives behind that record."""
    path = tmp_path / f"n.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"id": list(range(23))}), path, row_group_size=groups)
    else:
        lines = [f'{{"id": {n}}}' if kind == "jsonl" else str(n) for n in range(23)]
        path.write_text("\n".join(["id", *lines] if kind == "csv" else lines))
    at = start // size * size

    whole = [raw for raw in chunks(path, ["id"], 0, size) if raw.start >= at]
    behind = list(chunks(path, ["id"], at, size))

    assert [(raw.start, raw.read) for raw in whole] == [(raw.start, raw.read) for raw in behind]
    assert [list(map(str, raw.columns["id"])) for raw in whole] == [list(map(str, raw.columns["id"])) for raw in behind]
    assert all(raw.read == size for raw in whole[:-1])


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'{"id": 1}\n{"id": 2, \n{"id": 3}\n', 2, "not JSON"),
        (b'{"id": 1}\n\n[1, 2]\n', 3, "not a JSON object"),
        (b'{"id": 1}\n\xff\xfe\n', 2, "not JSON"),
        (b'{"id": 1}\n"' + b"x" * (9 << 20) + b'"\n{"id": 2}\n', 2, "longer than 8 MiB"),
    ],
)
def test_a_bad_json_line_costs_itself(tmp_path: Path, content: bytes, line: int, reason: str) -> None:
    """A line that is no record is reported with its number; the others are read."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    (raw,) = chunks(path, ["id"])

    (malformed,) = raw.malformed
    assert line == malformed.where
    assert reason in malformed.reason
    assert raw.read - 1 == raw.count


def test_a_bad_csv_row_costs_itself(tmp_path: Path) -> None:
    """Rows with too few or many values, or bytes that are no UTF-8, are reported with their line."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,note\n1,"two\nlines"\n2\n3,a,b\n4,\xff\n5,ok\n')

    (raw,) = chunks(path, ["id", "note"])

    assert raw.columns["id"] == ["1", "5"]
    assert [(bad.where, bad.reason.split(",")[0]) for bad in raw.malformed] == [
        (4, "has 1 values"),
        (5, "has 3 values"),
        (6, "not UTF-8"),
    ]


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.parquet", "empty.csv", "what.xlsx", "gone.csv"])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    """Cut-off, unknown and missing files raise BadInput that names them."""
    path = tmp_path / name
    if name.startswith("cut"):
        whole = write(tmp_path / ("rows.jsonl.gz" if name.endswith("gz") else "rows.parquet")).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif not name.startswith("gone"):
        path.write_bytes(b"")

    with pytest.raises(BadInput, match=name):
        list(chunks(path, ["id"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_772_359_200, "2026-03-01T10:00:00+00:00"),
        (1_772_359_200_123, "2026-03-01T10:00:00.123000+00:00"),
        ("1772359200.5", "2026-03-01T10:00:00.500000+00:00"),
        ("2026-03-01 10:00:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T11:00:00+01:00", "2026-03-01T10:00:00+00:00"),
        ("yesterday", None),
        (float("nan"), None),
        (True, None),
        (1e30, None),
    ],
)
def test_times_are_told_by_their_form(value: Any, expected: str | None) -> None:
    """ISO text and epoch numbers of any common unit are times; anything else is none."""
    found = moment(value)

    assert expected == (None if found is None else instant(found).isoformat())


def test_private_fields_are_hashed_or_gone_before_anything_sees_them(tmp_path: Path) -> None:
    """Hashed fields still join and compare, dropped ones do not exist, and dead letters hold neither."""
    privacy = {"id": "hash", "geo.country": "hash", "plan": "drop", "age": "keep"}
    made = plan(tmp_path, fields=FIELDS, privacy=privacy)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*ROWS, ROWS[0] | {"when": "noon"}]) + '\n{"plan": "secret')
    raw = read(path, made)

    rows, malformed = predictions(raw, made, Clock(0, NOW, None))
    problems = DeadLetters(made).records(str(path), 0, [*malformed, *raw.malformed])
    came, _ = labels(read(path, made), made)

    assert made.kinds == {"age": "number", "geo.country": "category"}
    assert set(rows.batch.records.features) == {"age", "geo.country"}
    assert not {"NO", "SE"} & set(rows.batch.records.features["geo.country"].values)
    assert "a" not in rows.batch.ids
    assert rows.hashes[1] == came.hashes[0]
    assert len(problems) == 2
    letter = Path(problems[0].dead_letter).read_text()
    assert not [secret for secret in ("secret", "basic", "NO", '"a"') if secret in letter]
    assert '"age":31' in letter


def test_many_bad_records_are_few_problems_and_one_letter(tmp_path: Path) -> None:
    """A file of rubbish is reported by its first records and a count; all of it is in the letter, once."""
    made = plan(tmp_path)
    letters = DeadLetters(made)
    bad = [Malformed(line, "not JSON", b"\xffx") for line in range(1, 1001)]

    problems = [letters.records("/in/f.jsonl", 0, bad) for _ in range(2)][1]

    assert len(problems) == NAMED + 1
    assert "this and 979 more" in problems[-1].reason
    (letter,) = Path(made.dead_letters).iterdir()
    assert len(letter.read_text().splitlines()) == 1000
