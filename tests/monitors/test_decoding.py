"""Batches of JSON to columns: the same whether arrow took the batch at once or records were looked at one by one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config import Fields
from daemon.monitors import decoding
from daemon.monitors.decoding import JsonFormat
from daemon.monitors.partition import LogClock
from daemon.monitors.plan import StreamPlan
from daemon.monitors.rows import Predictions, predictions
from daemon.monitors.slices import Frontier
from tests.monitors.logs import topic_plan

FIELDS = Fields(
    id="id", time="at", unit="who", version="version", prediction="yhat", score="p", error="error", latency_ms="ms",
    features={"age": "number", "plan": "category", "geo.country": "category", "geo.size": "number"},
)  # fmt: skip
ODD: dict[str, Sequence[Any]] = {
    "id": ["x", 7, 7.0, "", None, True], "at": ["2026-03-01T10:00:00Z", "2026-03-01 10:00:00", 1772359200, 1772359200.5,
                                                1772359200123, "noon", None],
    "version": ["3", 3, None, ""], "yhat": [0, 1, "1", True, None, 1.0], "p": [0.5, None, "0.25", 1, "x"],
    "ms": [1, 2.5, None], "error": [None, "", "timed out", False, 1], "who": ["u", None, 3],
    "age": [1, 2.5, None, "31", True, "x", 1e300, [1]], "plan": ["a", "", None, 3, 3.0, 3.5, 2**60, True, {"b": 1}],
    "geo": [{"country": "NO", "size": 1}, {"country": None}, {}, None, {"country": 5, "size": "2"}],
    "geo.country": ["SE"],
}  # fmt: skip
RUBBISH = [b"{", b"[1]", b'{"id": "x", "age": NaN}', b"\xff{}", b'{"id": 1}{"id": 2}', b'{"id": "x"', b',"age": 1}', b"  ",
           b'{"id": "\xff"}', b'{\n "id": "x",\n "at": 1772359200\n}']  # fmt: skip


def plain(column: Any) -> Any:
    """A column's values as a test can compare them."""
    return None if column is None else [None if v != v else v for v in column.values.tolist()], column.invalid.tolist()  # noqa: PLR0124


def shown(parts: list[Predictions]) -> list[Any]:
    """Everything in the rows, one by one."""
    rows: list[Any] = []
    for part in parts:
        records = part.batch.records
        columns = [records.prediction, records.score, part.versions, *records.features.values()]
        values = [plain(column) for column in columns]
        singles = (part.batch.ids, part.batch.times, part.hashes, part.units, part.lines, part.failed, part.latency_ms)
        for row in range(part.count):
            ones = [float(one[row]) if isinstance(one[row], float) else one[row] for one in singles]
            rows.append([*map(str, ones), *((value[row], invalid[row]) for value, invalid in values)])
    return rows


def decoded(made: StreamPlan, values: Sequence[bytes], few: int, size: int) -> tuple[list[Any], list[Any]]:
    """The rows of a log that was read in portions, and what was malformed."""
    form = JsonFormat(made.columns, made.numbers)
    rows, malformed = [], []
    for start in range(0, len(values), size):
        portion = values[start : start + size]
        for raw in form.decode(portion, range(start, start + len(portion))):
            landed = np.full(raw.count, 2_000_000_000_000_000)
            good, bad = predictions(raw, made, LogClock(landed, Frontier()))
            rows.append(good)
            malformed += [(one.where, one.reason.partition(":")[0]) for one in (*raw.malformed, *bad)]
    return shown(rows), sorted(malformed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), odd=st.sampled_from([0.0, 0.01, 0.3]), size=st.integers(1, 120))
def test_however_records_are_batched_the_columns_are_the_same(tmp_path: Path, seed: int, odd: float, size: int) -> None:
    """One by one, at once, or halved around what is odd: the same rows, gaps, wrong values and malformed records."""
    chance = random.Random(seed)
    made = topic_plan(tmp_path, fields=FIELDS)
    values = []
    for number in range(200):
        row: dict[str, Any] = {"id": f"r{number}", "at": "2026-03-01T10:00:00.5Z", "version": "3", "yhat": number % 2,
                               "p": 0.5, "ms": 3, "age": number, "plan": "ab"[number % 2],
                               "geo": {"country": "NO", "size": number}}  # fmt: skip
        while chance.random() < odd:
            name = chance.choice(list(ODD))
            row[name] = chance.choice(ODD[name])
        values.append(
            json.dumps(row, ensure_ascii=False).encode() if chance.random() > odd / 10 else chance.choice(RUBBISH)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "FEW", 10**9)
        expected = decoded(made, values, 10**9, len(values))
        patch.setattr(decoding, "FEW", 3)
        found = decoded(made, values, 3, size)

    assert expected == found


def test_a_good_batch_is_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record of a batch of plain records, also with numbers for categories and times, is looked at by itself."""
    made = topic_plan(tmp_path, fields=FIELDS)
    values = [json.dumps({"id": n, "at": 1_772_359_200 + n, "plan": n % 3, "age": True}).encode() for n in range(500)]
    form = JsonFormat(made.columns, made.numbers)
    form.decode(values, range(500))  # learns that ids, times and plans are numbers
    monkeypatch.setattr(form, "_one_by_one", None)

    (raw,) = form.decode(values, range(500))

    assert raw.count == 500
