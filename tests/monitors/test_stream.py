"""One stream from files to events: what it detects, and that no interruption changes any of it."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemon.core.monitors import Monitor, Window
from daemon.monitors import stream
from daemon.monitors.plan import Champion
from daemon.monitors.records import Raw
from daemon.monitors.session import Unmeasurable
from tests.disk import small_disk
from tests.monitors.lab import Clock, Shelf, car_loan, champion, drain, feed, land, measure, model, plan


def test_the_change_is_seen_in_the_first_window_behind_it(tmp_path: Path, data: Path, reference: Path) -> None:
    """Car loan changes at row 25000: drift and estimated loss stay quiet before it and speak in the next window."""
    made = plan(tmp_path)
    feed(made, *car_loan(data, 22_000, 27_000))

    shelf = measure(made, champion(reference))

    drifted = [event["drifted_columns"] for event in shelf.of("drift.measured")]
    assert drifted[:6] == [0] * 6
    assert drifted[6:] == [4] * 4
    assert all(event["estimated_loss_ratio"] >= 1.2 for event in shelf.of("drift.measured")[6:])
    assert all(event["passed"] for event in shelf.of("quality.measured"))
    assert shelf.problems == []


def test_labels_make_performance_and_its_evidence_in_window_order(tmp_path: Path, data: Path, reference: Path) -> None:
    """Labels that come two files later make the realised accuracy of each window, and the loss's growth is evidence."""
    made = plan(tmp_path)
    feed(made, *car_loan(data, 22_000, 30_000))

    shelf = measure(made, champion(reference))

    measured = shelf.of("performance.measured")
    assert list(range(0, 8000, 500)) == [event["window"]["first"] for event in measured]
    assert {500} == {event["labelled"] for event in measured}
    assert {1.0} == {event["coverage"] for event in measured}
    assert not any(event["alarm"] for event in measured[:6])
    assert measured[-1]["alarm"]
    assert "2019-03-28" <= measured[-1]["onset"] <= "2019-03-31T03:00:00+00:00"


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_no_interruption_changes_anything(
    tmp_path: Path, data: Path, reference: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any point, also between a batch and its receipt, and restored, it makes the same events and state."""
    monitors = (
        Monitor("rows", "car-loan", Window(rows=200), segments=("size_of_downpayment",)),
        Monitor("time", "car-loan", Window(every=timedelta(hours=12), min_rows=50), reference="trailing", trailing=3),
    )
    made = plan(tmp_path, models=(model(*monitors),))
    rows, labels = car_loan(data, 24_000, 27_000)
    random.Random(1).shuffle(labels)
    # Labels before their predictions, or behind them: then several windows are told of at once.
    feed(made, rows, labels, size=700, behind=-1 if seed % 2 else 1)
    monkeypatch.setattr("daemon.monitors.session.CHECKPOINT_S", 0.0)  # every block is stored: there is much to restore
    undisturbed = measure(made, champion(reference))
    assert undisturbed.batches >= 10

    chance = random.Random(seed)
    shelf = Shelf()
    ended = False
    while not ended:
        session = shelf.open(made)
        session.champion("car-loan", champion(reference))
        ended = drain(session, shelf, lambda: chance.random() < 0.15)
        session.close()

    assert undisturbed.states == shelf.states
    assert [event.id for event in undisturbed.events] == [event.id for event in shelf.events]
    assert undisturbed.events == shelf.events
    assert undisturbed.files == shelf.files


def test_a_file_is_left_and_taken_up_in_its_middle(
    tmp_path: Path, data: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file is measured in chunks; a restart goes on behind the last chunk that was stored."""
    made = plan(tmp_path)
    rows, labels = car_loan(data, 24_000, 26_000)
    feed(made, rows, labels, size=2000)
    monkeypatch.setattr("daemon.monitors.records.CHUNK", 333)
    monkeypatch.setattr("daemon.monitors.records.chunks.__defaults__", (0, 333))
    monkeypatch.setattr("daemon.monitors.session.CHECKPOINT_S", 0.0)
    undisturbed = measure(made, champion(reference))
    assert undisturbed.batches >= 14

    shelf = Shelf()
    ended = False
    while not ended:
        before = shelf.batches
        session = shelf.open(made)
        session.champion("car-loan", champion(reference))
        ended = drain(session, shelf, lambda before=before: shelf.batches > before)
        session.close()

    assert undisturbed.states == shelf.states
    assert undisturbed.events == shelf.events


def test_a_new_champion_starts_new_windows(tmp_path: Path, data: Path, reference: Path) -> None:
    """Rows of another version are left out; when it becomes champion its rows make windows of their own."""
    made = plan(tmp_path)
    rows, labels = car_loan(data, 0, 3000)
    newer = [row | {"version": "2"} for row in rows]
    feed(made, [*rows[:1200], *newer[1200:2000]], labels[:2000])
    shelf = Shelf()
    session = shelf.open(made)
    session.champion("car-loan", champion(reference))
    drain(session, shelf)

    session.champion("car-loan", champion(reference, version="2"))
    (note,) = session.monitor.take_notes()
    feed(made, newer[2000:], labels[2000:], first=10)
    drain(session, shelf)

    windows = [(event["window"]["first"], event["window"]["last"]) for event in shelf.of("drift.measured")]
    assert windows == [(0, 499), (500, 999), (2000, 2499), (2500, 2999)]
    assert "1 -> 2: 200 rows of open windows" in note
    assert [event["version"] for event in shelf.of("performance.measured")] == ["1", "1", "2", "2"]


def test_without_a_reference_everything_says_why(tmp_path: Path, data: Path) -> None:
    """As long as no reference is known windows close all the same; what cannot be measured is unset with its reason."""
    made = plan(tmp_path)
    feed(made, *car_loan(data, 0, 1000))

    shelf = measure(made, Champion("1", "", "", "version 1 logged none"))

    drift, quality, performance = (
        shelf.of(kind)[0] for kind in ("drift.measured", "quality.measured", "performance.measured")
    )
    assert drift["unset"]["drifted_columns"] == "reference is missing: version 1 logged none"
    assert "drifted_columns" not in drift
    assert "passed" not in quality
    assert quality["unset"]["passed"] == "reference is missing: version 1 logged none"
    assert 0.9 < performance["value"] < 1
    assert "loss_ratio" in performance["unset"]


def test_a_quiet_stream_closes_its_windows(tmp_path: Path, data: Path, reference: Path) -> None:
    """When no rows come for the stream's idle time the open window closes, and says that idleness closed it."""
    made = plan(tmp_path, idle=60.0)
    feed(made, *car_loan(data, 0, 800))
    shelf, clock = Shelf(), Clock()
    session = shelf.open(made, clock)
    session.champion("car-loan", champion(reference))
    drain(session, shelf)
    clock.seconds += 59
    drain(session, shelf)
    assert [event["window"]["closed_by"] for event in shelf.of("drift.measured")] == ["rows"]

    clock.seconds += 2
    drain(session, shelf)

    assert [(event["window"]["closed_by"], event["window"]["rows"]) for event in shelf.of("drift.measured")] == [
        ("rows", 500),
        ("idle", 300),
    ]


def test_segments_have_windows_of_their_own(tmp_path: Path, data: Path, reference: Path) -> None:
    """Each value of a segment column is measured in its own windows, beside all rows."""
    made = plan(tmp_path, models=(model(Monitor("inputs", "car-loan", Window(rows=500), segments=("salary_range",))),))
    rows, labels = car_loan(data, 0, 3000)
    feed(made, rows, labels)

    shelf = measure(made, champion(reference))

    values = {
        row["salary_range"]
        for row in rows
        if sum(other["salary_range"] == row["salary_range"] for other in rows) >= 500
    }
    segments = {event.data["segment"] for event in shelf.events if event.type == "drift.measured"}
    assert {"", *(f"salary_range={value}" for value in values)} == segments
    one = "salary_range=20K - 40K €"
    assert {500} == {event["window"]["rows"] for event in shelf.of("drift.measured", one)}
    of_it = [at for at, row in enumerate(rows) if row["salary_range"] == "20K - 40K €"]
    assert (of_it[0], of_it[499]) == tuple(
        shelf.of("drift.measured", one)[0]["window"][end] for end in ("first", "last")
    )
    assert shelf.of("performance.measured", one)[0]["labelled"] == 500


def test_too_many_segments_are_a_problem_not_a_burden(tmp_path: Path, data: Path, reference: Path) -> None:
    """A column with very many values is measured for the first fifty of them, and a problem says so once."""
    made = plan(tmp_path, models=(model(Monitor("inputs", "car-loan", Window(rows=500), segments=("id",))),))
    feed(made, *car_loan(data, 0, 1000))

    shelf = measure(made, champion(reference))

    assert sum(key.startswith("track/") for key in shelf.states) == 51
    assert {"id has more than 50 values; rows of the others are measured only among all rows"} == {
        problem.reason for problem in shelf.problems
    }


def test_an_edited_monitor_begins_anew_and_leaves_the_others_alone(tmp_path: Path, data: Path, reference: Path) -> None:
    """A change of what a monitor measures drops its windows; equal monitors go on with theirs."""
    kept, edited = (Monitor(name, "car-loan", Window(rows=500)) for name in ("kept", "edited"))
    rows, labels = car_loan(data, 0, 1000)
    before = plan(tmp_path, models=(model(kept, edited),))
    feed(before, rows[:700], labels[:700])
    shelf = measure(before, champion(reference))

    after = plan(tmp_path, models=(model(kept, Monitor("edited", "car-loan", Window(rows=300))),))
    session = shelf.open(after)
    session.champion("car-loan", champion(reference))
    feed(after, rows[700:], labels[700:], first=10)
    drain(session, shelf)

    windows = [
        (event.data["monitor"], event.data["window"]["first"], event.data["window"]["last"])
        for event in shelf.events
        if event.type == "drift.measured"
    ]
    assert windows == [("kept", 0, 499), ("edited", 0, 499), ("kept", 500, 999), ("edited", 700, 999)]


def test_rows_with_a_time_that_cannot_be_are_dead_letters(tmp_path: Path, data: Path, reference: Path) -> None:
    """A clock that is years ahead costs its own rows only; the stream's time does not jump with it."""
    made = plan(tmp_path)
    rows, labels = car_loan(data, 0, 1000)
    rows[10]["timestamp"] = "2199-01-01 00:00:00"
    feed(made, rows, labels)

    shelf = measure(made, champion(reference))

    where = f"{made.predictions}/p00000.jsonl:11"
    assert [p.reason for p in shelf.problems if p.where == where] == [
        "the time in timestamp lies too far in the future"
    ]
    assert shelf.of("drift.measured")[0]["window"]["end"] < "2019"
    assert shelf.of("performance.measured")[0]["labelled"] == 500


def test_bad_input_costs_itself_only(tmp_path: Path, data: Path, reference: Path) -> None:
    """Malformed records and unreadable, empty and repeated files are problems with their place; all else is measured."""
    made = plan(tmp_path)
    rows, _ = car_loan(data, 0, 1000)
    feed(made, rows[:500], [])
    land(made.predictions, "broken.parquet", b"PAR1 this is not Parquet", 100)
    land(made.predictions, "half.jsonl", b'{"id": 1, "timestamp": "2018-10-30", "version": "1"}\n{"id": 2, "time', 110)
    land(made.predictions, "what.xyz", b"?", 120)
    again = Path(made.predictions, "p00000.jsonl").read_bytes()
    land(made.predictions, "again.jsonl", again, 130)
    feed(made, rows[500:999], [], first=20)

    shelf = measure(made, champion(reference))

    reasons: dict[str, Any] = {Path(problem.where).name: problem for problem in shelf.problems}
    assert {"broken.parquet", "half.jsonl:2", "what.xyz", "again.jsonl"} == set(reasons)
    assert Path(reasons["half.jsonl:2"].dead_letter).is_file()
    assert Path(reasons["broken.parquet"].dead_letter).is_file()
    # The good record of half.jsonl is row 500.
    assert [(e["window"]["first"], e["window"]["last"]) for e in shelf.of("drift.measured")] == [(0, 499), (500, 999)]
    assert {
        status: sum(mark.status == status for mark in shelf.files.values()) for status in ("taken", "duplicate")
    } == {"taken": 5, "duplicate": 1}


def test_dead_letters_wait_for_room_and_progress_waits_for_them(tmp_path: Path, data: Path, reference: Path) -> None:
    """On a full disk a malformed record and a broken file are not passed over: what is stored goes no further until they
    are kept, a session that is lost meanwhile reads them again, and all comes by itself once there is room.
    """
    rows, _ = car_loan(data, 0, 500)
    with small_disk(tmp_path / "disk", 4) as disk:
        made = plan(tmp_path, dead_letters=str(disk.folder / "dead-letters"))
        feed(made, rows, [])
        path = land(made.predictions, "half.jsonl", b'{"id": 1, "time', 110)
        broken = land(made.predictions, "broken.parquet", b"PAR1 this is not Parquet", 120)
        disk.fill()
        shelf = Shelf()
        for _ in range(2):
            session = shelf.open(made)
            session.champion("car-loan", champion(reference))
            drain(session, shelf)
            assert "no room" in session.problem
            assert (shelf.problems, {str(path), str(broken)} & shelf.files.keys()) == ([], set())
            session.close()
        session = shelf.open(made)
        session.champion("car-loan", champion(reference))
        drain(session, shelf)
        disk.free()
        drain(session, shelf)
        session.close()
        assert session.problem == ""
        assert len(shelf.of("drift.measured")) == 1
        letters = {Path(problem.where).name: Path(problem.dead_letter) for problem in shelf.problems}
        assert letters.keys() == {"half.jsonl:1", "broken.parquet"}
        told = orjson.loads(letters["half.jsonl:1"].read_bytes())
        assert (told["file"], told["line"], told["raw"]) == (str(path), 1, '{"id": 1, "time')
        assert letters["broken.parquet"].with_suffix(".parquet").read_bytes() == broken.read_bytes()
        assert list((disk.folder / "dead-letters").glob(".*")) == []


def test_a_file_that_cannot_be_measured_is_given_up_alone(
    tmp_path: Path, data: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that nobody thought of end the session; opened again without that file, the stream goes on, and says so."""
    made = plan(tmp_path)
    rows, labels = car_loan(data, 0, 1500)
    feed(made, rows, labels, size=500)
    whole = stream.predictions

    def fragile(raw: Raw, *others: Any) -> Any:
        if raw.columns["id"][0] == rows[500]["id"]:
            raise OverflowError("too much")
        return whole(raw, *others)

    monkeypatch.setattr(stream, "predictions", fragile)
    shelf = Shelf()
    session = shelf.open(made)
    session.champion("car-loan", champion(reference))
    with pytest.raises(Unmeasurable, match="p00001") as failure:
        drain(session, shelf)
    session = shelf.open(made)
    session.champion("car-loan", champion(reference))
    session.skip(failure.value.where, failure.value.why)
    drain(session, shelf)

    assert [(e["window"]["first"], e["window"]["last"]) for e in shelf.of("drift.measured")] == [(0, 499), (500, 999)]
    given_up = [problem for problem in shelf.problems if problem.kind == "file"]
    assert [problem.reason for problem in given_up] == ["it cannot be measured (OverflowError: too much)"]
    assert Path(given_up[0].dead_letter).is_file()
    assert shelf.files[failure.value.where].status == "taken"
