"""Intake: how many events a second become durable, decided and audited, beside a bare loop of the same libraries.

Both get the same events and do the same for each: a dedupe key, JSON, one rule out of 200 found by an index, one CEL
evaluation, an event row, a decision row and a hash-chained audit row; SQLite with WAL and synchronous=FULL. The bare loop
has one thread, one transaction per 256 events, no memory, no time, no receipts: it is what can be had at most.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from daemon.config import Config
from daemon.core.events import Event, Recorded
from daemon.core.expressions import activation
from daemon.core.rules import Rule, RuleSet
from daemon.intake import Batch
from daemon.running import Running
from daemon.store.base import Store
from daemon.store.rows import event_row
from daemon.store.sqlite import SqliteStore
from daemon.writer import Writer
from tests.builders import landed, measured, rule

BATCH = 256
EVENTS = BATCH * 100
ROUNDS = 5
RULES = 200
STORED = 1_000_000

Figure = dict[str, Any]


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    if any(name.startswith(prefix) or prefix.startswith(name) for name in ("intake.events_per_s", "intake.ratio")):
        yield from _beside_a_bare_loop()
    if "intake.cost_10000_over_10_rules".startswith(prefix):
        yield _cost_of_rules()
    if "start.ready_1m_events_s".startswith(prefix):
        yield _start()


def _beside_a_bare_loop() -> Iterator[Figure]:
    """Rounds of both in turn, so that both meet the same disk and the same neighbours."""
    rules = rules_of(RULES)
    ours, bare = [], []
    for number in range(ROUNDS):
        batches = batches_of(EVENTS, RULES, f"round-{number}")
        with tempfile.TemporaryDirectory() as folder:
            bare.append(EVENTS / _bare_loop(Path(folder), rules, batches))
            ours.append(EVENTS / _taken(Path(folder), rules, batches))
    # Neighbours on the machine only ever make it slower: the best round is the figure.
    loop = {"name": "bare_loop_events_per_s", "value": round(max(bare))}
    yield {
        "name": "intake.events_per_s", "value": round(max(ours)), "unit": "events/s", "reference": loop,
    }  # fmt: skip
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    yield {"name": "intake.ratio_to_bare_loop", "value": round(ratio, 3), "unit": "1", "reference": loop}


def _cost_of_rules() -> Figure:
    costs: dict[int, list[float]] = {10: [], 10_000: []}
    sets = {number: rules_of(number) for number in costs}
    for turn in range(ROUNDS):
        for number, spent in costs.items():
            first = batches_of(10_240, number, "first")
            batches = batches_of(EVENTS, number, f"{turn}")
            with tempfile.TemporaryDirectory() as folder:
                spent.append(_taken(Path(folder), sets[number], batches, first) / EVENTS * 1e6)
    few, many = (min(costs[number]) for number in (10, 10_000))
    return {
        "name": "intake.cost_10000_over_10_rules", "value": round(many / few, 3), "unit": "1",
        "reference": {"name": "us_per_event_with_10_rules", "value": round(few, 1)},
    }  # fmt: skip


def _start() -> Figure:
    """A new process on a store of a million events, until its rules are in force; beside the same on an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        full, empty = Path(folder) / "full", Path(folder) / "empty"
        _fill(full)
        times = {name: min(_started(name) for _ in range(3)) for name in (full, empty)}
    return {
        "name": "start.ready_1m_events_s", "value": round(times[full], 3), "unit": "s",
        "reference": {"name": "empty_store_s", "value": round(times[empty], 3)},
    }  # fmt: skip


# -- what is handed in


def rules_of(number: int) -> RuleSet:
    """So many rules, half about landed files and half about drift, each about a subject of its own."""
    on_file = rule(on="data.landed", when=("event.bytes > 1000",))
    on_drift = rule(when=("event.drifted_columns >= 1 && event.drifted_share > 0.1",))
    return RuleSet(tuple(_about(on_file if index % 2 else on_drift, index) for index in range(number)))


def _about(of: Rule, index: int) -> Rule:
    return replace(of, name=f"rule-{index}", subject=f"subject-{index}", text=f"{of.text} {index}")


def batches_of(number: int, rules: int, name: str) -> list[tuple[Event, ...]]:
    """Batches of events of both types, spread over the rules' subjects."""
    events = []
    for index in range(number):
        about = index % rules
        made = (
            landed(index) if about % 2 else measured(index, 0, drifted_share=0.0, worst_column="age", worst_effect=0.01)
        )
        events.append(replace(made, id=f"{name}-{index}", subject=f"subject-{about}"))
    return [tuple(events[first : first + BATCH]) for first in range(0, number, BATCH)]


# -- ours


def _writer(folder: Path) -> tuple[SqliteStore, Writer]:
    store = SqliteStore(folder / "store.db")
    running = Running(Config(home=folder), {})
    return store, Writer(store, running, lambda: datetime.now(UTC), folder / "heads.jsonl")


def _taken(
    folder: Path, rules: RuleSet, batches: list[tuple[Event, ...]], first: Sequence[tuple[Event, ...]] = ()
) -> float:
    """Seconds until all batches, handed in by two threads, have their receipts; `first` are handed in before."""
    return taken_by(*_writer(folder), rules, batches, first)


def taken_by(
    store: Store,
    writer: Writer,
    rules: RuleSet,
    batches: list[tuple[Event, ...]],
    first: Sequence[tuple[Event, ...]] = (),
) -> float:
    """The same of a writer that was not started yet; it is ended, and its store closed."""
    writer.start()
    writer.load(rules, {})
    for events in first:
        writer.submit(Batch(events=events))

    def hand_in(mine: list[tuple[Event, ...]]) -> None:
        for events in mine:
            writer.submit(Batch(events=events))

    threads = [threading.Thread(target=hand_in, args=(batches[half::2],)) for half in (0, 1)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - began
    assert writer.standing.decision == sum(map(len, (*first, *batches))), "every event must have been decided once"
    writer.stop()
    store.close()
    return spent


# -- the bare loop

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE events (seq INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at INTEGER, type TEXT, subject TEXT, data TEXT);
CREATE TABLE decisions (seq INTEGER PRIMARY KEY, event INTEGER, rule TEXT, verdict TEXT);
CREATE TABLE audit (seq INTEGER PRIMARY KEY, body TEXT, hash TEXT);
"""


def _bare_loop(folder: Path, rules: RuleSet, batches: list[tuple[Event, ...]]) -> float:
    """Seconds for the same events in a loop with nothing around it."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.executescript(_SCHEMA)
    index = {(one.on, one.subject): one for one in rules.rules}
    seq, head = 0, ""
    began = time.perf_counter()
    for batch in batches:
        events, decisions, records = [], [], []
        for event in batch:
            key = hashlib.blake2b(f"{event.source}|{event.id}".encode(), digest_size=16).digest()
            if connection.execute("SELECT seq FROM events WHERE key = ?", (key,)).fetchone():
                continue
            seq += 1
            data = orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
            found = index[event.type, event.subject]
            truth = found.when[0].evaluate(activation(event)).truth.value
            body = orjson.dumps({"seq": seq, "event": event.id, "rule": found.name, "verdict": truth})
            head = hashlib.sha256(head.encode() + body).hexdigest()
            events.append((seq, key, time.time_ns(), event.type, event.subject, data.decode()))
            decisions.append((seq, seq, found.name, truth))
            records.append((seq, body.decode(), head))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", events)
        connection.executemany("INSERT INTO decisions VALUES (?, ?, ?, ?)", decisions)
        connection.executemany("INSERT INTO audit VALUES (?, ?, ?)", records)
        connection.execute("COMMIT")
    spent = time.perf_counter() - began
    connection.close()
    return spent


# -- a full store


def _fill(folder: Path) -> None:
    """A store of a million decided events, written with the store's own statements."""
    store, writer = _writer(folder)
    writer.start()
    writer.load(rules_of(RULES), {})
    writer.submit(Batch(events=batches_of(BATCH, RULES, "first")[0]))
    writer.stop()
    standing, portion = writer.standing, 50_000
    seq, at = standing.seq, standing.at
    while seq < STORED:
        events, decisions, records = [], [], []
        for _ in range(min(portion, STORED - seq)):
            seq, at = seq + 1, at + timedelta(milliseconds=1)
            event = landed(seq)
            row = event_row(Recorded(seq, at, event), orjson.dumps(dict(event.data)))
            events.append(row)
            decisions.append(
                (seq, seq, f"rule-{seq % RULES}", "r", "k", "not met", "", "the condition does not hold", "[]", "")
            )
            records.append((seq, "event", "", '{"seq":1}', "0" * 64))
        with store.transaction(writer.epoch) as session:
            session.many("add_event", events)
            session.many("add_decision", decisions)
            session.many("add_audit", records)
    store.close()


def _started(folder: Path) -> float:
    """Seconds from the start of a process to its first transaction with rules in force."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.intake", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def _ready(folder: Path) -> None:
    store, writer = _writer(folder)
    writer.start()
    writer.load(RuleSet(()), {})
    writer.stop()
    store.close()


if __name__ == "__main__":
    _ready(Path(sys.argv[1]))
