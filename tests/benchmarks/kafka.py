"""Prediction records from a real broker into panes, beside a bare loop; memory over many records; catching up.

kafka.records_per_s, kafka.ratio_to_bare_loop   records of 250 bytes with 6 features: one process reads, sums, stores and
    closes windows; the bare loop is KafkaConsumer.poll and orjson.loads on the same topic, in turns
kafka.rss_growth_mb   what 10 million records of 50 models add to a process that has seen the first million (by then every
    model has as many closed windows as are kept); they come from memory, decoding and all behind it is the real thing
kafka.catch_up_s      from the start of a daemon's workers until the backlog of ten minutes at 1000 records/s is closed
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from daemon.config import Config, Fields, Model, MonitorsConfig, RegistryConfig, Stream
from daemon.core.errors import NotFound
from daemon.core.monitors import Monitor, Window
from daemon.kafkaparts import KafkaConnection
from daemon.monitors.batches import batch_of
from daemon.monitors.closer import SliceMonitor
from daemon.monitors.decoding import JsonFormat
from daemon.monitors.evidence import Samples
from daemon.monitors.frames import Frame
from daemon.monitors.group import GroupSession
from daemon.monitors.logs import open_log
from daemon.monitors.partition import Champions, PartitionMonitor, Portion
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan, stream_plans
from daemon.monitors.session import Times
from daemon.monitors.slices import Head
from daemon.monitors.statekeys import is_part
from daemon.monitors.supervisor import Supervisor
from daemon.running import Running
from daemon.store.sqlite import SqliteStore
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from daemon.writer import Writer

RECORDS = 600_000
PARTITIONS = 4
ROUNDS = 3
PER_S = 1000
"""Event time: so many records in a second of it."""
START = 1_772_359_200
FIELDS = Fields(
    id="id", time="at", version="version", prediction="yhat", score="p",
    features={
        "amount": "number", "balance": "number", "tenure": "number", "age": "number", "plan": "category",
        "country": "category",
    },
)  # fmt: skip
MONITOR = Monitor("inputs", "churn", Window(rows=50_000))
MANY, SEEN = 10_000_000, 1_000_000
MODELS = 50


def figures(prefix: str) -> Iterator[dict[str, Any]]:
    """The figures whose names start with the prefix."""
    if "kafka.rss_growth_mb".startswith(prefix):
        yield {"name": "kafka.rss_growth_mb", "value": round(_growth(), 1), "unit": "MB"}
    others = ("kafka.records_per_s", "kafka.ratio_to_bare_loop", "kafka.catch_up_s")
    if not any(name.startswith(prefix) for name in others):
        return
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "broker") as broker:
        with Topics(broker.address) as topics:
            topics.create("predictions", PARTITIONS, retention_ms="-1")
        _fill(broker.address)
        if any(name.startswith(prefix) for name in others[:2]):
            bare, ours = [], []
            for number in range(ROUNDS):
                bare.append(_bare(broker.address))
                ours.append(_ours(broker.address, Path(folder), number))
            loop = {"name": "KafkaConsumer.poll + orjson.loads", "value": round(max(bare)), "unit": "records/s"}
            yield {"name": "kafka.records_per_s", "value": round(max(ours)), "unit": "records/s", "reference": loop}
            ratio = {"value": round(max(ours) / max(bare), 2), "unit": "ratio"}
            yield {"name": "kafka.ratio_to_bare_loop", **ratio}
        if others[2].startswith(prefix):
            yield {"name": "kafka.catch_up_s", "value": round(_catch_up(broker.address, Path(folder)), 1), "unit": "s"}


# -- records


def values(count: int, first: int = 0, models: int = 0) -> list[bytes]:
    """Prediction records of about 250 bytes."""
    chance = random.Random(first)
    found = []
    for number in range(first, first + count):
        row: dict[str, Any] = {
            "id": f"{chance.getrandbits(64):016x}", "at": _time(number), "version": "7", "yhat": str(number % 2),
            "p": round(chance.random(), 6), "amount": round(chance.random() * 1e5, 2),
            "balance": round(chance.gauss(2000, 500), 2), "tenure": chance.randint(0, 400), "age": chance.randint(18, 90),
            "plan": chance.choice(("basic", "plus", "professional")), "country": chance.choice(("NO", "SE", "DK", "FI")),
        }  # fmt: skip
        row |= {"model": f"m{number % models}"} if models else {"region": "eu-north-1", "channel": "web"}
        found.append(orjson.dumps(row))
    return found


def _time(number: int) -> str:
    return datetime.fromtimestamp(START + number / PER_S, UTC).isoformat(timespec="milliseconds")


def _fill(address: str) -> None:
    producer = KafkaProducer(bootstrap_servers=address, linger_ms=50, batch_size=1 << 18, acks=1)
    for start in range(0, RECORDS, 20_000):
        for number, value in enumerate(values(20_000, start), start):
            producer.send(
                "predictions", value, partition=number % PARTITIONS, timestamp_ms=(START + number // PER_S) * 1000
            )
    producer.flush()
    producer.close()


# -- how fast


def _bare(address: str) -> float:
    consumer = KafkaConsumer(
        bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False, max_poll_records=20_000,
        fetch_max_bytes=64 << 20, max_partition_fetch_bytes=16 << 20,
    )  # fmt: skip
    consumer.assign([TopicPartition("predictions", number) for number in range(PARTITIONS)])
    count, began = 0, time.perf_counter()
    while count < RECORDS:
        for records in consumer.poll(timeout_ms=1000, max_records=20_000).values():
            for record in records:
                orjson.loads(record.value)
            count += len(records)
    spent = time.perf_counter() - began
    consumer.close()
    return count / spent


def plan(address: str, folder: Path, group: str) -> StreamPlan:
    """One model on one topic."""
    (made,) = stream_plans(_config(address, folder, group), [MONITOR])
    return made


def _config(address: str, folder: Path, group: str) -> Config:
    stream = Stream(
        kind="kafka", connection="main", topic="predictions", predictions=Path("archive"), group=group, fields=FIELDS,
        idle="5s",
    )  # fmt: skip
    model = Model(task="binary", registered="churn", stream="churn", reference=_reference(folder))
    return Config(
        home=folder / group, streams={"churn": stream}, models={"churn": model}, registry=RegistryConfig(poll="200ms"),
        kafka={"main": KafkaConnection(bootstrap=(address,))}, monitors=MonitorsConfig(),
    )  # fmt: skip


def _reference(folder: Path) -> Path:
    path = folder / "reference.jsonl"
    if not path.exists():
        rows = [orjson.loads(value) | {"label": "1"} for value in values(20_000, 10**9)]
        path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def _ours(address: str, folder: Path, number: int) -> float:
    """Records per second from the first poll to the last closed slice, with what a daemon would store taken in memory."""
    made = plan(address, folder, f"round-{number}")
    times = Times(lambda: time.time_ns() // 1000, time.monotonic)
    session = GroupSession(made, open_log, times)
    closer = SliceMonitor(made, {}, 0, Samples())
    champion = Champion("7", str(_reference(folder)), "digest", "")
    for one in (session, closer):
        one.champion("churn", champion)
    states: dict[str, bytes] = {}
    began, heads = 0.0, {}
    while sum(head["offset"] for head in heads.values()) < RECORDS:
        busy, frame = session.step()
        if busy and not began and frame is None:
            began = time.perf_counter()
        if frame is not None and frame.kind == "want":
            told = [
                {"topic": topic, "partition": partition, "states": []} for topic, partition in frame.body["partitions"]
            ]
            session.opened(Frame("partitions", {"partitions": told}))
        elif frame is not None:
            changed = {write.key: write.blob for write in batch_of(frame).states}
            states |= changed
            closer.take(changed)
            session.stored()
            heads |= {key: orjson.loads(blob) for key, blob in changed.items() if key.endswith("/head")}
            while closer.step():
                pass
            for write in closer.checkpoint().states:
                if is_part(write.key):
                    states.pop(write.key, None)
    spent = time.perf_counter() - began
    session.close()
    return RECORDS / spent


# -- memory


def _growth() -> float:
    """Megabytes that ten million records add, after the first million."""
    fields = FIELDS.model_copy(update={"model": "model"})
    models = tuple(
        ModelPlan(f"m{n}", f"m{n}", "binary", (Monitor(f"inputs-{n}", f"m{n}", Window(rows=1_000)),))
        for n in range(MODELS)
    )
    with tempfile.TemporaryDirectory() as folder:
        made = replace(plan("127.0.0.1:1", Path(folder), "memory"), fields=fields, models=models)
        champions, closer = Champions(made), SliceMonitor(made, {}, 0, Samples())
        champion = Champion("7", str(_reference(Path(folder))), "digest", "")
        for model in models:
            champions.set(model.name, champion)
            closer.champion(model.name, champion)
        monitor = PartitionMonitor(
            made, champions, Head("predictions", 0, 0), {}, JsonFormat(made.columns, made.numbers)
        )
        batch, size = values(20_000, 0, MODELS), 20_000
        before = 0.0
        for start in range(0, MANY + SEEN, size):
            if start == SEEN:
                before = _rss()
            monitor.add(
                Portion(
                    _moved(batch, start),
                    range(start, start + size),
                    [(START + start // PER_S) * 1000] * size,
                    start + size,
                )
            )
            closer.take({write.key: write.blob for write in monitor.checkpoint()[1]})
            while closer.step():
                pass
            closer.checkpoint()
        return _rss() - before


def _moved(batch: Sequence[bytes], start: int) -> list[bytes]:
    """The same records at other times, with other ids."""
    stamps = [_time(start + number).encode() for number in range(0, len(batch), PER_S)]
    old = [_time(number).encode()[:20] for number in range(0, len(batch), PER_S)]
    return [
        value.replace(old[number // PER_S], stamps[number // PER_S][:20], 1).replace(b'"id":"', b'"id":"%d-' % start, 1)
        for number, value in enumerate(batch)
    ]


def _rss() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


# -- a backlog


class _NoRegistry:
    """The reference is a file, so nobody is asked for more than the champion's version."""

    def alias(self, _name: str, _alias: str) -> str:
        """The champion."""
        return "7"

    def version(self, name: str, _version: str) -> Any:
        """None is known."""
        raise NotFound(name)


def _catch_up(address: str, folder: Path) -> float:
    config = _config(address, folder, "catch-up")
    config.home.mkdir()
    store = SqliteStore(config.home / "store.db")
    writer = Writer(store, Running(config, {}), lambda: datetime.now(UTC), config.home / "heads.jsonl")
    writer.start()
    supervisor = Supervisor(config, _NoRegistry(), lambda: datetime.now(UTC))  # type: ignore[arg-type]
    supervisor.apply([MONITOR])
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(writer, stop))
    began = time.perf_counter()
    thread.start()
    while not _is_caught_up(writer):
        time.sleep(0.1)
    spent = time.perf_counter() - began
    stop.set()
    thread.join()
    writer.stop()
    store.close()
    return spent


def _is_caught_up(writer: Writer) -> bool:
    states = writer.states("churn")
    heads = [orjson.loads(blob) for key, blob in states.items() if key.endswith("/head") and is_part(key)]
    open_slices = {key.rpartition("/")[2] for key in states if "/slice/" in key}
    return sum(head["offset"] for head in heads) >= RECORDS and len(open_slices) <= 2
