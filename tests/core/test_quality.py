"""The data-quality gate: what is surely and materially wrong fails, what may be chance does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daemon.core import events
from daemon.core.columns import Batch, Column, FeatureKind, Records, column
from daemon.core.errors import BadInput
from daemon.core.panes import Pane, empty, observe
from daemon.core.quality import Limits, check, grown
from daemon.core.reference import Reference, build_reference

KINDS: dict[str, FeatureKind] = {"amount": "number", "plan": "category"}
ROWS = 400


def columns(rows: int = ROWS, **changed: list[Any]) -> dict[str, Column]:
    """Columns like the reference's, some of their first rows replaced."""
    random = np.random.default_rng(rows)
    raw: dict[str, list[Any]] = {
        "amount": random.random(rows).tolist(),
        "plan": random.choice(["a", "b"], rows).tolist(),
    }
    raw["amount"][50::20] = [None] * len(raw["amount"][50::20])
    for name, values in changed.items():
        raw[name][: len(values)] = values
    return {name: column(KINDS[name], values) for name, values in raw.items()}


@pytest.fixture(scope="module")
def reference() -> Reference:
    """A reference of 5000 rows, 5 % of the amounts missing."""
    return build_reference("binary", KINDS, Records(5000, columns(5000)))


def window(reference: Reference, features: dict[str, Column], rows: int = ROWS) -> Pane:
    """A window of these columns."""
    numbers = np.arange(rows)
    batch = Batch(Records(rows, features), [str(n) for n in numbers], numbers, numbers)
    return observe(empty(reference), reference, batch)


@pytest.mark.parametrize(
    ("changed", "failures"),
    [
        ({}, ()),
        ({"amount": [None] * 50}, ("amount: missing",)),
        ({"amount": ["oops"] * 20}, ("amount: type",)),
        ({"amount": [9.0] * 20}, ("amount: range",)),
        ({"amount": [-9.0] * 20}, ("amount: range",)),
        ({"plan": ["new"] * 20}, ("plan: new_category",)),
        ({"plan": [None] * 50}, ("plan: missing",)),
        (
            {"amount": ["oops"] * 20 + [None] * 60, "plan": [{"a": 1}] * 20},
            ("amount: type", "amount: missing", "plan: type"),
        ),
        ({"amount": ["oops"], "plan": ["new"]}, ()),
        ({"amount": [None] * 10}, ()),
    ],
    ids=["fine", "gaps", "text", "high", "low", "new", "plan gaps", "several", "one odd row", "a few gaps"],
)
def test_checks(changed: dict[str, list[Any]], failures: tuple[str, ...], reference: Reference) -> None:
    """Each check fails on what it is for, and on nothing else; single odd rows fail nothing."""
    found = check(reference, window(reference, columns(**changed)))
    assert failures == found.failures
    assert (not failures) == found.passed


def test_a_missing_column_fails_however_few_the_rows(reference: Reference) -> None:
    """The schema is judged with any number of rows; rates are not."""
    few = window(reference, {"amount": column("number", [None, "x", 99.0])}, 3)
    assert check(reference, few).failures == ("plan: absent",)


def test_rates_are_told(reference: Reference) -> None:
    """The rates of a column are shares of all its rows; what makes no sense for its kind is None."""
    found = check(reference, window(reference, columns(plan=["new"] * 40, amount=[9.0] * 4)))
    assert (found.columns["plan"].new_category_rate, found.columns["plan"].out_of_range_rate) == (0.1, None)
    assert (found.columns["amount"].new_category_rate, found.columns["amount"].out_of_range_rate) == (None, 0.01)
    assert found.columns["amount"].reference_missing_rate == pytest.approx(0.0496)


def test_fields_fit_the_catalogue(reference: Reference) -> None:
    """The event's fields are those of the catalogue."""
    declared = {field.name: field for field in events.CATALOGUE["quality.measured"].fields}
    got = check(reference, window(reference, columns())).fields()
    assert set(got) <= set(declared)
    assert {field.name for field in declared["columns"].fields} == set(got["columns"]["plan"])


def test_an_open_column_has_no_new_categories() -> None:
    """A column with a thousand categories and more is like an id: a new one there is nothing new."""
    ids = [f"id-{number}" for number in range(3000)]
    known = build_reference("binary", {"plan": "category"}, Records(3000, {"plan": column("category", ids)}))
    got = check(known, window(known, {"plan": column("category", ["other"] * 100)}, 100))
    assert got.columns["plan"].new_category_rate is None
    assert got.passed


def test_nothing_can_be_said_of_no_rows(reference: Reference) -> None:
    """An empty window has no quality, neither good nor bad."""
    with pytest.raises(BadInput, match="without rows"):
        check(reference, empty(reference))


@pytest.mark.parametrize(("rate", "rows"), [(0.001, 500), (0.05, 500), (0.3, 200)])
def test_false_failures_are_rare(rate: float, rows: int) -> None:
    """Without change a rate is called grown at .01 in at most about 1 % of the windows."""
    random = np.random.default_rng(0)
    p_values = [
        grown(int(random.binomial(rows, rate)), rows, int(random.binomial(5000, rate)), 5000) for _ in range(3000)
    ]
    assert np.mean(np.array(p_values) <= 0.01) <= 0.017


def test_limits_can_be_set(reference: Reference) -> None:
    """A wider margin lets more pass."""
    pane = window(reference, columns(plan=["new"] * 20))
    assert not check(reference, pane).passed
    assert check(reference, pane, Limits(new_category=0.1)).passed


def test_a_rate_over_its_margin_by_chance_is_no_failure(reference: Reference) -> None:
    """One odd row in fifty is over the margin of 1 %, but may be chance."""
    found = check(reference, window(reference, columns(50, plan=["new"]), 50))
    assert found.columns["plan"].new_category_rate == 0.02
    assert found.passed
