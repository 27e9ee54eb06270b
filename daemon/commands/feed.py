"""`driftd feed`: play a data set into a stream."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import typer

from daemon.commands.exits import Exit
from daemon.commands.printing import AsJson, print_error, print_json, print_line
from daemon.commands.workplace import Workplace, workplace
from daemon.core.errors import BadInput, NotFound
from daemon.feeding.files import Folder, Format, Labels, Pace, label_folder, play_rows
from daemon.feeding.requests import Answered, Target, play_requests
from daemon.feeding.table import Table, read_table
from daemon.feeding.topics import Keyed, Send, Topic


def feed(  # noqa: PLR0913, PLR0917 - options of a command line
    context: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The stream, as config.yaml names it.")],
    data: Annotated[
        Path, typer.Option("--data", help="The rows: CSV or Parquet, columns named as the stream's fields.")
    ],
    labels: Annotated[Path | None, typer.Option("--labels", help="The labels by id; default: the data's own.")] = None,
    to: Annotated[
        Literal["stream", "files", "gateway"],
        typer.Option(
            "--to", help="What the stream reads: files, or a topic; or files; or requests to the local gateway."
        ),
    ] = "stream",
    rows: Annotated[
        str, typer.Option("--rows", metavar="A:B", help="Rows A to B (not included), by event time.")
    ] = ":",
    rate: Annotated[float, typer.Option("--rate", min=0, help="Rows per second; 0: as fast as it goes.")] = 0.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows per file, or sent at once.")] = 500,
    formats: Annotated[str, typer.Option("--format", help="File formats, used in turn.")] = "jsonl,parquet",
    label_lag: Annotated[int, typer.Option("--label-lag", min=0, help="Labels come so many rows later.")] = 0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=1000, help="Requests at a time.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Play a data set into a stream in event-time order, as another serving system would, with labels coming later.

    A stream of topics gets records, keyed by unit or id; the timestamps of labels are in event time, so the topic of labels
    must keep what is that old (`retention.ms`). It waits until the brokers have each batch.

    On SIGTERM it ends with the row at work, brings the labels of what it has played, and says where to go on (`next`).
    """
    gc.enable()
    place = workplace(context)
    entry = place.config.streams.get(stream)
    if entry is None:
        raise NotFound(f"config.yaml has no stream {stream!r}; it has {', '.join(place.config.streams) or 'none'}")
    kinds = _formats(formats)
    table = read_table(entry, data, labels, _range(rows))
    pace = Pace(rate, batch, label_lag)
    to = "files" if to == "stream" and entry.kind == "files" else to
    if to == "stream" and entry.format != "json":
        raise BadInput(
            f"stream {stream!r} reads what a {entry.format} logger sends, not rows: send requests to its model"
        )
    with _producer(context, place, stream, to) as send:
        label_topic = _topic(entry.label_topic, table, send, in_event_time=True) if table.labels is not None else None
        label_files = None if send else label_folder(entry, table, kinds, place.home)
        later = Labels(table, label_topic or label_files, label_lag, batch)
        topic = _topic(entry.topic, table, send if to == "stream" else None, in_event_time=False)
        folder = Folder(place.home / entry.predictions, entry.complete == "marker", kinds)
        began, answered = time.monotonic(), None
        if to == "gateway":
            position, answered = asyncio.run(play_requests(table, _target(place, stream, concurrency), later, pace))
        else:
            with _until_told() as wait:
                position = play_rows(table, topic or folder, later, pace, wait)
    told = _summary(table, position, later, time.monotonic() - began)
    told |= {"stream": stream, "to": to, "files": folder.files, "label_files": label_files.files if label_files else 0}
    told |= {} if send is None else {"sent": topic.dropped if topic else 0}
    told |= _answers(answered)
    if as_json:
        print_json(told)
    else:
        print_line(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items()))
    if answered is not None and answered.sent and not answered.versions:
        print_error(f"driftd: no request was answered: {dict(answered.failures)}")
        raise typer.Exit(Exit.FOUND)


@contextmanager
def _producer(context: typer.Context, place: Workplace, name: str, to: str) -> Iterator[Send | None]:
    """Sends to the topics of a stream; None where it has none, or files are wanted. ClientError when that fails."""
    entry = place.config.streams[name]
    if entry.kind == "files" or to == "files":
        yield None
        return
    from daemon.clients.kafka_producer import Outgoing, Producer  # noqa: PLC0415 - who feeds files need not wait for it

    is_secret = place.config.kafka[entry.connection].sasl is not None
    config = workplace(context, with_secrets=True).config if is_secret else place.config
    producer = Producer(config.kafka[entry.connection], f"{name}-feed")

    def send(topic: str, records: Sequence[Keyed]) -> None:
        wanted = [Outgoing(one.value, one.key, timestamp=one.timestamp) for one in records]
        failed = next((error for error in producer.send(topic, wanted) if error is not None), None)
        if failed is not None:
            raise failed

    try:
        yield send
    finally:
        producer.close()


def _topic(name: str | None, table: Table, send: Send | None, *, in_event_time: bool) -> Topic | None:
    return None if name is None or send is None else Topic(name, table, send, in_event_time)


def _range(text: str) -> tuple[int, int | None]:
    start, colon, end = text.partition(":")
    if not colon or not all(part == "" or part.isdigit() for part in (start, end)):
        raise typer.BadParameter(f"--rows {text!r}: write A:B, for example 0:25000, or 25000: for the rest")
    return int(start or 0), int(end) if end else None


def _formats(text: str) -> tuple[Format, ...]:
    kinds = tuple(part.strip() for part in text.split(","))
    known = get_args(Format)
    if not all(kind in known for kind in kinds):
        raise typer.BadParameter(f"--format {text!r}: there are {', '.join(known)}")
    return cast("tuple[Format, ...]", kinds)


def _target(place: Workplace, stream: str, concurrency: int) -> Target:
    """The gateway's target of the stream's model."""
    models = {name: model for name, model in place.config.models.items() if model.stream == stream}
    if len(models) != 1:
        raise NotFound(f"{len(models)} models have the stream {stream!r}: requests need exactly one")
    ((name, model),) = models.items()
    gateway = place.config.platform.gateway
    url = f"http://{gateway.host}:{gateway.port}/targets/{model.serving or name}/invocations"
    return Target(url, concurrency, gateway.timeout.total_seconds() + 1.0)


@contextmanager
def _until_told() -> Iterator[Callable[[float], bool]]:
    """Waits so many seconds; true as soon as SIGTERM or SIGINT has come."""
    # A pipe, not an Event: a signal's handler may run while the waiting thread holds the Event's lock.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def heard(_number: int, _frame: object) -> None:
        os.write(tell, b".")

    try:
        for number in before:
            signal.signal(number, heard)
        yield lambda seconds: bool(select.select([told], [], [], seconds)[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)
        os.close(tell)


def _summary(table: Table, position: int, labels: Labels, seconds: float) -> dict[str, Any]:
    played = position - table.first
    return {
        "rows": played, "first": table.first, "next": position, "stopped": played < len(table.rows),
        "labels": labels.brought, "seconds": round(seconds, 3),
    }  # fmt: skip


def _answers(answered: Answered | None) -> dict[str, Any]:
    if answered is None:
        return {}
    return {
        "requests": answered.sent, "failed": answered.failed, "failures": dict(answered.failures),
        "versions": dict(answered.versions), "late": answered.late,
    }  # fmt: skip
