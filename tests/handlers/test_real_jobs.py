"""The verbs over real processes and a real MLflow: a retrain that helps, an evaluation that sees it, three kinds of data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daemon.clients.registry import RegistryProcess
from daemon.core.calls import Call, Done, Failed, Inconclusive, Outcome, Working
from daemon.platforms.local_jobs import LocalJobs
from daemon.templates import load_templates
from handlers import command, evaluate, retrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TEMPLATES = Path(__file__).parents[2] / "handlers" / "templates"
CAR_LOAN = {
    "car_value": "number", "salary_range": "category", "debt_to_income_ratio": "number", "loan_length": "number",
    "repaid_loan_on_prev_car": "category", "size_of_downpayment": "category", "driver_tenure": "number",
}  # fmt: skip


@pytest.fixture
def lab(world: Any, tmp_path: Path) -> Iterator[Any]:
    """The world with real jobs and a real registry, and the shipped templates."""
    world.config = world.config.model_copy(
        update={"root": TEMPLATES.parents[1], "templates": Path("handlers/templates")}
    )
    registry = RegistryProcess(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), timeout=60)
    world.real_registry, world.real_jobs = registry, LocalJobs(tmp_path)
    world.templates = dict(load_templates(TEMPLATES))
    world.now = datetime.now(UTC)
    yield world
    registry.stop()


def to_the_end(run: Callable[[Call, Any], Outcome], one: Call, lab: Any) -> Outcome:
    """Poll a call as the dispatcher does, on the wall clock, twice each time."""
    from dataclasses import replace  # noqa: PLC0415

    for _ in range(600):
        lab.now = datetime.now(UTC)
        run(one, lab)
        outcome = run(one, lab)
        if isinstance(outcome, Done | Failed | Inconclusive):
            return outcome
        one = replace(one, state=dict(outcome.state))
        threading.Event().wait(0.3 if isinstance(outcome, Working) else min(outcome.after, 0.3))
    raise AssertionError("no end")


def champion(lab: Any, table: Path) -> None:
    """Train the first champion by hand, on a table, with the shipped program."""
    name = "car-loan"
    stream, model = lab.config.streams[name], lab.config.models[name]
    folder = lab.config.home / "by-hand"
    folder.mkdir()
    call = {
        "call": "by-hand", "model": {"name": name, **model.model_dump(mode="json")},
        "registry": {"uri": f"sqlite:///{lab.config.home}/mlflow.db", "artifacts": str(lab.config.home / "artifacts")},
        "stream": {"fields": stream.fields.model_dump(mode="json"), "privacy": {}},
        "holdout": {"share": 0.2, "salt": "holdout:car-loan"}, "parameters": {"mix_reference": False, "min_rows": 10},
        "table": str(table),
    }  # fmt: skip
    (folder / "call.json").write_text(json.dumps(call))
    environment = {**os.environ, "DRIFTD_CALL": str(folder / "call.json")}
    subprocess.run([sys.executable, str(TEMPLATES / "train.py")], env=environment, check=True, capture_output=True)
    lab.registry.set_alias(name, "champion", "1")


def configure(lab: Any, task: str, fields: dict[str, Any]) -> None:
    """Give the model another task and its stream other fields."""
    raw = lab.config.model_dump()
    raw["models"]["car-loan"]["task"] = task
    raw["streams"]["car-loan"]["fields"] = fields
    lab.config = type(lab.config).model_validate(raw)


def deadline(minutes: float = 4) -> datetime:
    """A deadline on the wall clock."""
    return datetime.now(UTC) + timedelta(minutes=minutes)


def test_a_retrain_after_the_change_is_better_and_is_seen_to_be(lab: Any, call: Any, data: Path) -> None:
    """On the car-loan data, a version trained on the rows since the change (mixed with the reference) beats the champion
    on held-out rows, carries its reference and its causes, and a repeated job adopts it.
    """
    fields = {
        "id": "id", "time": "timestamp", "prediction": "y_pred", "score": "y_pred_proba", "label": "repaid",
        "features": CAR_LOAN,
    }  # fmt: skip
    configure(lab, "binary", fields)
    champion(lab, data / "synthetic_car_loan_reference.csv")
    rows = pd.read_csv(data / "synthetic_car_loan_analysis.csv").iloc[24000:31000]
    truth = pd.read_csv(data / "synthetic_car_loan_analysis_target.csv").iloc[24000:31000]
    for folder in ("predictions", "labels"):
        (lab.config.home / folder).mkdir()
    rows[:3500].to_json(lab.config.home / "predictions/a.jsonl", orient="records", lines=True)
    rows[3500:].to_parquet(lab.config.home / "predictions/b.parquet")
    truth.to_csv(lab.config.home / "labels/a.csv", index=False)
    since = str(rows["timestamp"].iloc[1000]).replace(" ", "T") + "+00:00"
    asked = call(
        "retrain",
        {"template": "car-loan-train", "with": {"rows_since": since}},
        chain=("run0", "run1"),
        deadline=deadline(),
    )

    trained = to_the_end(retrain.run, asked, lab)

    assert isinstance(trained, Done), trained
    assert trained.outputs["version"] == "2"
    assert 4500 < trained.outputs["rows"] < 5100
    version = lab.registry.version("car-loan", "2")
    assert json.loads(version.tags["driftd.chain"]) == ["run0", "run1"]
    assert version.tags["driftd.call"] == "call-retrain"
    reference = pd.read_parquet(lab.registry.fetch("car-loan", "2", "driftd/reference.parquet", str(lab.config.home)))
    assert set(reference) == {*CAR_LOAN, "y_pred", "y_pred_proba", "repaid"}
    assert len(reference) == trained.outputs["rows"]

    given = {"version": "2"}
    judged = to_the_end(evaluate.run, call("evaluate", {"since": since}, given, deadline=deadline()), lab)

    assert isinstance(judged, Done), judged
    assert judged.outputs["difference"] > 0

    once_more = call(
        "retrain", {"template": "car-loan-train", "with": {"rows_since": since}}, deadline=deadline(), state={"try": 1}
    )
    assert isinstance(to_the_end(retrain.run, once_more, lab), Done)
    assert lab.registry.models({"car-loan": 0})[0].live == frozenset({"1", "2"})

    counted = to_the_end(command.run, call("command", {"template": "count-rows"}, deadline=deadline()), lab)
    assert isinstance(counted, Done)
    assert counted.outputs["result"]["labelled"] == 7000


def _other(task: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of another shape: other names and types, gaps, and a category that turns up late."""
    random = np.random.default_rng(3)
    rows = pd.DataFrame({
        "key": [f"k{n}" for n in range(2000)], "at": 1_767_225_600 + np.arange(2000), "size": random.normal(10, 3, 2000),
        "kind": random.choice(["a", "b", None], 2000), "flag": random.random(2000) < 0.5,
    })  # fmt: skip
    rows.loc[::7, "size"] = np.nan
    rows.loc[1500::50, "kind"] = "late"
    value = rows["size"].fillna(10) + 2 * (rows["kind"] == "a") + random.normal(0, 0.5, 2000)
    features = {"size": "number", "kind": "category", "flag": "category"}
    fields: dict[str, Any] = {"id": "key", "time": "at", "prediction": "said", "label": "real", "features": features}
    if task == "regression":
        return rows.assign(real=value.round(3), said=0.0), fields
    bins = ["low", "mid", "high"] if task == "multiclass" else ["no", "yes"]
    return rows.assign(real=pd.cut(value, len(bins), labels=bins).astype(str), said=bins[0]), fields


@pytest.mark.parametrize("task", ["regression", "multiclass", "binary"])
def test_another_data_set_needs_only_other_names(lab: Any, call: Any, task: str) -> None:
    """Regression, several classes and textual classes, in CSV with gaps and without scores, train and evaluate as well."""
    rows, fields = _other(task)
    configure(lab, task, fields)
    table = lab.config.home / "old.csv"
    rows[:800].to_csv(table, index=False)
    champion(lab, table)
    for folder in ("predictions", "labels"):
        (lab.config.home / folder).mkdir()
    rows[800:].drop(columns="real").to_csv(lab.config.home / "predictions/a.csv", index=False)
    rows[800:][["key", "real"]].to_csv(lab.config.home / "labels/a.csv", index=False)
    learner = {"template": "tabular-train", "with": {"min_rows": 500, "learner": "linear"}}

    trained = to_the_end(retrain.run, call("retrain", learner, deadline=deadline()), lab)

    assert isinstance(trained, Done), trained
    given = {"version": trained.outputs["version"]}
    asked = call("evaluate", {"min_rows": 100, "margin": 0.5}, given, deadline=deadline())
    judged = to_the_end(evaluate.run, asked, lab)
    assert isinstance(judged, Done), judged
    assert judged.outputs["metric"] == ("mae" if task == "regression" else "accuracy")
    reference = pd.read_parquet(
        lab.registry.fetch("car-loan", given["version"], "driftd/reference.parquet", str(lab.config.home))
    )
    assert reference["said"].dtype == reference["real"].dtype
