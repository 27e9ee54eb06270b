"""A model whose prediction log and labels are on topics, from the first row to a promoted version, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from daemon.control import ask
from daemon.core.runs import State
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from tests.e2e.home import Home, home
from tests.e2e.test_other_shapes import CAR_NAMES, CAR_RULES, CARS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]
PARTITIONS = 3
CHANGE, LOGGED, LAST = 3000, 6000, 16000
"""Rows: prices fall; requests to the gateway from here; the end."""
OPEN = 900
"""So many rows may wait in an open window and in slices that are not complete."""


@pytest.fixture
def here(tmp_path: Path, broker: Broker, topics: Topics) -> Iterator[Home]:
    """The used cars of the other shapes, on topics."""
    with home(tmp_path) as made:
        made.configure({
            **CARS,
            "kafka": {"main": {"bootstrap": [broker.address], "timeout": "5s"}},
            "streams": {
                "sales": {
                    **CARS["streams"]["sales"], "kind": "kafka", "connection": "main", "topic": "sales",
                    "label_topic": "sales.paid", "archive": "1d", "slice": "30m", "lateness": "30m", "idle": "10s",
                },
            },
        })  # fmt: skip
        made.rules(CAR_RULES)
        topics.create("sales", PARTITIONS)
        topics.create("sales.paid", PARTITIONS, retention_ms="-1")  # their timestamps are those of the rows
        yield made


def _is_read(here: Home) -> bool:
    figures = ask(here.state, {"op": "status"}, 10)["status"]["streams"]["sales"]
    return figures["lag"] == 0 and figures["problem"] == ""


def test_a_model_on_topics_is_retrained_and_promoted(here: Home, data: Path, topics: Topics) -> None:
    """Labels on a topic of their own raise the alarm, the training reads what was archived, the canary's requests come to
    the topic too; before the change nothing happens.
    """
    known = pd.read_csv(data / "regression_synthetic_reference.csv").rename(columns=CAR_NAMES).drop(columns="y_pred")
    known.iloc[:8000].to_csv(here.folder / "training.csv", index=False)
    rows = known.iloc[20_000 : 20_000 + LAST].reset_index(drop=True)
    rows.loc[CHANGE:, "paid"] *= 0.67
    rows.to_csv(here.folder / "rows.csv", index=False)
    table = here.folder / "asked.csv"
    arguments = (str(here.folder / name) for name in ("training.csv", "rows.csv", "asked.csv"))
    here.play("team", "tests.e2e.team", "used-cars", *arguments)
    first = here.done("team")["version"]

    here.start()
    here.feed("quiet", "sales", table, "--rows", f"0:{CHANGE}", "--batch", "250")
    assert here.done("quiet")["sent"] == CHANGE

    def measured() -> int:
        return sum(int(event.recorded.event.data["window"]["rows"]) for event in here.events("performance.measured"))

    here.wait("the quiet rows", lambda: measured() >= CHANGE - OPEN and _is_read(here))
    assert here.fired() == []
    here.feed("changed", "sales", table, "--rows", f"{CHANGE}:{LOGGED}", "--batch", "250", "--rate", "500")
    run = here.wait("the retraining", lambda: here.run_of("used-cars-retrain"))
    assert here.done("changed")["sent"] == LOGGED - CHANGE
    here.wait(
        "the canary",
        lambda: (now := here.run_of("used-cars-retrain")) and (now.state is State.SERVING or now.ended),
        200,
    )
    here.feed("requests", "sales", table, "--to", "gateway", "--rows", f"{LOGGED}:{LAST}", "--rate", "60")
    run = here.ended("used-cars-retrain", 200)
    assert State.PROMOTED is run.state, run.why
    assert first != run.given["version"]
    assert here.end("requests") == 0

    here.wait("no lag", lambda: _is_read(here))
    sent, labels = (sum(topics.ends(name, range(PARTITIONS)).values()) for name in ("sales", "sales.paid"))
    assert sent > LOGGED + 200  # what the gateway has logged is on the topic as well
    assert labels > LOGGED
    assert here.end("daemon") == 0
    verified = here.driftd("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
