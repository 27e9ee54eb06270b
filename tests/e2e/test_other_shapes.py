"""Other data sets of other shapes, end to end: each is a configuration, a rule file, and the daemon as it ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from daemon import reading
from daemon.core.runs import State
from tests.e2e.home import Home, home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Home]:
    """A home of the test's own."""
    with home(tmp_path) as made:
        yield made


def _quiet_then_changed(here: Home, stream: str, table: Path, change: int, last: int, *options: str) -> None:
    """Play the rows before the change and see that no rule fires; then start to play the others."""
    here.feed("quiet", stream, table, "--rows", f"0:{change}", *options)
    here.done("quiet")
    here.wait("the quiet rows", lambda: here.measured("performance.measured") >= change)
    assert here.fired() == []
    here.feed("changed", stream, table, "--rows", f"{change}:{last}", *options)


def _whole_chain(here: Home) -> None:
    """The daemon ends in order, and its audit chain verifies."""
    assert here.end("daemon") == 0
    verified = here.driftd("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


# -- regression


CARS = {
    "streams": {
        "sales": {
            "predictions": "in/asked", "labels": "in/paid", "complete": "renamed", "idle": "5s", "horizon": "60d",
            "fields": {
                "id": "offer", "time": "asked_at", "version": "pricer", "prediction": "price", "label": "paid",
                "error": "error", "latency_ms": "latency_ms",
                "features": {
                    "years": "number", "km": "number", "list_price": "number", "accidents": "number",
                    "doors": "category", "fuel": "category", "gears": "category",
                },
            },
        }
    },
    "models": {
        "used-cars": {"task": "regression", "registered": "pricing.used-cars", "stream": "sales", "serving": "pricer"}
    },
    "channels": {"sales-team": {"kind": "log"}},
}  # fmt: skip

CAR_RULES = """
model: used-cars
monitors:
  - name: used-cars-all
    window: {rows: 500}
rules:
  - name: used-cars-inputs
    on: drift.measured
    when: event.drifted_columns >= 1
    do:
      - notify: {to: sales-team}
  - name: used-cars-retrain
    on: performance.measured
    when: [event.metric == "mae", event.alarm]
    cooldown: 6h
    do:
      - retrain:
          template: tabular-train
          with: {rows_since: "{{ event.onset }}", min_rows: 1000, mix_reference: false}
      - evaluate: {against: champion, since: "{{ event.onset }}", margin: 50, min_rows: 200, look: 1s}
      - canary:
          steps: [50]
          each: 3s
          look: 1s
          guards: [error_rate: {tolerance: 0.03}]
          min_requests: 150
          deadline: 3m
      - promote: {alias: champion}
"""

CAR_NAMES = {
    "id": "offer", "timestamp": "asked_at", "y_true": "paid", "car_age": "years", "km_driven": "km",
    "price_new": "list_price", "accident_count": "accidents", "door_count": "doors", "transmission": "gears",
}  # fmt: skip


def test_a_regression_logged_as_csv_is_retrained_on_its_labels_and_promoted(here: Home, data: Path) -> None:
    """Prices fall by a third while the cars stay the same: the mean error alarms, and the new version earns the alias."""
    change, logged, last = 3000, 6000, 16000
    here.configure(CARS)
    here.rules(CAR_RULES)
    known = pd.read_csv(data / "regression_synthetic_reference.csv").rename(columns=CAR_NAMES).drop(columns="y_pred")
    known.iloc[:8000].to_csv(here.folder / "training.csv", index=False)
    rows = known.iloc[20_000 : 20_000 + last].reset_index(drop=True)
    rows.loc[change:, "paid"] *= 0.67
    rows.to_csv(here.folder / "rows.csv", index=False)
    table = here.folder / "asked.csv"
    arguments = (str(here.folder / name) for name in ("training.csv", "rows.csv", "asked.csv"))
    here.play("team", "tests.e2e.team", "used-cars", *arguments)
    first = here.done("team")["version"]

    here.start()
    _quiet_then_changed(here, "sales", table, change, logged, "--format", "csv", "--batch", "250")
    here.wait("the retraining", lambda: here.run_of("used-cars-retrain"))
    here.wait(
        "the canary",
        lambda: (run := here.run_of("used-cars-retrain")) and (run.state is State.SERVING or run.ended),
        200,
    )
    here.feed("requests", "sales", table, "--to", "gateway", "--rows", f"{logged}:{last}", "--rate", "60")
    run = here.ended("used-cars-retrain", 200)
    assert State.PROMOTED is run.state, run.why
    assert run.given["metric"] == "mae"
    assert first != run.given["version"]
    assert here.end("requests") == 0
    assert here.fired("used-cars-inputs") == []
    _whole_chain(here)


# -- multiclass


CARDS: dict[str, Any] = {
    "streams": {
        "applications": {
            "predictions": "cards/predictions", "labels": "cards/chosen", "idle": "5s", "horizon": "90d",
            "fields": {
                "id": "application", "time": "when", "version": "model", "prediction": "card", "score": "confidence",
                "label": "chosen",
                "features": {
                    "channel": "category", "behaviour": "number", "limit": "number", "app": "category",
                    "bureau": "number", "income": "number", "customer": "category",
                },
            },
        }
    },
    "models": {"cards": {"task": "multiclass", "registered": "cards", "stream": "applications"}},
}  # fmt: skip

CARD_RULES = """
model: cards
monitors:
  - name: cards-all
    window: {rows: 500}
rules:
  - name: cards-retrain
    on: performance.measured
    when: [event.metric == "accuracy", event.alarm]
    cooldown: 6h
    do:
      - retrain:
          template: tabular-train
          with: {rows_since: "{{ event.onset }}", min_rows: 1500, mix_reference: false, learner: linear}
      - evaluate: {against: champion, since: "{{ event.onset }}", margin: 0.05, min_rows: 300, look: 1s}
"""

CARD_NAMES = {
    "id": "application", "timestamp": "when", "y_true": "chosen", "acq_channel": "channel", "app_channel": "app",
    "app_behavioral_score": "behaviour", "requested_credit_limit": "limit", "credit_bureau_score": "bureau",
    "stated_income": "income", "is_customer": "customer",
}  # fmt: skip


def test_a_model_of_three_classes_is_retrained_and_evaluated(here: Home, data: Path) -> None:
    """The answers turn wrong where the data set changes; a new version is trained and held against the champion."""
    change, last = 3000, 6500
    here.configure(CARDS)
    here.rules(CARD_RULES)
    known = pd.read_csv(data / "mc_reference.csv").rename(columns=CARD_NAMES)
    known.iloc[-8000:].to_csv(here.folder / "training.csv", index=False)
    later = pd.read_csv(data / "mc_analysis.csv").merge(pd.read_csv(data / "mc_analysis_gt.csv"), on="id")
    # The data set changes at its row 30000.
    rows = later.rename(columns=CARD_NAMES).iloc[30_000 - change : 30_000 - change + last]
    rows[["application", "when", "chosen", *CARDS["streams"]["applications"]["fields"]["features"]]].to_csv(
        here.folder / "rows.csv", index=False
    )
    table = here.folder / "answered.csv"
    arguments = (str(here.folder / name) for name in ("training.csv", "rows.csv", "answered.csv"))
    here.play("team", "tests.e2e.team", "cards", *arguments)
    here.done("team")

    here.start()
    _quiet_then_changed(here, "applications", table, change, last, "--format", "parquet,csv,jsonl")
    run = here.ended("cards-retrain", 200)
    assert run.state in {State.SUCCEEDED, State.REJECTED, State.INCONCLUSIVE}, run.why
    assert "version" in run.given, run.why
    evaluations = [call for call in here.read(partial(reading.calls, run_id=run.id)) if call.verb == "evaluate"]
    assert [run.state is State.SUCCEEDED] == [call.status == "done" for call in evaluations], run.why
    assert run.state is State.SUCCEEDED or "held-out rows" in run.why
    _whole_chain(here)


# -- no scores, no labels


def _nested(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A record as another system logs it: nested, with milliseconds, and without what it does not know."""
    known = {name: value for name, value in row.items() if value == value and value is not None}  # noqa: PLR0124 - NaN
    person = {new: known[old] for new, old in PERSON.items() if old in known}
    return {
        "meta": {"request": f"r-{known['id']}", "ms": int(known["timestamp"].timestamp() * 1000)},
        "body": {"car": {"worth": known["car_value"]}, "person": person},
        "said": "yes" if known["y_pred"] else "no",
    }


PERSON = {"band": "salary_range", "ratio": "debt_to_income_ratio", "tenure": "driver_tenure", "months": "loan_length"}
"""Name in the records -> name in the data set."""


LOANS = {
    "templates": "programs",
    "streams": {
        "gate": {
            "predictions": "gate/out", "pattern": "*.jsonl", "complete": "marker", "idle": "5s",
            "fields": {
                "id": "meta.request", "time": "meta.ms", "prediction": "said",
                "features": {
                    "body.car.worth": "number", "body.person.band": "category", "body.person.ratio": "number",
                    "body.person.tenure": "number", "body.person.months": "number",
                },
            },
        }
    },
    "models": {
        "loans": {"task": "binary", "registered": "loans", "stream": "gate", "reference": "reference.parquet"}
    },
    "channels": {"risk": {"kind": "log"}},
}  # fmt: skip

LOAN_RULES = """
model: loans
monitors:
  - name: loans-inputs
    window: {rows: 500}
rules:
  - name: loans-drifted
    on: drift.measured
    when: event.drifted_columns >= 1
    clear: event.drifted_columns == 0
    for: 2 of 3 windows
    do:
      - command: {template: note, with: {column: "{{ event.worst_column }}"}, look: 1s}
  - name: loans-worse
    on: drift.measured
    when: event.estimated_loss_ratio >= 1.2
    do:
      - notify: {to: risk}
"""

NOTE = """
doc: Notes which column has changed most.
verb: command
argv: ["{python}", "{templates}/note.py"]
parameters:
  column: {type: string, doc: "The column."}
memory_mb: 200
seconds: 30
env: {}
"""

NOTE_PROGRAM = """
import json, os, pathlib
call = pathlib.Path(os.environ["DRIFTD_CALL"])
column = json.loads(call.read_text())["parameters"]["column"]
(call.parent / "outputs.json").write_text(json.dumps({"noted": column}))
"""


def _drop(here: Home, rows: pd.DataFrame) -> None:
    """Log rows in files of 300, each with its marker."""
    folder = here.state / "gate" / "out"
    folder.mkdir(parents=True, exist_ok=True)
    records = [_nested(row) for row in rows.to_dict("records")]
    for start in range(0, len(records), 300):
        block = records[start : start + 300]
        file = folder / f"{block[0]['meta']['request']}.jsonl"
        file.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in block))
        file.with_name(f"{file.name}.done").touch()


def test_nested_records_without_scores_and_labels_are_watched(here: Home, data: Path) -> None:
    """Drift is told and acted on; what cannot be estimated says why, and a rule about it is unknown and never fires."""
    change, last = 6000, 9000
    here.configure(LOANS)
    here.rules(LOAN_RULES)
    programs = here.folder / "programs"
    programs.mkdir()
    (programs / "note.yaml").write_text(NOTE)
    (programs / "note.py").write_text(NOTE_PROGRAM)
    known = pd.read_csv(data / "synthetic_car_loan_dq_reference.csv", parse_dates=["timestamp"]).iloc[::5]
    flat = pd.json_normalize([_nested(row) for row in known.to_dict("records")])
    flat.to_parquet(here.folder / "reference.parquet", index=False)
    # The data set changes at its row 25000.
    rows = pd.read_csv(data / "synthetic_car_loan_dq_analysis.csv", parse_dates=["timestamp"])
    rows = rows.iloc[25_000 - change : 25_000 - change + last]
    checked = here.driftd("check")
    assert checked.returncode == 0, checked.stdout

    here.start()
    _drop(here, rows.iloc[:change])
    here.wait("the quiet rows", lambda: here.measured("drift.measured") >= change)
    assert here.fired() == []
    _drop(here, rows.iloc[change:])
    run = here.ended("loans-drifted")
    assert State.SUCCEEDED is run.state, run.why
    assert run.given["result"] == {"noted": "body.car.worth"}
    here.wait("the last rows", lambda: here.measured("drift.measured") >= last)
    events = [event.recorded.event for event in here.events("drift.measured")]
    assert all(event.data["unset"]["estimated_loss"] for event in events)
    assert not any("estimated_loss" in event.data for event in events)
    # Event time is what the records say in milliseconds, not when the files landed.
    assert rows["timestamp"].iloc[0].tz_localize("UTC") == min(
        pd.Timestamp(event.data["window"]["start"]) for event in events
    )
    asked = here.decisions("loans-worse")
    assert {"unknown"} == {truth for decision in asked for _text, truth, _why in decision.clauses}
    assert here.fired("loans-worse") == []
    assert len(here.fired("loans-drifted")) == 1
    assert here.events("performance.measured") == []
    _whole_chain(here)
