"""A batch as a frame between worker and daemon, and back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.intake import Batch, FileMark, Forgotten, GoneFile, Progress, StateWrite
from daemon.monitors.frames import Frame


def batch_frame(stream: str, rows: int, batch: Batch) -> Frame:
    """The frame that asks the daemon to store `batch`; `rows` are the prediction rows in it."""
    kept = [state for state in batch.states if state.blob is not None]
    body = {
        "stream": stream,
        "rows": rows,
        "events": [_plain(event) for event in batch.events],
        "files": [asdict(mark) for mark in batch.files],
        "gone": [asdict(file) for file in batch.gone],
        "forgotten": [asdict(forgotten) for forgotten in batch.forgotten],
        "progress": [asdict(progress) for progress in batch.progress],
        "problems": [asdict(problem) for problem in batch.problems],
        "kept": [state.key for state in kept],
        "dropped": [state.key for state in batch.states if state.blob is None],
    }
    return Frame("batch", body, tuple(state.blob for state in kept if state.blob is not None))


def batch_of(frame: Frame) -> Batch:
    """The batch of a frame."""
    body = frame.body
    stream = body["stream"]
    kept = (StateWrite(stream, key, blob) for key, blob in zip(body["kept"], frame.blobs, strict=True))
    return Batch(
        events=tuple(_event(item) for item in body["events"]),
        files=tuple(FileMark(**item) for item in body["files"]),
        gone=tuple(GoneFile(**item) for item in body["gone"]),
        forgotten=tuple(Forgotten(**item) for item in body["forgotten"]),
        progress=tuple(Progress(**item) for item in body["progress"]),
        states=(*kept, *(StateWrite(stream, key, None) for key in body["dropped"])),
        problems=tuple(Problem(**item) for item in body["problems"]),
    )


def _plain(event: Event) -> dict[str, object]:
    names = ("id", "source", "type", "subject", "time", "data")
    return {name: getattr(event, name) for name in names}


def _event(item: dict[str, object]) -> Event:
    return Event(
        id=str(item["id"]),
        source=str(item["source"]),
        type=str(item["type"]),
        subject=str(item["subject"]),
        time=datetime.fromisoformat(str(item["time"])),
        data=item["data"],  # type: ignore[arg-type]
    )
