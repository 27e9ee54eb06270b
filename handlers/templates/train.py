"""Train a model on the labelled rows of its stream, without the holdout, and register it with its reference."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
from kit.call import JobCall, fail, finish, log, not_yet, read_call
from kit.rows import Rows, feature_names, label_key, stream_rows, table_rows


def main() -> None:
    """Read rows first, and load the learner and MLflow only when there are enough: a look too early costs little."""
    call = read_call()
    rows = _rows(call)
    enough = int(call.parameter("min_rows", 1000))
    if len(rows) < enough:
        not_yet(call, f"{len(rows)} labelled rows outside the holdout, {enough} needed", rows=len(rows))
    if rows.features.shape[1] == 0:
        fail("the stream declares no features that may be learnt from")

    from kit.registry import champion_reference, connect, register, registered  # noqa: PLC0415

    client = connect(call)
    before = registered(client, call)
    if before is not None:
        finish(call, _outputs(before, rows, len(rows)))
        return
    reference = champion_reference(client, call) if call.parameter("mix_reference", True) else ""
    mixed = _mixed(call, rows, reference)
    trained = _trained(call, rows, mixed)
    version = register(client, call, trained)
    finish(call, _outputs(version, rows, len(mixed)))


def _rows(call: JobCall) -> Rows:
    started = time.monotonic()
    if call.table:
        rows = table_rows(call.table, call.stream["fields"], feature_names(call.stream))
    else:
        rows = stream_rows(call, "training", call.parameter("rows_since"), int(call.parameter("max_rows", 100_000)))
    log(
        "rows read", rows=len(rows), holdout_excluded=rows.held_out, unlabelled=rows.unlabelled,
        unreadable=rows.unreadable, seconds=round(time.monotonic() - started, 2),
    )  # fmt: skip
    return rows


def _mixed(call: JobCall, rows: Rows, reference: str) -> Rows:
    """The new rows and as many, evenly spread ones of the champion's reference: safer than the new ones alone where
    nothing got worse, and as good where something did.
    """
    if not reference:
        return rows
    old = table_rows(reference, call.stream["fields"], feature_names(call.stream))
    stride = max(1, len(old) // max(1, len(rows)))
    features = pd.concat([rows.features, old.features.iloc[::stride]], ignore_index=True)
    meta = pd.concat([rows.meta, old.meta.iloc[::stride]], ignore_index=True)
    log("reference mixed in", rows=len(features) - len(rows))
    return Rows(features, meta, rows.held_out, rows.unlabelled, rows.unreadable)


def _trained(call: JobCall, rows: Rows, mixed: Rows) -> Any:
    from kit.pyfunc_model import answers, shares, tidy  # noqa: PLC0415
    from kit.registry import Trained  # noqa: PLC0415
    from kit.tabular import learner, targets, unseen  # noqa: PLC0415

    fields, task, features = call.stream["fields"], call.model["task"], feature_names(call.stream)
    inputs = tidy(mixed.features, features)
    target, classes = targets(mixed.meta["label"], task)
    if task != "regression" and len(classes) < 2:
        fail(f"all {len(mixed)} labels are the same: nothing to learn")
    if task == "binary" and len(classes) > 2:
        fail(f"the model's task is binary, but its labels are {classes[:5]}")
    spec = {
        "task": task, "features": features, "classes": classes,
        "prediction": fields.get("prediction") or "prediction",
        "score": None if task == "regression" else fields.get("score") or "score",
    }  # fmt: skip
    started = time.monotonic()
    pipeline = learner(task, features, call.parameter("learner", "boosting"), int(call.parameter("seed", 0)))
    # Out of fold, and of the new rows only: the next windows are held against how things are now.
    said = unseen(pipeline, inputs, target, task)[: len(rows)]
    pipeline.fit(inputs, target)
    recent = rows.features.index
    if task == "regression":
        answered = pd.DataFrame({spec["prediction"]: said}, index=recent)
    else:
        answered = shares(said, recent, spec)
    metric, value = _quality(answered[spec["prediction"]], rows.meta["label"], task)
    log("trained", rows=len(mixed), seconds=round(time.monotonic() - started, 2), **{metric: value})
    answers(pipeline, inputs.head(10), spec)  # a model that cannot answer is not registered
    return Trained(
        pipeline=pipeline,
        spec=spec,
        reference=_reference(call, rows, answered),
        metrics={metric: value, "rows": float(len(mixed)), "recent_rows": float(len(rows))},
        params={"learner": call.parameter("learner", "boosting"), "rows_since": call.parameter("rows_since", "")},
    )


def _reference(call: JobCall, rows: Rows, answered: pd.DataFrame) -> pd.DataFrame:
    reference: pd.DataFrame = rows.features.copy()
    for name in answered:
        reference[name] = answered[name].to_numpy()
    label = rows.meta["label"]
    if call.model["task"] == "regression":
        values = pd.to_numeric(label, errors="coerce").to_numpy()
    else:
        values = _as_written(label.map(label_key), answered.iloc[:, 0])
    reference[call.stream["fields"].get("label") or "label"] = values
    return reference


def _as_written(keys: pd.Series[Any], like: pd.Series[Any]) -> Any:
    """Labels in the type of the predictions, so that the two compare."""
    return pd.to_numeric(keys).to_numpy() if pd.api.types.is_numeric_dtype(like) else keys.to_numpy()


def _quality(predicted: pd.Series[Any], label: pd.Series[Any], task: str) -> tuple[str, float]:
    if task == "regression":
        return "mae", float((pd.to_numeric(label, errors="coerce") - predicted).abs().mean())
    return "accuracy", float((predicted.map(label_key) == label.map(label_key)).mean())


def _outputs(version: Any, rows: Rows, trained_on: int) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "rows": len(rows),
        "trained_on": trained_on,
        "reference": version.tags.get("driftd.reference", ""),
        "holdout_excluded": True,
        "holdout_rows": rows.held_out,
    }


if __name__ == "__main__":
    main()
