"""Other data sets of other shapes: only the plan differs, nothing in the code."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daemon.config import Fields
from daemon.core.monitors import Monitor, Window
from daemon.monitors.plan import ModelPlan, Task
from tests.monitors.lab import Shelf, champion, land, measure, plan, rows_of


def shape(name: str, task: Task, **changes: Any) -> tuple[ModelPlan, ...]:
    """One model with one monitor."""
    return (ModelPlan(name, name, task, (Monitor("inputs", name, Window(rows=1000), **changes),)),)


@pytest.fixture
def regression(tmp_path: Path, data: Path) -> Shelf:
    """Used cars: a regression, CSV, numbers written as floats, labels in files of their own."""
    features = dict.fromkeys(("car_age", "km_driven", "price_new", "accident_count", "door_count"), "number")
    fields = Fields(
        id="id", time="timestamp", prediction="y_pred", label="y_true",
        features={**features, "fuel": "category", "transmission": "category"},
    )  # fmt: skip
    made = plan(tmp_path, fields=fields, models=shape("cars", "regression"))
    for number, at in enumerate(range(0, 4000, 1000)):
        rows = rows_of(data / "regression_synthetic_analysis.csv", at, at + 1000)
        targets = rows_of(data / "regression_synthetic_analysis_targets.csv", at, at + 1000)
        land(made.predictions, f"p{number}.csv", rows, number * 2)
        land(made.labels, f"l{number}.csv", targets, number * 2 + 1)
    return measure(made, champion(data / "regression_synthetic_reference.csv"))


def test_a_regression_in_csv_without_scores(regression: Shelf) -> None:
    """Prediction drift is on the prediction itself, performance is the mean absolute error; no version, no traffic."""
    assert regression.problems == []
    drift, performance = regression.of("drift.measured"), regression.of("performance.measured")
    assert [len(event["columns"]) for event in drift] == [7] * 4
    assert not any(event["prediction_drifted"] for event in drift)
    assert {"estimated_loss"} == set(drift[0]["unset"])
    assert [event["metric"] for event in performance] == ["mae"] * 4
    assert all(event["lower"] < event["value"] < event["upper"] for event in performance)
    assert all(0.8 < event["loss_ratio"] < 1.2 for event in performance)
    assert performance[0]["version"] == ""
    assert regression.of("traffic.measured") == []


def test_several_classes_with_the_winner_s_probability(tmp_path: Path, data: Path) -> None:
    """A multiclass model's score is that of its prediction; its loss is estimated and then realised."""
    kept = ("id", "acq_channel", "app_behavioral_score", "requested_credit_limit", "app_channel", "credit_bureau_score")
    fields = Fields(
        id="id", time="timestamp", prediction="y_pred", score="score", label="y_true",
        features={"acq_channel": "category", "app_behavioral_score": "number", "requested_credit_limit": "category",
                  "app_channel": "category", "credit_bureau_score": "number"},
    )  # fmt: skip

    def scored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = (*kept, "timestamp", "y_pred", "y_true")
        return [
            {name: row[name] for name in names if name in row}
            | {"score": float(row[f"y_pred_proba_{row['y_pred']}"]), "app_behavioral_score": _number(row, "app_behavioral_score"),
               "credit_bureau_score": _number(row, "credit_bureau_score")}
            for row in rows
        ]  # fmt: skip

    reference = land(tmp_path, "reference.jsonl", scored(rows_of(data / "mc_reference.csv", 0, 10_000)), 0)
    made = plan(tmp_path, fields=fields, models=shape("credit", "multiclass"))
    rows = scored(rows_of(data / "mc_analysis.csv", 0, 2000))
    for number in range(2):
        table = pa.Table.from_pylist(rows[number * 1000 : number * 1000 + 1000])
        pq.write_table(table, tmp_path / f"part{number}")
        land(made.predictions, f"p{number}.parquet", (tmp_path / f"part{number}").read_bytes(), number)
    land(made.labels, "l.csv", rows_of(data / "mc_analysis_gt.csv", 0, 2000), 5)

    shelf = measure(made, champion(reference))

    assert shelf.problems == []
    drift, performance = shelf.of("drift.measured"), shelf.of("performance.measured")
    for estimated, realised in zip(drift, performance, strict=True):
        assert abs(estimated["estimated_loss"] - realised["loss"]) < 0.04
        assert realised["labelled"] == 1000
        assert 0.7 < realised["value"] < 0.9


def test_gaps_and_new_categories_are_quality_not_drift_alone(tmp_path: Path, data: Path) -> None:
    """The car-loan set with gaps: from row 25000 two columns miss 22 % instead of 10 %, and the gate says which."""
    made = plan(tmp_path, labels="")
    rows = rows_of(data / "synthetic_car_loan_dq_analysis.csv", 24_000, 26_000)
    land(made.predictions, "p.csv", [row | {"version": "1"} for row in rows], 0)

    shelf = measure(made, champion(data / "synthetic_car_loan_dq_reference.csv"))

    failures = [event["failures"] for event in shelf.of("quality.measured")]
    assert not [failure for window in failures[:2] for failure in window if "missing" in failure]
    assert all({"salary_range: missing", "driver_tenure: missing"} <= set(window) for window in failures[2:])


def test_records_of_nested_fields_under_other_names(tmp_path: Path, data: Path) -> None:
    """California housing as a service might log it: nested inputs, epoch milliseconds, labels within the predictions."""
    fields = Fields(
        id="request.id", time="request.at", prediction="answer.class", score="answer.p", label="truth",
        features={f"inputs.{name}": "number" for name in ("MedInc", "HouseAge", "AveRooms", "Population")},
    )  # fmt: skip

    def logged(row: dict[str, Any], at: int) -> dict[str, Any]:
        inputs = {name: float(row[name]) for name in ("MedInc", "HouseAge", "AveRooms", "Population")}
        answer = {"class": int(row["y_pred"]), "p": float(row["y_pred_proba"])}
        return {"request": {"id": int(row["id"]), "at": 1_600_000_000_000 + at}, "inputs": inputs, "answer": answer,
                "truth": row.get("clf_target")}  # fmt: skip

    rows = [logged(row, at) for at, row in enumerate(rows_of(data / "california_housing_reference.csv"))]
    random.Random(1).shuffle(rows)  # the file is ordered by region, which is drift
    reference = land(tmp_path, "reference.jsonl", rows[::2], 0)
    made = plan(tmp_path, fields=fields, labels="", models=shape("houses", "binary"))
    land(made.predictions, "p.jsonl.gz", _gzipped(rows[1:4001:2]), 0)

    shelf = measure(made, champion(reference))

    assert shelf.problems == []
    assert [event["drifted_columns"] for event in shelf.of("drift.measured")] == [0, 0]
    assert [event["coverage"] for event in shelf.of("performance.measured")] == [1.0, 1.0]
    assert set(shelf.of("drift.measured")[0]["columns"]) == set(fields.features)


def test_neither_scores_nor_labels_nor_times(tmp_path: Path, data: Path) -> None:
    """A stream that has only inputs is measured on them: what is missing is unset with a reason, the landing is its time."""
    fields = Fields(id="id", features={"car_value": "number", "salary_range": "category", "loan_length": "number"})
    made = plan(tmp_path, fields=fields, labels="", models=shape("car-loan", "binary"))
    for number in range(2):
        at = 24_000 + number * 1000
        land(
            made.predictions, f"p{number}.csv", rows_of(data / "synthetic_car_loan_analysis.csv", at, at + 1000), number
        )

    shelf = measure(made, champion(data / "synthetic_car_loan_reference.csv"))

    drift = shelf.of("drift.measured")
    assert [event["drifted_columns"] for event in drift] == [0, 3]
    assert {"prediction_drifted", "estimated_loss"} == set(drift[0]["unset"])
    assert drift[1]["window"]["start"] == "2001-09-09T01:46:41+00:00"
    assert {"drift.measured", "quality.measured"} == {event.type for event in shelf.events}


@pytest.mark.slow
def test_tests_on_samples_and_trailing_references(tmp_path: Path, data: Path) -> None:
    """A monitor may ask for Evidently's tests by kind of column, another for the windows before as its reference."""
    tests = Monitor("tests", "car-loan", Window(rows=1000), methods={"number": "ks", "category": "jensenshannon"})
    trail = Monitor("trail", "car-loan", Window(rows=1000), reference="trailing", trailing=2)
    made = plan(tmp_path, labels="", models=(ModelPlan("car-loan", "car-loan", "binary", (tests, trail)),))
    for number in range(6):
        at = 22_000 + number * 1000
        rows = rows_of(data / "synthetic_car_loan_analysis.csv", at, at + 1000)
        land(made.predictions, f"p{number}.csv", [row | {"version": "1"} for row in rows], number)

    shelf = measure(made, champion(data / "synthetic_car_loan_reference.csv"))

    measured = {
        name: [event for event in shelf.of("drift.measured") if event["monitor"] == name] for name in ("tests", "trail")
    }
    methods = {column["method"]: column["basis"] for column in measured["tests"][0]["columns"].values()}
    assert methods == {"ks": "sample", "jensenshannon": "sample"}
    assert [event["drifted_columns"] for event in measured["tests"]] == [0, 0, 0, 4, 4, 4]
    trailing = [event.get("drifted_columns") for event in measured["trail"]]
    assert trailing[:4] == [None, None, 0, 4]
    assert trailing[5] == 0
    assert "1 of its 2 windows" in measured["trail"][1]["unset"]["drifted_columns"]


def _number(row: dict[str, Any], name: str) -> float | None:
    return float(row[name]) if row[name] else None


def _gzipped(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress(b"\n".join(json.dumps(row).encode() for row in rows))
