"""The kit that the approved programs share: which rows they see, and the numbers that an evaluation rests on."""

from __future__ import annotations

import importlib
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from daemon.core.canonical import unit_hash

TEMPLATES = Path(__file__).parents[2] / "handlers" / "templates"
FIELDS = {
    "id": "id", "time": "ts", "unit": "who", "prediction": "y", "label": "truth", "error": "error",
    "features": {"a": "number", "b.c": "category"},
}  # fmt: skip


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kit's rows and the evaluation, found as the programs find them."""
    monkeypatch.syspath_prepend(str(TEMPLATES))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return SimpleNamespace(rows=importlib.import_module("kit.rows"), evaluate=importlib.import_module("evaluate"))


@pytest.fixture
def job(kit: Any, tmp_path: Path) -> Any:
    """A call whose stream is empty; `put` adds a file."""
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
    stream = {
        "predictions": str(tmp_path / "predictions"), "labels": str(tmp_path / "labels"), "pattern": "*",
        "fields": FIELDS, "privacy": {},
    }  # fmt: skip
    ages = iter(range(1, 1000))

    def put(name: str, records: list[Any]) -> None:
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
        elif path.suffix == ".csv":
            pd.DataFrame(records).to_csv(path, index=False)
        else:
            pd.DataFrame(records).to_parquet(path)
        os.utime(path, (1_700_000_000 + next(ages),) * 2)

    return SimpleNamespace(stream=stream, holdout={"share": 0.2, "salt": "holdout:m"}, put=put)


def row(number: int, **more: Any) -> dict[str, Any]:
    """A prediction record."""
    return {
        "id": number,
        "ts": f"2026-01-01T00:00:{number % 60:02d}Z",
        "who": "u",
        "a": number / 2,
        "b": {"c": "x"},
        "y": 1,
        **more,
    }


def ids(rows: Any) -> list[str]:
    """The ids in order."""
    return list(rows.meta["id"])


def test_the_holdout_is_the_one_that_the_daemon_computes(kit: Any) -> None:
    """The kit stands alone, so its hash is a copy: it must give what the daemon's gives."""
    assert all(kit.rows.unit_hash("holdout:m", str(n)) == unit_hash("holdout:m", str(n)) for n in range(200))


def test_training_and_holdout_share_no_row(kit: Any, job: Any) -> None:
    """Every labelled row is either for training or in the holdout, the same at every reading."""
    job.put("predictions/a.jsonl", [row(n) for n in range(500)])
    job.put("labels/a.csv", [{"id": n, "truth": n % 2} for n in range(500)])
    training, holdout = (kit.rows.stream_rows(job, which, None, 1000) for which in ("training", "holdout"))

    assert set(ids(training)).isdisjoint(ids(holdout))
    assert len(training) + len(holdout) == 500
    assert training.held_out == len(holdout)
    assert 60 < len(holdout) < 140


def test_all_formats_give_the_same_rows(kit: Any, job: Any) -> None:
    """JSON lines, CSV and Parquet of one stream join with labels whose ids are written in another type."""
    job.holdout["share"] = 0.0
    job.put("predictions/a.jsonl", [row(1), row(2)])
    job.put("predictions/b.csv", [{"id": "3", "ts": "2026-01-01T00:00:03", "a": "1.5", "b.c": "x", "y": 1}])
    job.put("predictions/c.parquet", [{"id": 4.0, "ts": "2026-01-01T00:00:04Z", "a": 2.0, "b": {"c": "x"}, "y": 1}])
    job.put("labels/a.jsonl", [{"id": "1", "truth": True}, {"id": 2.0, "truth": False}, {"id": 3, "truth": 1}])
    job.put("labels/b.csv", [{"id": 4, "truth": 0}])

    rows = kit.rows.stream_rows(job, "training", None, 1000)

    assert ids(rows) == ["1", "2", "3", "4"]
    assert list(rows.features["a"]) == [0.5, 1.0, 1.5, 2.0]
    assert list(rows.features["b.c"]) == ["x"] * 4
    assert [kit.rows.label_key(label) for label in rows.meta["label"]] == ["1", "0", "1", "0"]


def test_whole_numbers_in_csv_are_the_categories_that_requests_bring(kit: Any, tmp_path: Path) -> None:
    """A category written as 4.0 is category 4, as in a request, in JSON and for the monitors; text stays as it is."""
    path = tmp_path / "rows.csv"
    path.write_text("id,truth,a,b.c\n1,1,2.0,4.0\n2,0,2.5,v4.0\n3,1,,\n")
    rows = kit.rows.table_rows(str(path), FIELDS, FIELDS["features"])
    assert rows.features["b.c"].tolist()[:2] == ["4", "v4.0"]
    assert rows.features["a"].tolist()[:2] == [2.0, 2.5]


def test_what_is_no_row_is_left_out_and_counted(kit: Any, job: Any) -> None:
    """Broken lines, failed requests, repeats, unlabelled rows and half-written files do not reach a learner."""
    job.holdout["share"] = 0.0
    job.put("predictions/a.jsonl", [row(1), row(2), "{broken", "[1]", row(3, error="boom"), row(4)])
    job.put("predictions/b.jsonl", [row(2, a=99)])
    job.put("predictions/c.jsonl.part", [row(9)])
    job.put("predictions/.d.jsonl", [row(9)])
    (Path(job.stream["predictions"]) / "e.parquet").write_bytes(b"no parquet")
    job.put("labels/a.csv", [{"id": n, "truth": 1} for n in (1, 2, 3, 9)])

    rows = kit.rows.stream_rows(job, "training", None, 1000)

    assert ids(rows) == ["1", "2"]
    assert list(rows.features["a"]) == [0.5, 99.0]
    assert rows.unlabelled == 1
    assert rows.unreadable == 3


def test_rows_begin_at_a_time_and_the_newest_count(kit: Any, job: Any) -> None:
    """`since` is event time, and a limit keeps the newest rows."""
    job.holdout["share"] = 0.0
    job.put("predictions/a.jsonl", [row(n) for n in range(40)])
    job.put("labels/a.csv", [{"id": n, "truth": 1} for n in range(40)])

    assert ids(kit.rows.stream_rows(job, "training", "2026-01-01T00:00:30", 1000)) == [str(n) for n in range(30, 40)]
    assert ids(kit.rows.stream_rows(job, "training", None, 3)) == ["37", "38", "39"]


def test_no_files_are_no_rows(kit: Any, job: Any) -> None:
    """A stream without files, or without a folder, gives no rows and no error."""
    assert len(kit.rows.stream_rows(job, "training", None, 10)) == 0
    job.stream["predictions"] += "/nowhere"
    assert len(kit.rows.stream_rows(job, "training", None, 10)) == 0


def test_labels_may_come_with_the_predictions(kit: Any, job: Any) -> None:
    """Without a folder of labels the prediction records' own label field counts; epoch times are read too."""
    job.holdout["share"] = 0.0
    job.stream["labels"] = None
    job.put("predictions/a.jsonl", [row(1, truth=1, ts=1_767_225_600), row(2, ts=1_767_225_601)])

    rows = kit.rows.stream_rows(job, "training", None, 10)

    assert ids(rows) == ["1"]
    assert rows.meta["time"][0] == pd.Timestamp("2026-01-01", tz="UTC")


def test_private_features_are_not_learnt_from(kit: Any) -> None:
    """A field that privacy hashes or drops is no feature."""
    stream = {"fields": FIELDS, "privacy": {"a": "hash"}}

    assert kit.rows.feature_names(stream) == {"b.c": "category"}


def compared(kit: Any, metric: str, truth: Any, before: Any, after: Any, units: Any = None) -> dict[str, Any]:
    """The comparison of two versions' predictions."""
    index = pd.RangeIndex(len(truth))
    meta = pd.DataFrame({"label": truth, "unit": units if units is not None else [str(n) for n in index]})
    answers = [
        kit.evaluate.Answers(pd.Series(said, dtype=object), pd.Series(said, dtype=object).isna())
        for said in (before, after)
    ]
    outcome: dict[str, Any] = kit.evaluate.compare(metric, SimpleNamespace(meta=meta), *answers)
    return outcome


def test_two_versions_that_agree_have_a_difference_of_zero_but_no_certainty(kit: Any) -> None:
    """With no discordant row the bounds are those of the adjusted interval, not zero."""
    outcome = compared(kit, "accuracy", [1] * 300, [1] * 300, [1] * 300)

    assert outcome["difference"] == 0
    assert outcome["standard_error"] == pytest.approx(math.sqrt(2 / 302 / 302))
    assert outcome["lower"] < 0 < outcome["upper"]


def test_the_bounds_hold_what_they_promise(kit: Any) -> None:
    """Over 400 draws of two versions at the margin, the lower bound is above it in at most 5 % (and some noise)."""
    random = np.random.default_rng(1)
    passed = 0
    for _ in range(400):
        before = random.random(400) < 0.90
        after = np.where(random.random(400) < 0.9, before, random.random(400) < 0.60)
        passed += compared(kit, "accuracy", [True] * 400, before, after)["lower"] > -0.03

    assert passed / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert passed > 0


def test_rows_of_one_unit_count_as_one(kit: Any) -> None:
    """When all rows of a unit go the same way, the error is that of so many units, not of so many rows."""
    random = np.random.default_rng(2)
    unit = np.repeat(np.arange(40), 25)
    right = np.repeat(random.random(40) < 0.5, 25)
    apart = compared(kit, "accuracy", [True] * 1000, [False] * 1000, right)
    together = compared(kit, "accuracy", [True] * 1000, [False] * 1000, right, [str(one) for one in unit])

    assert together["standard_error"] > 4 * apart["standard_error"]


def test_a_smaller_error_is_better(kit: Any) -> None:
    """For mae a challenger that is nearer has a difference above zero; rows that one of them failed are left out."""
    outcome = compared(kit, "mae", [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [1.5, 2.5, 3.5, None])

    assert outcome["difference"] == pytest.approx(0.5)
    assert (outcome["rows"], outcome["challenger_failures"]) == (3, 1)


def test_a_version_that_fails_on_a_row_fails_on_that_row_only(kit: Any) -> None:
    """A batch that raises is tried row by row; a failed row counts as wrong."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["a"] == 3).any():
            raise RuntimeError("three")
        return pd.DataFrame({"y": [1] * len(batch)})

    said = kit.evaluate.answered(SimpleNamespace(predict=predict), pd.DataFrame({"a": range(10)}), "y")

    assert list(said.failed) == [n == 3 for n in range(10)]
