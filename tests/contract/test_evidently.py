"""Evidently as we use it: the same scores as its own report, one bad column at a time, and a report with our numbers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.clients.evidently import SampleTests, Shown, null, report, score
from daemon.core.columns import Batch, Column, FeatureKind, Records, column
from daemon.core.drift import judge
from daemon.core.errors import BadInput
from daemon.core.methods import METHODS
from daemon.core.reference import Reference, build_reference
from daemon.core.samples import Sample, sample

Values = NDArray[Any]

KINDS: dict[str, FeatureKind] = {"amount": "number", "plan": "category"}


def rows(seed: int, count: int, shift: float = 0.0) -> dict[str, Values]:
    """Values of both kinds with gaps, as a stream brings them."""
    random = np.random.default_rng(seed)
    amount = random.lognormal(shift, 1.0, count)
    amount[random.random(count) < 0.03] = np.nan
    plan = random.choice(np.array(["a", "b", "c"], dtype=object), count, p=[0.6 - shift / 4, 0.3, 0.1 + shift / 4])
    plan[random.random(count) < 0.03] = None
    return {"amount": amount, "plan": plan}


def records(values: dict[str, Values]) -> Records:
    """The values as records."""
    columns = {name: column(KINDS[name], raw) for name, raw in values.items()}
    return Records(len(values["plan"]), columns)


def sampled(values: dict[str, Values]) -> Sample:
    """The values as a window's sample."""
    count = len(values["plan"])
    numbers = np.arange(count)
    batch = Batch(records(values), [f"id-{number}" for number in range(count)], numbers, numbers)
    return sample(batch, KINDS, "binary", count)


@pytest.fixture(scope="module")
def reference() -> tuple[Reference, Records]:
    """A reference of 3000 rows."""
    known = records(rows(1, 3000))
    return build_reference("binary", KINDS, known), known


@pytest.mark.parametrize(
    ("method", "kind"), [(method.name, kind) for method in METHODS.values() for kind in method.kinds]
)
@pytest.mark.parametrize("size", [200, 1500], ids=["small", "large"])
def test_scores_are_those_of_value_drift(method: str, kind: FeatureKind, size: int) -> None:
    """Every method that is offered scores bit for bit like Evidently's ValueDrift on the same rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd  # noqa: PLC0415
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
        from evidently.metrics import ValueDrift  # noqa: PLC0415

        name = "amount" if kind == "number" else "plan"
        before, now = rows(1, 3000)[name], rows(2, size, shift=0.2)[name]
        definition = DataDefinition(
            numerical_columns=[name] if kind == "number" else [],
            categorical_columns=[name] if kind == "category" else [],
            text_columns=[],
            datetime_columns=[],
            unknown_columns=[],
            list_columns=[],
        )
        pair = [
            Dataset.from_pandas(pd.DataFrame({name: values}), data_definition=definition) for values in (now, before)
        ]
        snapshot = Report([ValueDrift(column=name, method=method)]).run(*pair)
        expected = float(snapshot.dict()["metrics"][0]["value"])
    assert expected == score(method, before, now, kind)


def test_inputs_and_random_state_are_left_alone() -> None:
    """A test neither changes its inputs nor numpy's global random state."""
    before, now = rows(1, 500)["amount"], rows(2, 500)["amount"]
    kept = before.copy(), now.copy()
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    score("hellinger", before, now, "number")
    assert expected == np.random.random()  # noqa: NPY002
    np.testing.assert_array_equal(kept, (before, now))


@pytest.mark.parametrize(
    ("method", "values"),
    [("ks", np.full(100, np.nan)), ("ks", np.zeros(0)), ("es", np.ones(100)), ("nonsense", np.ones(100))],
    ids=["all missing", "empty", "constant", "unknown method"],
)
def test_values_that_cannot_be_tested_are_bad_input(method: str, values: Values) -> None:
    """What a method cannot test is BadInput with a reason, whatever Evidently or scipy raise."""
    with pytest.raises(BadInput):
        score(method, values, values, "number")


def test_one_bad_column_costs_that_column_only(reference: tuple[Reference, Records]) -> None:
    """A column without values has a reason and no score; the others are measured."""
    values = rows(3, 400)
    values["amount"][:] = np.nan
    scores, unset = SampleTests(draws=50).scores(
        {"amount": "wasserstein", "plan": "jensenshannon"}, *reference, sampled(values), 0.1
    )
    assert list(scores) == ["plan"]
    assert unset == {"amount": "the sample has 0 values, 50 are needed"}


@pytest.mark.parametrize(
    ("amount", "plan"), [("wasserstein", "jensenshannon"), ("ks", "chisquare"), ("psi", "hellinger")]
)
def test_a_change_drifts_and_no_change_does_not(amount: str, plan: str, reference: tuple[Reference, Records]) -> None:
    """With any method a window drawn like the reference does not drift, and one that moved by much does."""
    tests, methods = SampleTests(draws=100), {"amount": amount, "plan": plan}
    same, _ = tests.scores(methods, *reference, sampled(rows(4, 400)), 0.1)
    moved, _ = tests.scores(methods, *reference, sampled(rows(5, 400, shift=1.2)), 0.1)
    assert {name: found.drifted for name, found in judge(same).items()} == {"amount": False, "plan": False}
    assert {name: found.drifted for name, found in judge(moved).items()} == {"amount": True, "plan": True}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wasserstein", "jensenshannon", "kl_div", "psi", "hellinger", "ed", "chisquare"])
def test_null_tables_give_p_values(method: str) -> None:
    """Without change, p-values from a null table are under 5 % in at most about 5 % of the windows, and hardly ever tiny."""
    kind: FeatureKind = METHODS[method].kinds[-1]
    name = "amount" if kind == "number" else "plan"
    before = rows(1, 5000)[name]
    table = null(METHODS[method], before, 300)
    found = [
        table.p_value(METHODS[method].statistic(score(method, before, rows(seed, 309)[name], kind)))
        for seed in range(100, 500)
    ]
    assert 0.005 <= np.mean(np.array(found) < 0.05) <= 0.1
    assert min(found) > 0.0001


def test_the_report_shows_the_scores_that_were_decided_on(reference: tuple[Reference, Records], tmp_path: Path) -> None:
    """The HTML report carries our numbers; a column that Evidently could not draw is left out, not the report lost."""
    values = rows(6, 400)
    values["plan"][:] = None
    shown = {"amount": Shown(0.4375, 0.1, drifted=True), "plan": Shown(0.2, 0.1, drifted=True)}
    path = report(reference[1], sampled(values), shown, tmp_path / "drift.html")
    text = path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["drift.html"]
    assert re.search(r"0\.4375|0\.438|0\.44", text)
    assert "driftd's score" in text.replace("\\u0027", "'").replace("&#x27;", "'")


def test_a_report_of_nothing_is_bad_input(reference: tuple[Reference, Records], tmp_path: Path) -> None:
    """A report without a single column that can be drawn is BadInput, and leaves no file."""
    blank = Records(1, {"amount": Column("number", np.array([np.nan]), np.array([False]))})
    with pytest.raises(BadInput, match="no column has values"):
        report(blank, sampled(rows(6, 60)), {"amount": Shown(1.0, 0.1, drifted=True)}, tmp_path / "drift.html")
    assert list(tmp_path.iterdir()) == []
