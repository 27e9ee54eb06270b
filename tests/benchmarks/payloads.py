"""Events of KServe's payload logger into columns that can be measured.

kafka.payload_records_per_s   rows of calls of 100 rows with 6 features: pairs are found, bodies decoded, columns typed; the
    reference decodes the same bodies one by one, in turns
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daemon.config import Fields
from daemon.monitors.payloads import columnar
from daemon.monitors.payloads.format import KServeFormat
from daemon.monitors.plan import StreamPlan
from daemon.monitors.rows import Clock, predictions
from tests.monitors.payloads import START, line, payload_plan

NAME = "kafka.payload_records_per_s"
CALLS, ROWS, PORTION = 1000, 100, 1000
ROUNDS = 3
NOW = round(START.timestamp() * 1e6) + 3600 * 10**6
FIELDS = Fields(
    id="id", time="time", version="ce.endpoint", prediction="prediction.label", score="prediction.score",
    features={
        "amount": "number", "balance": "number", "tenure": "number", "age": "number", "plan": "category",
        "country": "category",
    },
)  # fmt: skip


def figures(prefix: str) -> Iterator[dict[str, Any]]:
    """The figures whose names start with the prefix."""
    if not NAME.startswith(prefix):
        return
    events = list(_events())
    together, alone, few = [], [], columnar.FEW
    with tempfile.TemporaryDirectory() as folder:
        plan = payload_plan(Path(folder), labels="", fields=FIELDS)
        for _ in range(ROUNDS):
            together.append(_rows_per_s(plan, events))
            columnar.FEW = 1 << 60
            alone.append(_rows_per_s(plan, events))
            columnar.FEW = few
    reference = {"name": "bodies decoded one by one", "value": round(max(alone)), "unit": "records/s"}
    yield {"name": NAME, "value": round(max(together)), "unit": "records/s", "reference": reference}


def _events() -> Iterator[bytes]:
    chance = random.Random(1)
    for number in range(CALLS):
        rows = [
            {
                "amount": round(chance.random() * 1e5, 2), "balance": round(chance.gauss(2000, 500), 2),
                "tenure": chance.randint(0, 400), "age": chance.randint(18, 90),
                "plan": chance.choice(("basic", "plus", "professional")),
                "country": chance.choice(("NO", "SE", "DK", "FI")),
            }
            for _ in range(ROWS)
        ]  # fmt: skip
        answer = [{"label": row["age"] % 2, "score": round(chance.random(), 6)} for row in rows]
        yield line("request", f"c{number:08}", number / 10, {"instances": rows}, endpoint="7")
        yield line("response", f"c{number:08}", number / 10 + 0.05, {"predictions": answer}, endpoint="7")


def _rows_per_s(plan: StreamPlan, events: Sequence[bytes]) -> float:
    form, rows, began = KServeFormat(plan), 0, time.perf_counter()
    for start in range(0, len(events), PORTION):
        part = events[start : start + PORTION]
        for raw in form.decode(part, range(start, start + len(part)), np.full(len(part), NOW, np.int64)):
            rows += predictions(raw, plan, Clock(NOW, NOW, None))[0].count
    assert rows == CALLS * ROWS
    return rows / (time.perf_counter() - began)
