"""Intake into a store on PostgreSQL, beside a bare loop on the same server in the same run.

Both get the same events and do the same for each as in `intake.py`; the bare loop has one connection and one transaction per
256 events, whose rows it adds by COPY, the fastest way in. Commits are synced to disk (synchronous_commit and fsync are on).
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg

from daemon.config import Config
from daemon.core.events import Event
from daemon.core.expressions import activation
from daemon.core.rules import RuleSet
from daemon.running import Running
from daemon.store.base import Store
from daemon.store.postgres import PostgresStore
from daemon.writer import Writer
from tests.benchmarks.intake import EVENTS, ROUNDS, RULES, batches_of, rules_of, taken_by
from tests.postgres import Postgres

Figure = dict[str, Any]
_SCHEMA = """
CREATE TABLE events (seq BIGINT PRIMARY KEY, key BYTEA NOT NULL UNIQUE, at BIGINT, type TEXT, subject TEXT, data TEXT);
CREATE TABLE decisions (seq BIGINT PRIMARY KEY, event BIGINT, rule TEXT, verdict TEXT);
CREATE TABLE audit (seq BIGINT PRIMARY KEY, body TEXT, hash TEXT);
"""


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    if any(name.startswith(prefix) for name in ("intake.postgres_events_per_s", "intake.postgres_ratio_to_bare_loop")):
        with Postgres() as server:
            yield from _beside_a_bare_loop(server)


def _beside_a_bare_loop(server: Postgres) -> Iterator[Figure]:
    """Rounds of both in turn, so that both meet the same disk and the same neighbours."""
    rules = rules_of(RULES)
    ours, bare = [], []
    for number in range(ROUNDS):
        batches = batches_of(EVENTS, RULES, f"round-{number}")
        bare.append(EVENTS / _bare_loop(server, rules, batches))
        with tempfile.TemporaryDirectory() as folder:
            store, writer = _writer(server, Path(folder))
            ours.append(EVENTS / taken_by(store, writer, rules, batches))
    loop = {"name": "bare_loop_events_per_s", "value": round(max(bare))}
    yield {"name": "intake.postgres_events_per_s", "value": round(max(ours)), "unit": "events/s", "reference": loop}
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    yield {"name": "intake.postgres_ratio_to_bare_loop", "value": round(ratio, 3), "unit": "1", "reference": loop}


def _writer(server: Postgres, folder: Path) -> tuple[Store, Writer]:
    store = PostgresStore(server.server(server.database()))
    running = Running(Config(home=folder), {})
    return store, Writer(store, running, lambda: datetime.now(UTC), folder / "heads.jsonl")


def _bare_loop(server: Postgres, rules: RuleSet, batches: list[tuple[Event, ...]]) -> float:
    """Seconds for the same events in a loop with nothing around it."""
    index = {(one.on, one.subject): one for one in rules.rules}
    seq, head = 0, ""
    with psycopg.connect(server.conninfo(server.database()), autocommit=True) as connection:
        connection.execute(_SCHEMA)
        began = time.perf_counter()
        for batch in batches:
            keys = [hashlib.blake2b(f"{one.source}|{one.id}".encode(), digest_size=16).digest() for one in batch]
            found = connection.execute("SELECT key FROM events WHERE key = ANY(%s)", (keys,)).fetchall()
            known = {bytes(key) for (key,) in found}
            events, decisions, records = [], [], []
            for key, event in zip(keys, batch, strict=True):
                if key in known:
                    continue
                seq += 1
                data = orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
                rule = index[event.type, event.subject]
                truth = rule.when[0].evaluate(activation(event)).truth.value
                body = orjson.dumps({"seq": seq, "event": event.id, "rule": rule.name, "verdict": truth})
                head = hashlib.sha256(head.encode() + body).hexdigest()
                events.append((seq, key, time.time_ns(), event.type, event.subject, data.decode()))
                decisions.append((seq, seq, rule.name, truth))
                records.append((seq, body.decode(), head))
            with connection.transaction(), connection.cursor() as cursor:
                for table, rows in (("events", events), ("decisions", decisions), ("audit", records)):
                    with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                        for row in rows:
                            copy.write_row(row)
        return time.perf_counter() - began
