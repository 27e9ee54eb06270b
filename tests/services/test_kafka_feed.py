"""`driftd feed` plays a data set onto topics as another serving system would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from daemon.clients.kafka import Consumer, Record
from daemon.story.broker import ANN, ANNS_PASSWORD, Broker
from daemon.story.topics import Topics
from tests.contract.desk import eventually
from tests.e2e.home import Home, home
from tests.services.kafkas import plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]
ROWS = 60


@pytest.fixture
def here(tmp_path: Path, broker: Broker, topics: Topics, topic: str) -> Iterator[Home]:
    """A stream on two topics behind SCRAM and TLS, sixty rows and their labels."""
    with home(tmp_path) as made:
        (tmp_path / "password").write_text(ANNS_PASSWORD)
        (tmp_path / "user").write_text(ANN)
        sasl = {"username": {"file": "user"}, "password": {"file": "password"}}
        fields = {
            "id": "id",
            "time": "at",
            "unit": "who",
            "prediction": "yhat",
            "label": "y",
            "features": {"age": "number"},
        }
        stream = {
            "kind": "kafka", "connection": "main", "topic": topic, "label_topic": f"{topic}.labels",
            "predictions": "rows", "labels": "labels", "fields": fields,
        }  # fmt: skip
        made.configure({
            "kafka": {
                "main": {
                    "bootstrap": [broker.scram_address], "security": "SASL_SSL", "sasl": sasl,
                    "tls": {"ca": str(broker.ca)}, "timeout": "10s",
                },
            },
            "streams": {"churn": stream},
        })  # fmt: skip
        topics.grow(topic, 3)
        topics.create(f"{topic}.labels", 3, retention_ms="-1")
        rows = pd.DataFrame({
            "id": [f"r{n}" for n in range(ROWS)], "at": [f"2020-01-01T00:{n:02d}:00Z" for n in range(ROWS)],
            "who": [f"u{n % 7}" if n % 10 else None for n in range(ROWS)], "yhat": 1, "age": 30.0, "nobody": "asks",
        })  # fmt: skip
        rows.iloc[::-1].to_csv(tmp_path / "rows.csv", index=False)
        pd.DataFrame({"id": rows["id"], "y": 0}).to_csv(tmp_path / "labels.csv", index=False)
        yield made


def came(broker: Broker, topic: str, count: int) -> dict[int, list[tuple[Record, dict[str, Any]]]]:
    """The records by partition."""
    with closing(Consumer(plain(broker.address), "tool", f"tool-{topic}")) as consumer:
        consumer.subscribe([topic])
        found: dict[int, list[tuple[Record, dict[str, Any]]]] = {}

        def enough() -> bool:
            polled = consumer.poll(10_000, 0.2)
            consumer.place(dict.fromkeys(polled.gained, 0))
            for partition, records in polled.records.items():
                mine = found.setdefault(partition.number, [])
                mine += [(one, orjson.loads(one.value or b"null")) for one in records]
            return sum(map(len, found.values())) >= count

        eventually(enough)
        return found


def test_rows_and_labels_come_to_their_topics(here: Home, broker: Broker, topic: str) -> None:
    """In event-time order in every partition, each unit in one of them; labels later, at the event time of that moment."""
    table, labels = str(here.folder / "rows.csv"), str(here.folder / "labels.csv")
    told = here.json("feed", "churn", "--data", table, "--labels", labels, "--batch", "10", "--label-lag", "20")
    assert {
        "rows": ROWS,
        "to": "stream",
        "sent": ROWS,
        "labels": ROWS,
        "files": 0,
        "label_files": 0,
    }.items() <= told.items()
    rows = came(broker, topic, ROWS)
    brought = came(broker, f"{topic}.labels", ROWS)

    assert len(rows) == len(brought) == 3
    for number, mine in rows.items():
        times = [values["at"] for _, values in mine]
        assert times == sorted(times)
        for one, values in mine:
            assert one.key == (values["who"] or values["id"]).encode()
            assert set(values) == {"id", "at", "who", "yhat", "age"}
            others = [v["who"] for other, those in rows.items() if other != number for _, v in those]
            assert values["who"] is None or values["who"] not in others
    for one, values in (pair for mine in brought.values() for pair in mine):
        assert (one.key, values["y"]) == (values["id"].encode(), 0)
        row = int(values["id"][1:])
        last = min(row // 10 * 10 + 10 + 20, ROWS) - 1  # the row that was played last when its block came
        assert one.timestamp == (1_577_836_800 + 60 * last) * 1000
    assert not (here.state / "rows").exists()


def test_a_topic_that_is_not_there_is_told(here: Home, topics: Topics, topic: str) -> None:
    """An error with its reason, not a feed of nothing."""
    topics.delete(topic)
    done = here.driftd("feed", "churn", "--data", str(here.folder / "rows.csv"))

    assert done.returncode not in {0, 1}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "kafka" in done.stderr
