"""Figures of drift detection on the car-loan data: what it costs, how often it cries wolf, how soon it sees the change.

The data set (NannyML's synthetic car loan, 50,000 reference and 50,000 analysis rows) changes at analysis row 25,000.
`python -m tests.benchmarks.drift [NAME]` prints the figures whose names start so; the data is what `make data` unpacks.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from daemon.clients.evidently import score
from daemon.core.columns import Batch, FeatureKind, Records, column
from daemon.core.drift import Drift, measure
from daemon.core.methods import METHODS
from daemon.core.panes import empty, observe
from daemon.core.performance import wilson
from daemon.core.reference import Reference, build_reference

DATA = Path(__file__).parents[2] / ".cache" / "data"
KINDS: dict[str, FeatureKind] = {
    "car_value": "number",
    "salary_range": "category",
    "debt_to_income_ratio": "number",
    "loan_length": "number",
    "repaid_loan_on_prev_car": "category",
    "size_of_downpayment": "category",
    "driver_tenure": "number",
}
CHANGE = 25_000
WINDOW = 500
Figure = dict[str, Any]


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    for name, figure in FIGURES.items():
        if name.startswith(prefix):
            yield figure()


def cost() -> Figure:
    """Scores of Evidently's default methods, called directly, in units of its own report on 10,000 rows x 30 columns.

    Also our calibrated PSI of all rows (counting and judging), in the same unit. Processor time, the best of five rounds.
    """
    before, now = _wide(0), _wide(1)
    kinds: dict[str, FeatureKind] = {name: "category" if v.dtype == object else "number" for name, v in before.items()}
    methods = {name: "jensenshannon" if kind == "category" else "wasserstein" for name, kind in kinds.items()}

    def direct() -> dict[str, float]:
        return {name: score(method, before[name], now[name], kinds[name]) for name, method in methods.items()}

    records = [
        Records(len(v["c0"]), {name: column(kinds[name], raw) for name, raw in v.items()}) for v in (before, now)
    ]
    reference = build_reference("binary", kinds, records[0])
    rows = np.arange(records[1].rows)
    batch = Batch(records[1], [str(row) for row in rows], rows, rows)

    report = _preset(before, now)
    what = (report, direct, lambda: measure(reference, observe(empty(reference), reference, batch)))
    (theirs, ours, counting), (expected, found, _) = _best(what)
    return {
        "name": "drift.cost_over_evidently_report",
        "value": round(ours / theirs, 4),
        "unit": "ratio",
        "goal": round(1 / 15, 4),
        "scores_identical": found == expected,
        "histogram_basis": round(counting / theirs, 4),
        "reference": {
            "name": "Report([DataDriftPreset()]).run, 10,000 rows x 30 columns, CPU s",
            "value": round(theirs, 3),
        },
    }


def false_alarm_rate() -> Figure:
    """Share of windows judged "drift" (any column) among 5,000 windows from permutations of the rows before the change."""
    reference, stream = _car_loan()
    random = np.random.default_rng(0)
    windows, alarms, outputs = 0, 0, 0
    for _ in range(100):
        order = random.permutation(CHANGE)
        for first in range(0, CHANGE, WINDOW):
            found = _judge(reference, stream, order[first : first + WINDOW])
            windows += 1
            alarms += found.drifted_columns > 0
            outputs += found.prediction is not None and found.prediction.drifted
    lower, upper = wilson(alarms, windows)
    theirs = _evidently_alarms(stream, random.permutation(CHANGE), 50)
    return {
        "name": "drift.false_alarm_rate",
        "value": alarms / windows,
        "unit": "share of windows",
        "goal": 0.01,
        "lower": round(lower, 5),
        "upper": round(upper, 5),
        "windows": windows,
        "prediction_drift": outputs / windows,
        "reference": {"name": "Evidently's defaults, any of the 7 columns, 50 of the windows", "value": theirs},
    }


def detection_delay() -> Figure:
    """Windows from the change until drift is seen in 2 of 3 windows, over 125 offsets of the windows to the change."""
    reference, stream = _car_loan()
    twice, once, hurting = [], [], []
    for offset in range(0, WINDOW, 4):
        drifted, worse = [], []
        for first in range(CHANGE - 4 * WINDOW + offset, CHANGE + 8 * WINDOW, WINDOW):
            found = _judge(reference, stream, np.arange(first, first + WINDOW))
            after = (first + WINDOW - CHANGE) / WINDOW
            drifted.append((found.drifted_columns > 0, after))
            worse.append((_loses(found), after))
        twice.append(_first(drifted, 2))
        once.append(_first(drifted, 1))
        hurting.append(max(_first(drifted, 2), _first(worse, 2)))
    return {
        "name": "drift.detection_delay_windows",
        "value": round(median(twice), 3),
        "unit": f"windows of {WINDOW} rows",
        "goal": 2,
        "p90": round(float(np.quantile(twice, 0.9)), 3),
        "offsets": len(twice),
        "with_estimated_loss": round(median(hurting), 3),
        "reference": {"name": "drift in a single window", "value": round(median(once), 3)},
    }


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "drift.cost_over_evidently_report": cost,
    "drift.false_alarm_rate": false_alarm_rate,
    "drift.detection_delay_windows": detection_delay,
}


def _judge(reference: Reference, stream: Records, rows: NDArray[np.int64]) -> Drift:
    """The verdict on these rows, by the same code as in the monitors."""
    batch = Batch(stream.take(rows), [str(row) for row in rows.tolist()], rows, rows)
    return measure(reference, observe(empty(reference), reference, batch))


def _loses(found: Drift) -> bool:
    """The estimated loss is 1.2 times the reference's or more, significantly: the shipped retrain rule's condition."""
    fields = found.fields()
    return fields["estimated_loss_ratio"] >= 1.2 and fields["estimated_loss_p_value"] <= 0.001


def _first(verdicts: list[tuple[bool, float]], times: int) -> float:
    """Windows after the change at which `times` of three windows in a row say so; infinite when they never do."""
    for number in range(len(verdicts)):
        if verdicts[number][0] and sum(said for said, _ in verdicts[max(0, number - 2) : number + 1]) >= times:
            return verdicts[number][1]
    return float("inf")


def _evidently_alarms(stream: Records, order: NDArray[np.int64], windows: int) -> float:
    """How many windows have a column over the threshold of Evidently's default method, as a share."""
    before, alarms = _read("reference"), 0
    for number in range(windows):
        now = stream.take(order[number * WINDOW : (number + 1) * WINDOW])
        for name, kind in KINDS.items():
            method = METHODS["jensenshannon" if kind == "category" else "wasserstein"]
            found = score(method.name, before.features[name].values, now.features[name].values, kind)
            if found >= method.threshold:
                alarms += 1
                break
    return alarms / windows


@cache
def _car_loan() -> tuple[Reference, Records]:
    """The reference, and the stream of predictions that changes."""
    return build_reference("binary", KINDS, _read("reference")), _read("analysis")


@cache
def _read(part: str) -> Records:
    with (DATA / f"synthetic_car_loan_{part}.csv").open(newline="", encoding="utf-8") as file:
        names, *lines = csv.reader(file)
    raw = dict(zip(names, zip(*lines, strict=True), strict=True))
    return Records(
        len(lines),
        {name: column(kind, raw[name]) for name, kind in KINDS.items()},
        column("category", raw["y_pred"]),
        column("number", raw["y_pred_proba"]),
        column("category", [str(int(float(label))) for label in raw["repaid"]]) if "repaid" in raw else None,
    )


def _wide(seed: int) -> dict[str, NDArray[Any]]:
    """10,000 rows of 24 numbers and 6 categories with 8 levels."""
    random = np.random.default_rng(seed)
    numbers = {f"c{number}": random.lognormal(size=10_000) for number in range(24)}
    levels = np.array([f"level {number}" for number in range(8)], dtype=object)
    return {**numbers, **{f"c{number}": random.choice(levels, 10_000) for number in range(24, 30)}}


def _preset(before: dict[str, NDArray[Any]], now: dict[str, NDArray[Any]]) -> Callable[[], dict[str, float]]:
    """A function that runs Evidently's preset on both, and gives its scores per column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd  # noqa: PLC0415
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
        from evidently.presets import DataDriftPreset  # noqa: PLC0415

    definition = DataDefinition(
        numerical_columns=[name for name, values in now.items() if values.dtype != object],
        categorical_columns=[name for name, values in now.items() if values.dtype == object],
        text_columns=[],
        datetime_columns=[],
        unknown_columns=[],
        list_columns=[],
    )
    pair = [Dataset.from_pandas(pd.DataFrame(values), data_definition=definition) for values in (now, before)]

    def run() -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metrics = Report([DataDriftPreset()]).run(*pair).dict()["metrics"]
        return {
            metric["config"]["column"]: float(metric["value"])
            for metric in metrics
            if metric["config"]["type"].endswith(":ValueDrift")
        }

    return run


def _best(what: Sequence[Callable[[], Any]], rounds: int = 5) -> tuple[list[float], list[Any]]:
    """The least processor time of each call, in seconds, and what it gave; taken in turns, so that noise hits them alike."""
    least, got = [float("inf")] * len(what), [None] * len(what)
    for _ in range(rounds):
        for number, call in enumerate(what):
            start = time.process_time()
            got[number] = call()
            least[number] = min(least[number], time.process_time() - start)
    return least, got


if __name__ == "__main__":
    for line in figures(*sys.argv[1:2]):
        print(orjson.dumps(line).decode(), flush=True)
