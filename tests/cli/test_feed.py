"""`driftd feed`: a data set played into a stream as another serving system would."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from daemon.commands.exits import Exit
from tests.cli.conftest import CONFIG, ROOT, Household


@pytest.fixture
def table(household: Household) -> Path:
    """Sixty rows, out of order in time, with labels for all but every tenth; its path."""
    rows = pd.DataFrame({
        "id": [f"p{number}" for number in range(60)],
        "time": [f"2026-01-01T00:{number:02d}:00+00:00" for number in range(60)],
        "age": [float(number) if number % 7 else None for number in range(60)],
        "plan": ["basic", "gold", None] * 20,
        "guess": [number % 2 for number in range(60)],
        "score": [number / 60 for number in range(60)],
        "secret": ["s"] * 60,
    })  # fmt: skip
    path = household.folder / "rows.csv"
    rows.iloc[::-1].to_csv(path, index=False)
    labels = pd.DataFrame({"id": rows["id"], "left": rows["guess"]})
    labels[labels.index % 10 != 9].to_csv(household.folder / "labels.csv", index=False)
    return path


def read(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """The files of a folder in order of their names, as records."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet":
            records = json.loads(pd.read_parquet(path).to_json(orient="records"))
        elif path.suffix == ".csv":
            records = pd.read_csv(path).to_dict(orient="records")
        else:
            records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        found.append((path.name, records))
    return found


def ids(files: list[tuple[str, list[dict[str, Any]]]]) -> list[str]:
    """All ids of some files."""
    return [record["id"] for _, records in files for record in records]


def test_rows_come_in_event_time_order_in_files_of_both_formats(household: Household, table: Path) -> None:
    """Every row once, oldest first; only the stream's fields; missing values are null."""
    told = household.json("feed", "churn", "--data", str(table), "--batch", "25")
    files = read(household.home / "churn" / "predictions")

    assert {"rows": 60, "first": 0, "next": 60, "stopped": False, "files": 3, "labels": 0}.items() <= told.items()
    assert [name for name, _ in files] == [
        "rows-00000000-00000025.jsonl", "rows-00000025-00000050.parquet", "rows-00000050-00000060.jsonl",
    ]  # fmt: skip
    assert ids(files) == [f"p{number}" for number in range(60)]
    assert files[0][1][0] == {
        "id": "p0", "time": "2026-01-01T00:00:00+00:00", "guess": 0, "score": 0.0, "age": None, "plan": "basic",
    }  # fmt: skip
    assert files[1][1][1]["plan"] is None


def test_labels_come_later_in_files_of_their_own(household: Household, table: Path) -> None:
    """The prediction files never hold a label; every label that is known comes once, also the last ones."""
    labels = str(household.folder / "labels.csv")
    told = household.json(
        "feed",
        "churn",
        "--data",
        str(table),
        "--labels",
        labels,
        "--batch",
        "20",
        "--label-lag",
        "30",
        "--format",
        "csv",
    )
    files = read(household.home / "churn" / "labels")

    assert (told["labels"], told["label_files"]) == (54, 3)
    assert ids(files) == [f"p{number}" for number in range(60) if number % 10 != 9]
    assert all(set(record) == {"id", "left"} for _, records in files for record in records)
    assert {type(record["left"]) for _, records in files for record in records} == {int}
    assert "left" not in read(household.home / "churn" / "predictions")[0][1][0]


def test_a_part_of_the_rows_is_played(household: Household, table: Path) -> None:
    """`--rows A:B` counts in event-time order; B is not included, and may be left out."""
    household.json("feed", "churn", "--data", str(table), "--rows", "10:20")
    household.json("feed", "churn", "--data", str(table), "--rows", "57:")

    assert ids(read(household.home / "churn" / "predictions")) == [f"p{n}" for n in (*range(10, 20), 57, 58, 59)]


def test_a_folder_with_markers_gets_them(household: Household, table: Path) -> None:
    """With `complete: marker` each file is followed by its marker."""
    config = household.folder / "config.yaml"
    config.write_text(CONFIG.replace("labels: churn/labels", "labels: churn/labels\n    complete: marker"))
    household.json("feed", "churn", "--data", str(table), "--format", "csv")

    names = sorted(path.name for path in (household.home / "churn" / "predictions").iterdir())

    assert names == ["rows-00000000-00000060.csv", "rows-00000000-00000060.csv.done"]


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        (("churn", "--data", "nowhere.csv"), Exit.NOT_FOUND, "there is no file nowhere.csv"),
        (("other", "--data", "TABLE"), Exit.NOT_FOUND, "no stream 'other'"),
        (("churn", "--data", "LABELS"), Exit.FOUND, "no column 'age'"),
        (("churn", "--data", "TABLE", "--labels", "TABLE"), Exit.FOUND, "no column 'left'"),
        (("churn", "--data", "TABLE", "--rows", "60:70"), Exit.FOUND, "there are none from 60 to 70"),
        (("churn", "--data", "TABLE", "--rows", "ten"), Exit.USAGE, "write A:B"),
        (("churn", "--data", "TABLE", "--format", "xml"), Exit.USAGE, "there are jsonl, parquet, csv"),
    ],
)
def test_what_cannot_be_played_is_told(
    household: Household, table: Path, change: tuple[str, ...], code: Exit, why: str
) -> None:
    """Missing files, wrong columns, empty ranges: a sentence, a code, and no file."""
    names = {"TABLE": str(table), "LABELS": str(household.folder / "labels.csv")}
    result = household.driftd("feed", *(names.get(word, word) for word in change))

    assert result.exit_code == code
    assert why in " ".join(result.stderr.replace("│", " ").split())
    assert not (household.home / "churn").exists()


class Gateway(ThreadingHTTPServer):
    """A model gateway that answers, except for every tenth id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Scoring)
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.at_once = 0
        self.most_at_once = 0


class _Scoring(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        (record,) = body["dataframe_records"]
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.at_once, self.server.most_at_once)
            self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, record))
        failed = record["id"].endswith("9")
        answer = b"{}"
        self.send_response(500 if failed else 200)
        self.send_header("content-length", str(len(answer)))
        self.send_header("x-driftd-version", "3")
        self.end_headers()
        with self.server.lock:
            self.server.at_once -= 1
        self.wfile.write(answer)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def gateway(household: Household) -> Iterator[Gateway]:
    """A gateway that the configuration names."""
    server = Gateway()
    config = household.folder / "config.yaml"
    config.write_text(
        CONFIG.replace("id: id,", "id: id, unit: plan,")
        + f"platform: {{gateway: {{host: 127.0.0.1, port: {server.server_port}, timeout: 5s}}}}\n"
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_rows_go_to_the_gateway_as_requests(household: Household, table: Path, gateway: Gateway) -> None:
    """One request per row with features, id, time and unit; failures and versions are counted; labels follow."""
    told = household.json(
        "feed", "churn", "--data", str(table), "--labels", str(household.folder / "labels.csv"), "--to", "gateway",
        "--concurrency", "4", "--rate", "1000",
    )  # fmt: skip
    sent = {record["id"]: (path, headers, record) for path, headers, record in gateway.seen}

    assert {
        "requests": 60,
        "failed": 6,
        "failures": {"500": 6},
        "versions": {"3": 54},
        "files": 0,
        "labels": 54,
    }.items() <= told.items()
    assert set(sent) == {f"p{number}" for number in range(60)}
    assert 1 <= gateway.most_at_once <= 4
    path, headers, record = sent["p1"]
    assert path == "/targets/churn/invocations"
    assert (headers["x-driftd-id"], headers["x-driftd-unit"]) == ("p1", "gold")
    assert record == {"id": "p1", "time": "2026-01-01T00:01:00+00:00", "plan": "gold", "age": 1.0}
    assert "x-driftd-unit" not in sent["p2"][1]
    assert len(ids(read(household.home / "churn" / "labels"))) == 54
    assert not (household.home / "churn" / "predictions").exists()


def test_a_gateway_that_is_not_there_answers_nothing(household: Household, table: Path, gateway: Gateway) -> None:
    """Every request fails, each is counted, and the exit code says so."""
    gateway.shutdown()
    gateway.server_close()

    told = household.json("feed", "churn", "--data", str(table), "--to", "gateway", exit_code=Exit.FOUND)

    assert (told["requests"], told["failures"]) == (60, {"ConnectError": 60})


@pytest.mark.parametrize("to", ["files", "gateway"])
def test_sigterm_ends_it_cleanly_and_says_where_to_go_on(
    household: Household, table: Path, gateway: Gateway, to: str
) -> None:
    """What was played is whole, its labels are brought, and the last line tells the next row."""
    command = [
        sys.executable, "-m", "daemon", "--config", str(household.folder / "config.yaml"), "feed", "churn",
        "--data", str(table), "--labels", str(household.folder / "labels.csv"), "--to", to, "--batch", "2",
        "--rate", "20", "--label-lag", "1000", "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        pause = threading.Event()
        for _ in range(600):
            if gateway.seen or list(household.home.glob("churn/predictions/*.jsonl")):
                break
            pause.wait(0.05)
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate(timeout=30)[0].splitlines()[-1])

    assert process.returncode == 0
    assert told["stopped"] is True
    assert 1 <= told["next"] < 60
    played = (
        ids(read(household.home / "churn" / "predictions")) if to == "files" else [r["id"] for _, _, r in gateway.seen]
    )
    assert sorted(played) == sorted(f"p{number}" for number in range(told["next"]))
    labelled = [f"p{number}" for number in range(told["next"]) if number % 10 != 9]
    assert ids(read(household.home / "churn" / "labels")) == labelled
