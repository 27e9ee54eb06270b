"""Traffic per version: each unit counts once per arm, and newcomers are compared with the same hours of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import LATENCY_EDGES_MS
from daemon.monitors import units
from daemon.monitors.plan import StreamPlan
from daemon.monitors.rows import join_hashes
from daemon.monitors.traffic import Units
from daemon.monitors.units import UnitSet
from tests.monitors.lab import CAR_LOAN, Row, car_loan, champion, drain, land, measure, plan

FIELDS = CAR_LOAN.model_copy(update={"unit": "customer", "error": "error", "latency_ms": "ms"})


@pytest.fixture
def made(tmp_path: Path) -> StreamPlan:
    """A stream whose records name customer, version, failure and latency."""
    return plan(tmp_path, fields=FIELDS)


def asked(row: Row, version: str, customer: str, ms: float = 5.0, error: str = "") -> Row:
    """One request."""
    return row | {"version": version, "customer": customer, "ms": ms, "error": error}


def arms(made: StreamPlan, reference: Path) -> list[dict[str, Any]]:
    """The arms of each block of what has landed."""
    return [dict(event["arms"]) for event in measure(made, champion(reference)).of("traffic.measured")]


def test_a_unit_counts_once_per_arm(made: StreamPlan, data: Path, reference: Path) -> None:
    """Requests and errors are all counted; units, their failures, slowest answers and first scores once per arm."""
    rows, _ = car_loan(data, 0, 10)
    first = [
        asked(rows[0], "1", "ann", ms=4), asked(rows[1], "1", "ann", ms=100, error="x"), asked(rows[2], "1", "bob", ms=9),
    ]  # fmt: skip
    later = [asked(rows[3], "1", "bob", error="x"), asked(rows[4], "1", "cid", ms=70_000)]
    for number, block in enumerate((first, later)):
        land(made.predictions, f"p{number}.jsonl", block, number)

    one, two = (block["1"] for block in arms(made, reference))

    assert tuple(one[name] for name in ("requests", "errors", "units", "failed_units")) == (3, 1, 2, 1)
    assert {
        at: one["latency"][next(number for number, edge in enumerate(LATENCY_EDGES_MS) if edge >= at)]
        for at in (9.0, 100.0)
    } == {9.0: 1, 100.0: 1}
    assert 2 == sum(one["scores"]) == sum(one["latency"])
    assert tuple(two[name] for name in ("requests", "errors", "units", "failed_units")) == (2, 1, 1, 0)
    assert two["latency"][-1] == 1


def test_a_newcomer_makes_all_arms_start_over(made: StreamPlan, data: Path, reference: Path) -> None:
    """When a version appears, the champion's known units count again, so that both arms have the same kind of units."""
    rows, _ = car_loan(data, 0, 12)
    land(made.predictions, "p0.jsonl", [asked(row, "1", str(n)) for n, row in enumerate(rows)], 0)
    land(made.predictions, "p1.jsonl", [asked(row, str(1 + n % 2), str(n)) for n, row in enumerate(rows)], 1)
    land(made.predictions, "p2.jsonl", [asked(row, "2", str(n), ms=6) for n, row in enumerate(rows)], 2)

    seen = [{version: arm["units"] for version, arm in block.items()} for block in arms(made, reference)]

    assert seen == [{"1": 12}, {"1": 6, "2": 6}, {"2": 6}]


def test_labels_count_for_the_first_request_of_a_unit(made: StreamPlan, data: Path, reference: Path) -> None:
    """A label counts on the arm that predicted, once per unit there, in the block in which it comes."""
    rows, labels = car_loan(data, 0, 8)
    wrong = labels[0] | {"repaid": str(1 - rows[0]["y_pred"])}
    right = [{"id": row["id"], "repaid": str(row["y_pred"])} for row in rows[1:]]
    customers = ["ann", "ann", "bob", "cid", "ann", "dan", "eve", "eve"]
    requests = [asked(row, "1" if n < 4 else "2", customers[n]) for n, row in enumerate(rows)]
    land(made.predictions, "p.jsonl", requests, 0)
    land(made.labels, "l.csv", [wrong, *right], 1)

    block = arms(made, reference)[1]

    counted = {
        version: tuple(arm[name] for name in ("requests", "labelled", "wrong")) for version, arm in block.items()
    }
    assert counted == {"1": (0, 3, 1), "2": (0, 3, 0)}


def test_known_units_survive_a_restart(made: StreamPlan, data: Path, reference: Path) -> None:
    """Which units were seen is part of the stored state."""
    rows, _ = car_loan(data, 0, 12)
    land(made.predictions, "p0.jsonl", [asked(row, "1", str(n)) for n, row in enumerate(rows)], 0)
    shelf = measure(made, champion(reference))
    land(made.predictions, "p1.jsonl", [asked(row, "1", str(n), ms=8) for n, row in enumerate(rows[:6])], 1)

    session = shelf.open(made)
    drain(session, shelf)
    session.close()

    assert [event["arms"]["1"]["units"] for event in shelf.of("traffic.measured")] == [12, 0]


def test_a_version_field_full_of_rubbish_is_bounded(made: StreamPlan, data: Path, reference: Path) -> None:
    """However many versions a block names, its event tells a few apart and loses no request."""
    rows, _ = car_loan(data, 0, 300)
    for number in range(3):
        block = [asked(row, "1" if at % 2 else f"{number}-{at}", str(at)) for at, row in enumerate(rows)]
        land(made.predictions, f"p{number}.jsonl", block, number)

    for block in arms(made, reference):
        assert len(block) == 8
        assert block["1"]["requests"] == 150
        assert sum(arm["requests"] for arm in block.values()) == 300


def test_a_unit_set_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound the units seen first are forgotten, and nothing else."""
    monkeypatch.setattr(units, "RUN", 64)
    monkeypatch.setattr(units, "RUNS", 4)
    found = UnitSet()
    hashes = join_hashes([str(number) for number in range(1000)])

    for at in range(0, 1000, 50):
        fresh = hashes[at : at + 50]
        assert not found.known(fresh).any()
        found.add(fresh)

    assert len(found) <= 4 * 64
    assert found.known(hashes[-150:]).all()
    assert not found.known(hashes[:500]).any()


REQUESTS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 100), st.integers(-1, 3), st.integers(0, 10**6)),
    max_size=20,
    unique_by=lambda request: request[4],
)  # fmt: skip


def of(requests: list[tuple[int, bool, float, int, int]]) -> Units:
    """Requests of one partition and slice as their units: each once, by its first request."""
    found: dict[int, tuple[int, bool, float, int, int]] = {}
    for unit, failed, ms, code, place in sorted(requests, key=lambda request: request[4]):
        first = found.get(unit, (unit, False, -np.inf, code, place))
        found[unit] = (unit, first[1] or failed, max(first[2], ms), first[3], first[4])
    columns = list(zip(*(found[unit] for unit in sorted(found)), strict=True)) or [()] * 5
    kinds = (np.uint64, np.bool_, np.float64, np.int64, np.int64)
    return Units(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


@given(requests=REQUESTS, share=st.integers(1, 4))
def test_whose_request_was_first_is_told_by_its_place(
    requests: list[tuple[int, bool, float, int, int]], share: int
) -> None:
    """However requests are spread over partitions and in whichever order those are joined: the units of all of them."""
    parts = [of([one for one in requests if one[4] % share == number]) for number in range(share)]
    whole = of(requests)

    for order in (parts, parts[::-1]):
        joined = order[0]
        for part in order[1:]:
            joined = joined.joined(part)
        for name in ("hashes", "failed", "slowest", "codes", "firsts"):
            assert getattr(joined, name).tolist() == getattr(whole, name).tolist()
