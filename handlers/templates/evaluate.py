"""Hold two versions against each other on held-out labelled rows: the difference per row, with its bounds.

It measures; whether the difference is good enough is for the handler to say. Rows with the same unit are not independent,
so the standard error is the larger of the paired one and the one clustered by unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from kit.call import fail, finish, log, not_yet, read_call
from kit.rows import Rows, label_key, stream_rows

Z = 1.6448536269514722
"""Standard normal quantile of 0.95: one-sided 95 % bounds."""
MOST_SINGLE = 2000
"""Most rows that are tried one by one when a version fails on a batch; later ones of failing batches count as failed."""


@dataclass(frozen=True)
class Answers:
    """What a version said to each row; `failed` rows raised an error."""

    predictions: pd.Series[Any]
    failed: pd.Series[bool]


def main() -> None:
    """Read the rows, ask both versions, write the comparison."""
    call = read_call()
    rows = stream_rows(call, "holdout", call.parameter("since"), int(call.parameter("max_rows", 20_000)))
    log("rows read", rows=len(rows), unlabelled=rows.unlabelled, unreadable=rows.unreadable)
    enough = int(call.parameter("min_rows", 300))
    if len(rows) < enough:
        not_yet(call, f"{len(rows)} labelled rows in the holdout, {enough} needed", rows=len(rows))
    import mlflow  # noqa: PLC0415 - seconds, and not needed when there are too few rows

    mlflow.set_tracking_uri(call.registry["uri"])
    mlflow.set_registry_uri(call.registry["uri"])
    name, field = call.model["registered"], call.stream["fields"].get("prediction") or "prediction"
    champion = answered(mlflow.pyfunc.load_model(f"models:/{name}/{call.champion}"), rows.features, field)
    challenger = answered(mlflow.pyfunc.load_model(f"models:/{name}/{call.version}"), rows.features, field)
    if bool(champion.failed.all()):
        fail(f"the champion, version {call.champion}, fails on every row: nothing to compare with")
    metric = call.parameter("metric", "auto")
    if metric == "auto":
        metric = "mae" if call.model["task"] == "regression" else "accuracy"
    outcome = compare(metric, rows, champion, challenger)
    finish(call, {**outcome, "champion": call.champion, "version": call.version, **_stretch(rows)})


def answered(model: Any, features: pd.DataFrame, field: str) -> Answers:
    """What the model says to each row. A batch that raises is tried row by row, so that one bad row costs that row."""
    parts: list[pd.Series[Any]] = []
    singles = 0
    for batch in (features.iloc[start : start + 1000] for start in range(0, len(features), 1000)):
        said = _said(model, batch, field)
        if said is not None:
            parts.append(said)
            continue
        for place in range(len(batch)):
            singles += 1
            row = batch.iloc[place : place + 1]
            one = _said(model, row, field) if singles <= MOST_SINGLE else None
            parts.append(pd.Series([None], index=row.index, dtype=object) if one is None else one)
    predictions = pd.concat(parts)
    return Answers(predictions, predictions.isna())


def compare(metric: str, rows: Rows, champion: Answers, challenger: Answers) -> dict[str, Any]:
    """The mean paired difference (above 0: the challenger is better) with its one-sided 95 % bounds.

    accuracy: a failed row is a wrong one. mae: rows where either failed are left out, and counted.
    """
    label = rows.meta["label"]
    failures = {"champion_failures": int(champion.failed.sum()), "challenger_failures": int(challenger.failed.sum())}
    if metric == "accuracy":
        truth = label.map(label_key)
        right_before = champion.predictions.map(label_key).eq(truth).astype(float)
        right_after = challenger.predictions.map(label_key).eq(truth).astype(float)
        paired = right_after - right_before
        low_error = _discordant_error(paired)
        values = {"champion_value": right_before.mean(), "challenger_value": right_after.mean()}
    else:
        truth = pd.to_numeric(label, errors="coerce")
        off_before = (pd.to_numeric(champion.predictions, errors="coerce") - truth).abs()
        off_after = (pd.to_numeric(challenger.predictions, errors="coerce") - truth).abs()
        paired = (off_before - off_after).dropna()
        low_error = float(paired.std(ddof=1) / math.sqrt(len(paired))) if len(paired) > 1 else math.inf
        values = {"champion_value": off_before.mean(), "challenger_value": off_after.mean()}
    difference = float(paired.mean())
    error = max(low_error, _clustered_error(paired, rows.meta["unit"]))
    return {
        "metric": metric, "rows": len(paired), "difference": difference, "standard_error": error,
        "lower": difference - Z * error, "upper": difference + Z * error,
        **{name: float(value) for name, value in values.items()}, **failures,
    }  # fmt: skip


def _said(model: Any, batch: pd.DataFrame, field: str) -> pd.Series[Any] | None:
    """The predictions of a batch, None when the model raises; what it raises is its own business, so anything counts."""
    try:
        said = model.predict(batch)
        if isinstance(said, pd.DataFrame):
            column = field if field in said else "prediction" if "prediction" in said else said.columns[0]
            said = said[column]
        values = np.asarray(said, dtype=object).reshape(-1)
    except Exception as error:  # noqa: BLE001
        log("model raised", rows=len(batch), error=str(error)[:200])
        return None
    if len(values) != len(batch):
        log("model answered another number of rows", rows=len(batch), answers=len(values))
        return None
    return pd.Series(values, index=batch.index, dtype=object)


def _discordant_error(paired: pd.Series[float]) -> float:
    """Standard error of a difference of paired proportions with one pseudo-count per discordant cell, so that it is not
    zero when the two never differ (Bonett and Price 2012, Laplace-adjusted Wald interval).
    """
    n = len(paired)
    better, worse = (float((paired == side).sum() + 1) / (n + 2) for side in (1, -1))
    return math.sqrt((better + worse - (better - worse) ** 2) / (n + 2))


def _clustered_error(paired: pd.Series[float], unit: pd.Series[str]) -> float:
    """Standard error of the mean when rows of one unit go together: from the units' sums of deviations."""
    sums = (paired - paired.mean()).groupby(unit.loc[paired.index]).sum()
    if len(sums) < 2:
        return math.inf
    return float(math.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(paired))


def _stretch(rows: Rows) -> dict[str, str]:
    return {"from": str(rows.meta["time"].min()), "to": str(rows.meta["time"].max())}


if __name__ == "__main__":
    main()
