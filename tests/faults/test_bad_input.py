"""Bad input of every kind to one running daemon: each becomes a problem that the command line shows, and stops nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
import yaml

from daemon import reading
from daemon.control import ask
from daemon.core.runs import State
from daemon.reading import StoredProblem
from daemon.sources.signatures import SIGNATURE, TIMESTAMP, sign
from tests.crash.scene import rows_of, write_rows
from tests.e2e.home import Home, free_port, home

SECRET = "shared with the sender"
FEATURES = {"car_value": "number", "salary_range": "category", "loan_length": "number"}
RULES = """
model: loan
monitors:
  - name: inputs
    window: {rows: 200}
rules:
  - name: tell
    on: data.landed
    subject: inbox
    when: event.name.endsWith(".csv")
    do:
      - notify: {to: ops}
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Home]:
    """A home of the test's own."""
    with home(tmp_path) as made:
        yield made


def configured(here: Home) -> int:
    """A watched folder, a measured stream and a webhook; the webhook's port."""
    port = free_port()
    (here.folder / "secret").write_text(SECRET)
    write_rows(here.folder / "reference.csv", rows_of("synthetic_car_loan_reference.csv", 1000))
    listing = {"complete": "renamed", "poll": "500ms"}
    fields = {"id": "id", "time": "timestamp", "prediction": "y_pred", "score": "y_pred_proba", "features": FEATURES}
    here.configure({
        "sources": {"inbox": {"path": "inbox", **listing}},
        "streams": {"loan": {"predictions": "asked", "fields": fields, **listing}},
        "models": {"loan": {"task": "binary", "registered": "loan", "stream": "loan", "reference": "reference.csv"}},
        "webhook": {"port": port, "max_bytes": 10_000, "hooks": {"ci": {"secret": {"file": "secret"}}}},
        "channels": {"ops": {"kind": "log"}},
    })  # fmt: skip
    here.rules(RULES)
    return port


def land(folder: Path, name: str | bytes, content: bytes) -> Path:
    """Move a file in."""
    draft = folder / ".draft"
    draft.write_bytes(content)
    path = folder / os.fsdecode(name)
    draft.rename(path)
    return path


def met(here: Home, kind: str, where: str, word: str = "") -> StoredProblem:
    """The problem of this place whose reason has the word, once it is there."""

    def found() -> StoredProblem | None:
        problems = here.read(lambda session: reading.problems(session, 1000))
        return next((one for one in problems if (one.kind, one.where) == (kind, where) and word in one.reason), None)

    problem: StoredProblem = here.wait(f"the {kind} problem of {where}", found)
    return problem


def revision(here: Home) -> str:
    """The rules that are in force."""
    now: str = ask(here.state, {"op": "status"}, 10)["status"]["rules"]["revision"]
    return now


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_bad_is_a_problem_and_stops_nothing(here: Home, data: Path) -> None:
    """Records, files, webhooks and rules: each has its place and reason in `driftd problems`, once as an event, and records
    lie in the dead-letter folder with their position; what is good beside them is taken.
    """
    port = configured(here)
    here.start()
    _records_and_files(here)
    _webhooks(here, port)
    _rules(here)

    told = here.json("problems", "--limit", "1000")
    events = here.json("events", "--type", "problem.recorded", "--limit", "1000")
    assert {(one["kind"], one["where"], one["reason"]) for one in told} == {
        (one["data"]["kind"], one["data"]["where"], one["data"]["reason"]) for one in events
    }
    assert len(events) == len(told)
    assert here.end("daemon") == 0
    assert here.json("audit", "verify")["ok"]


def _records_and_files(here: Home) -> None:
    asked, inbox = here.state / "asked", here.state / "inbox"
    rows = [orjson.dumps(row) for row in rows_of("synthetic_car_loan_analysis.csv", 203)]
    broken = land(asked, "a.jsonl", b"\n".join([*rows[:100], b'{"id": 7, "timest', b"[1, 2]", *rows[100:201]]) + b"\n")
    whole = _parquet(here.folder)
    cut = land(asked, "b.parquet", whole[: len(whole) // 2])
    empty = land(asked, "c.jsonl", b"")
    unreadable = asked / "d.jsonl"
    unreadable.symlink_to(unreadable)
    odd = land(inbox, b"\xff.csv", b"a name that is no UTF-8")
    hollow = land(inbox, "empty.csv", b"")
    land(inbox, "good.csv", b"1")

    for line, raw in ((101, '{"id": 7, "timest'), (102, "[1, 2]")):
        problem = met(here, "record", f"{broken}:{line}")
        letters = [orjson.loads(told) for told in Path(problem.dead_letter).read_bytes().splitlines()]
        (letter,) = [one for one in letters if one["line"] == line]
        assert (letter["file"], letter["raw"].strip(), letter["reason"]) == (str(broken), raw, problem.reason)
    kept = Path(met(here, "file", str(cut)).dead_letter)
    assert kept.with_suffix(".parquet").read_bytes() == cut.read_bytes()
    for path, word in ((empty, "empty"), (unreadable, "cannot be read"), (hollow, "empty")):
        met(here, "file", str(path), word)
    met(here, "file", str(inbox), ascii(odd.name))
    here.wait("the good records", lambda: here.measured("drift.measured") >= 200)
    here.wait("the good file", lambda: [run for run in here.runs() if run.trigger.data["name"] == "good.csv"])


def _parquet(folder: Path) -> bytes:
    """A whole Parquet file, as a job of the shipped programs would write it."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = folder / "whole.parquet"
    pq.write_table(pa.table({"id": list(range(1000)), "timestamp": ["2018-10-30"] * 1000}), path)
    return path.read_bytes()


def _webhooks(here: Home, port: int) -> None:
    body = orjson.dumps({"specversion": "1.0", "id": "1", "source": "/ci", "type": "done", "data": {"ok": True}})

    def send(body: bytes, secret: str = SECRET, age: int = 0, hook: str = "ci") -> int:
        stamp = str(int(time.time()) - age)
        headers = {
            "content-type": "application/cloudevents+json", TIMESTAMP: stamp,
            SIGNATURE: sign(secret.encode(), stamp, [], body),
        }  # fmt: skip
        address = f"http://127.0.0.1:{port}/hooks/{hook}"
        return httpx.post(address, content=body, headers=headers, timeout=30, verify=False).status_code

    assert [send(body, secret="another"), send(body, age=400)] == [401, 401]
    assert [send(b"{no JSON"), send(b"{no JSON")] == [400, 400]
    assert send(b"[" + b"1," * 9000 + b"1]") == 413
    assert send(body, hook="nobody") == 404
    counts = {word: met(here, "webhook", "hooks/ci", word).count for word in ("signature", "JSON", "larger")}
    assert counts == {"signature": 1, "JSON": 2, "larger": 1}  # what the unsigned cause is stored once a minute
    met(here, "webhook", "hooks", "does not name")
    assert send(body) == 202
    here.wait("the good call", lambda: len(here.events("webhook.received")) == 1)


def _rules(here: Home) -> None:
    inbox = here.state / "inbox"

    def heard(name: str) -> None:
        land(inbox, name, name.encode())
        here.wait(
            f"the run about {name}",
            lambda: [r for r in here.runs() if r.trigger.data["name"] == name and r.state is State.SUCCEEDED],
        )

    good = revision(here)
    wrong = RULES.replace("event.name.endsWith", "event.nmae.endsWith")
    here.rules(wrong)
    place = f"rules/rules.yaml:{1 + wrong[: wrong.index('nmae')].count(chr(10))}:"
    here.wait("the mistake", lambda: [p for p in here.read(reading.problems) if p.where.startswith(place)])
    heard("meanwhile.csv")
    assert revision(here) == good
    assert here.end("daemon") == 0
    here.start()  # beside the broken file, with what was good last
    heard("restarted.csv")
    assert revision(here) == good
    here.rules(RULES.replace(".csv", ".tsv"))
    here.wait("the mended rules", lambda: revision(here) != good)
    heard("mended.tsv")


def test_a_broken_config_is_told_whole_and_nothing_starts(here: Home) -> None:
    """Exit code 1, every mistake at its file, line and column on standard error, and no trace of a daemon."""
    configured(here)
    path = here.folder / "broken.yaml"
    config = yaml.safe_load((here.folder / "config.yaml").read_text())
    config["streams"]["loan"]["idle"] = "soon"
    config["models"]["loan"]["stream"] = "lone"
    config["webhook"]["hooks"]["ci"]["secret"] = {"file": "nowhere"}
    config["shedules"] = {}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    for wrong, words in (
        (path.read_text(), {"soon", "shedules"}),
        (path.read_text().replace("soon", "5s").replace("shedules", "schedules"), {"lone", "nowhere"}),
        ("home: [state\nrules: rules\n", {"expected"}),
    ):
        path.write_text(wrong)
        done = here.driftd("--config", str(path), "start")
        assert done.returncode == 1
        told = done.stderr.splitlines()
        places = [re.match(rf"{re.escape(str(path))}:(\d+):(\d+): ", line) for line in told]
        assert len(told) == len(words)
        assert all(places), told
        for word in words:
            (line,) = [line for line in told if word in line]
            place = re.match(rf"{re.escape(str(path))}:(\d+):", line)
            assert place is not None
            assert word == "expected" or word in wrong.splitlines()[int(place[1]) - 1]
    assert [entry.name for entry in here.state.iterdir()] == []
