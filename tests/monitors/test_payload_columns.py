"""Bodies that are decoded together give the rows that they give alone, whatever is in them and however a log is read."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daemon.core.columns import Column
from daemon.monitors.payloads import columnar
from daemon.monitors.payloads.columnar import BodyDecoder
from daemon.monitors.payloads.format import KServeFormat
from daemon.monitors.payloads.halves import Wanted
from daemon.monitors.payloads.tensors import inputs, outputs
from daemon.monitors.plan import StreamPlan
from daemon.monitors.rows import Clock, predictions
from tests.monitors.payloads import FIELDS, START, line, payload_plan

NOW = round(START.timestamp() * 1e6) + 3600 * 10**6
NESTED = FIELDS.model_copy(update={"features": {"age": "number", "plan": "category", "geo.country": "category"}})
POSITIONS = FIELDS.model_copy(
    update={"prediction": "prediction.1", "score": "prediction.0", "features": {"age": "number", "plan": "category"}}
)
TENSORS = FIELDS.model_copy(
    update={"prediction": "prediction.out", "score": "prediction", "version": "model_version", "features": {"age": "number", "x.1": "number"}}
)  # fmt: skip
ODD: Sequence[Any] = (
    None, True, "", "x", "7", 3, 3.0, -0.0, 2.5, 2**53, 2**53 + 1, 2.0**60, 10**25, 1e300, [1], [], {"a": 1}, {}, "é😀", 1e-300,
)  # fmt: skip
Log = list[bytes]


@contextmanager
def together(few: int) -> Iterator[None]:
    """So many bytes of bodies are worth decoding them together."""
    before, columnar.FEW = columnar.FEW, few
    try:
        yield
    finally:
        columnar.FEW = before


def read(plan: StreamPlan, log: Log, sizes: Sequence[int], few: int) -> tuple[list[Any], list[Any], bytes]:
    """All that is made of a log that is read in portions: rows as they are measured, what is refused, and the state."""
    rows: list[Any] = []
    refused: list[Any] = []
    form = KServeFormat(plan)
    borders = [0, *sorted({size for size in sizes if 0 < size < len(log)}), len(log)]
    with together(few):
        for start, stop in itertools.pairwise(borders):
            (raw,) = form.decode(log[start:stop], range(start, stop), np.full(stop - start, NOW, np.int64))
            refused += [(one.where, one.reason) for one in raw.malformed]
            made, _ = predictions(raw, plan, Clock(NOW, NOW, None))
            records = made.batch.records
            columns = {**records.features, "prediction": records.prediction, "score": records.score}
            columns |= {"version": made.versions, **made.segments}
            shown = [shown_of(column, made.count) for column in columns.values()]
            rows += zip(
                made.batch.ids, made.batch.times.tolist(), made.units.tolist(), made.lines.tolist(), *shown, strict=True
            )
            form = KServeFormat(plan, form.state())
    return rows, refused, form.state()


def shown_of(column: Column | None, rows: int) -> list[Any]:
    """The values of a column, with those that are of the wrong type."""
    if column is None:
        return [None] * rows
    values = column.values.tolist()
    return list(zip(map(str, values), column.invalid.tolist(), strict=True))  # NaN is not equal to itself


def odd(chance: random.Random, often: float, usual: Any) -> Any:
    """The usual value, or now and then any other one."""
    return chance.choice(ODD) if chance.random() < often else usual


def v1(chance: random.Random, rows: int, often: float) -> tuple[Any, Any]:
    """A call with rows as objects."""
    asked: list[Any] = [
        {
            "age": odd(chance, often, chance.randrange(90)), "plan": odd(chance, often, chance.choice("ab")),
            "geo": odd(chance, often, {"country": odd(chance, often, "NO")}), "more": odd(chance, often, 1),
        }
        for _ in range(rows)
    ]  # fmt: skip
    told = [{"label": odd(chance, often, n % 2), "score": odd(chance, often, n / 7)} for n in range(rows)]
    if chance.random() < often:
        asked[0] = chance.choice([None, {}, {"geo.country": "SE", "age": 1}, [1, 2], 5])
    return {"instances": asked, "signature_name": "x"}, {"predictions": told}


def positions(chance: random.Random, rows: int, often: float) -> tuple[Any, Any]:
    """A call with rows as lists; the second value of each is a category."""
    asked: list[Any] = [[odd(chance, often, n), odd(chance, often, n % 3)] for n in range(rows)]
    told: list[Any] = [[odd(chance, often, n / 7), odd(chance, often, n % 2)] for n in range(rows)]
    if chance.random() < often:
        asked[-1] = chance.choice([None, [], [1], [1, 2, 3], 5])
        told[0] = chance.choice([None, [], [1], [1, 2, 3], 5])
    return {"instances": asked}, {"predictions": told}


def v2(chance: random.Random, rows: int, often: float) -> tuple[Any, Any]:
    """A call with tensors, flat or nested."""

    def tensor(name: str, width: int) -> dict[str, Any]:
        values: list[Any] = [odd(chance, often / 4, n) for n in range(rows * width)]
        if nested:
            values = [values[n : n + width] for n in range(0, len(values), width)]
        shape = odd(chance, often / 4, [rows, width])
        return {
            "name": odd(chance, often / 4, name),
            "shape": shape,
            "datatype": "FP32",
            "data": odd(chance, often / 4, values),
        }

    nested = chance.random() < 0.3
    asked = [tensor("age", 1), tensor("x", 3)]
    if chance.random() < often:
        chance.shuffle(asked)
    told = {"model_version": odd(chance, often, "3"), "outputs": [tensor("score", 1), tensor("out", 1)]}
    return {"inputs": asked, "id": "q"}, told


KINDS: Mapping[str, Any] = {
    "objects": (v1, NESTED, ()),
    "lists": (positions, POSITIONS, ("age", "plan")),
    "tensors": (v2, TENSORS, ()),
}


def log_of(chance: random.Random, kind: str, often: float) -> Log:
    """Events of calls, in some disorder; some bodies are no JSON, or twice what they should be."""
    made: list[tuple[float, bytes]] = []
    for number in range(chance.choice([3, 40])):
        bodies = KINDS[kind][0](chance, chance.choice([1, 2, 9]), often)
        for side, body in zip(("request", "response"), bodies, strict=True):
            raw = json.dumps(body).encode()
            if chance.random() < often:
                raw = chance.choice(
                    [
                        b"",
                        b"{",
                        b"NaN",
                        raw + b" ",
                        raw[:-1],
                        raw.replace(b"1", b"NaN"),
                        raw + raw,
                        b"[1]",
                        b'{"instances": []}',
                        raw.replace(b'"age"', b'"\\u0061ge"'),
                    ]
                )
            made.append(
                (number + chance.uniform(0, 4), line(side, f"c{number}", number, raw, endpoint=chance.choice("12")))
            )
    return [event for _, event in sorted(made, key=lambda one: one[0])]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(KINDS)), often=st.sampled_from([0.0, 0.002, 0.03, 0.3]),
    sizes=st.lists(st.integers(0, 80), max_size=4),
)  # fmt: skip
@example(seed=1, kind="objects", often=0.0, sizes=[7])
def test_bodies_decoded_together_give_what_they_give_alone(
    tmp_path: Path, seed: int, kind: str, often: float, sizes: list[int]
) -> None:
    """Regular and odd values, shapes and bodies: the same rows, the same reasons, the same bytes in the store."""
    _, fields, names = KINDS[kind]
    plan = replace(payload_plan(tmp_path, labels="", fields=fields), inputs=names)
    log = log_of(random.Random(seed), kind, often)

    assert read(plan, log, sizes, 0) == read(plan, log, (), 10**12)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_regular_bodies_are_decoded_together(tmp_path: Path, kind: str) -> None:
    """Bodies of one shape with values of one type are a table, and no list of Python values."""
    made, fields, names = KINDS[kind]
    wanted = Wanted(replace(payload_plan(tmp_path, fields=fields), inputs=names))
    bodies = [made(random.Random(number), 3, 0.0) for number in range(30)]
    bodies = [both for both in bodies if not isinstance(both[0].get("inputs", [{"data": [0]}])[0]["data"][0], list)]

    for side, number, alone in (("request", 0, inputs), ("response", 1, outputs)):
        decoder = BodyDecoder(side, wanted)  # type: ignore[arg-type]
        with together(0):
            places = decoder.places([json.dumps(both[number]).encode() for both in bodies])
        assert all(place is not None for place in places)
        assert len({id(place.table) for place in places if place is not None}) == 1
        args = (wanted.inputs, names) if side == "request" else (wanted.outputs,)
        for place, both in zip(places, bodies, strict=True):
            assert place is not None
            table = alone(both[number], *args)
            assert table.rows == place.rows
            for name, column in place.table.columns.items():
                assert column.slice(place.start, place.rows).to_pylist() == table.columns[name]
