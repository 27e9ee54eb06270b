"""What topics brought is kept as files: all of it, whatever happens, without what privacy forbids, and bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.core.monitors import Monitor, Window
from daemon.monitors import archive
from tests.monitors.logs import record, topic_plan
from tests.monitors.test_group import Log, Share, Topics, predictions

ROWS = Monitor("rows", "churn", Window(rows=10))


def kept(folder: Path) -> list[dict[str, Any]]:
    """The rows of an archive, by the names of its files."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def share_of(home: Path, topics: Topics, **changes: Any) -> Share:
    """A session that keeps what it reads."""
    folders = {"archive": str(home / "rows"), "label_archive": str(home / "labels")}
    return Share(topic_plan(home, ROWS, **{"labels": "", **folders, **changes}), topics)


def test_all_rows_are_there_before_their_progress_is_stored(tmp_path: Path) -> None:
    """Predictions and labels, each in the folder of its own, with the fields that the stream names."""
    records = [*predictions(40), (40_000, b"{"), record({"id": "r40", "at": 40, "age": 3, "nobody": "asks"}, 40)]
    labels = [record({"id": f"r{n}", "y": n % 2}, n) for n in range(20)]
    topics = Topics({("predictions", 0): Log(records), ("labels", 0): Log(labels)})
    share = share_of(tmp_path, topics, labels="labels")
    share.run()
    rows = kept(tmp_path / "rows")

    assert [row["id"] for row in rows] == [f"r{n}" for n in range(41)]
    assert rows[0] == {"id": "r0", "at": 0, "version": "1", "yhat": 1, "p": 0.5, "age": 1, "plan": "a"}
    assert rows[40] == {"id": "r40", "at": 40, "age": 3}
    assert kept(tmp_path / "labels") == [{"id": f"r{n}", "y": n % 2} for n in range(20)]


def test_what_privacy_forbids_is_not_kept(tmp_path: Path) -> None:
    """A hashed field is hashed, a dropped one is not there."""
    topics = Topics({("predictions", 0): Log(predictions(3))})
    share_of(tmp_path, topics, privacy={"plan": "drop", "id": "hash"}).run()

    rows = kept(tmp_path / "rows")
    assert len(rows) == 3
    assert all("plan" not in row and not row["id"].startswith("r") for row in rows)


def test_a_worker_that_dies_loses_no_row(tmp_path: Path) -> None:
    """Killed with rows that were not stored, and a line that was cut off: who comes next reads them again."""
    topics = Topics({("predictions", 0): Log(predictions(20))})
    share = share_of(tmp_path, topics)
    share.run(4)
    topics.logs["predictions", 0].records += predictions(20, 20)
    for _ in range(3):
        share.clock.seconds += 1.0
        share.session.step()  # what it wants stored is not
    (path,) = sorted((tmp_path / "rows").iterdir())
    with path.open("ab") as file:
        file.write(b'{"id": "cut')
    assert len(path.read_bytes().splitlines()) == 41
    share.begin()
    share.run()

    files = {path.name: path.read_bytes() for path in (tmp_path / "rows").iterdir()}
    assert set(files) == {f"topic-predictions-0-{place:020d}.jsonl" for place in (0, 20)}
    again = [json.loads(line)["id"] for line in files[f"topic-predictions-0-{20:020d}.jsonl"].splitlines()]
    assert again == [f"r{n}" for n in range(20, 40)]


def test_a_file_that_is_begun_anew_has_no_half_lines(tmp_path: Path) -> None:
    """The worker died before anything was stored: the next one's rows are behind whole lines of the same file."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / f"topic-predictions-0-{0:020d}.jsonl").write_bytes(b'{"id":"r0"}\n{"id":"r')
    share_of(tmp_path, Topics({("predictions", 0): Log(predictions(2))})).run()

    assert [row["id"] for row in kept(folder)] == ["r0", "r0", "r1"]


def test_while_rows_cannot_be_kept_nothing_is_stored_and_nothing_more_is_read(tmp_path: Path) -> None:
    """It says why, and goes on by itself."""
    (tmp_path / "rows").write_text("no folder")
    topics = Topics({("predictions", 0): Log(predictions(20))})
    share = share_of(tmp_path, topics)
    share.run(4)
    assert "predictions/0" not in share.store.progress
    topics.logs["predictions", 0].records += predictions(20, 20)
    share.run(4)
    assert topics.at["predictions", 0] == 20
    assert "archive" in share.session.problem

    (tmp_path / "rows").unlink()
    share.run()
    assert [row["id"] for row in kept(tmp_path / "rows")] == [f"r{n}" for n in range(40)]
    assert share.store.progress["predictions/0"] == 40
    assert not share.session.problem


def test_files_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one begins after so many bytes, or so long: old ones can be removed."""
    monkeypatch.setattr(archive, "SEGMENT_BYTES", 100)
    topics = Topics({("predictions", 0): Log([])})
    share = share_of(tmp_path, topics)
    for first in (0, 10, 20):
        topics.logs["predictions", 0].records += predictions(10, first)
        share.run(4)

    assert len(list((tmp_path / "rows").iterdir())) == 3
    assert len(kept(tmp_path / "rows")) == 30
