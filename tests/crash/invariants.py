"""What must hold after any crash, read from what the dead left: the store, the jobs' folders, the exported heads.

Each check gives sentences about what does not hold; none: all is well.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import orjson

from daemon.auditing import exported_heads, verify_store
from daemon.core.errors import AuditBroken
from daemon.core.runs import AFTER_STEP
from daemon.platforms import shim
from daemon.replay import replay
from daemon.rulefiles import RuleFolder
from daemon.store.rows import call_of, micros, run_of
from daemon.storing import open_reader
from daemon.verbs import load_verbs
from tests.crash.scene import LANDING, LOAN, TICK, TICK_SECONDS, Scene, landings
from tests.crash.senders import Senders

MEASURED = ("drift.measured", "quality.measured", "performance.measured", "traffic.measured")
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Measures:
    """Everything that was measured of the file stream, as far as it must not depend on when it was."""

    progress: int
    states: dict[str, bytes]
    files: dict[str, str]
    events: list[tuple[str, str, str]]
    """Type, id and data, in the order of their recording."""

    def differs(self, other: Measures) -> Iterator[str]:
        """How another one is not the same as this one."""
        if self.progress != other.progress:
            yield f"panes: the stream was measured up to {other.progress}, undisturbed up to {self.progress}"
        for name, mine, theirs in (("state", self.states, other.states), ("file", self.files, other.files)):
            wrong = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            if wrong:
                yield f"panes: {name}s differ from an undisturbed run's: {', '.join(wrong[:5])}"
        if self.events != other.events:
            at = next(
                (at for at, pair in enumerate(zip(self.events, other.events, strict=False)) if pair[0] != pair[1]),
                min(len(self.events), len(other.events)),
            )
            yield (
                f"panes: {len(other.events)} measured events, undisturbed {len(self.events)}; they differ from number {at} "
                f"on: {other.events[at : at + 1]} is {self.events[at : at + 1]} undisturbed"
            )


class Store:
    """The store of a scene, for reading."""

    def __init__(self, scene: Scene) -> None:
        self._path = scene.home / "store.db"
        self._database = scene.database

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query; none when there is no store yet."""
        if self._database is not None:
            return self._database.rows(query, *parameters)
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
                return connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if "unable to open" in str(error) or "no such table" in str(error):
                return []
            raise

    def one(self, query: str, *parameters: Any) -> Any:
        """The one value of a query, None without rows."""
        rows = self.rows(query, *parameters)
        return rows[0][0] if rows else None


def measures(scene: Scene) -> Measures:
    """What the store has of the file stream."""
    store = Store(scene)
    marks = ",".join("?" * len(MEASURED))
    return Measures(
        store.one("SELECT position FROM progress WHERE stream = ?", LOAN) or 0,
        dict(store.rows("SELECT key, blob FROM states WHERE stream = ? ORDER BY key", LOAN)),
        dict(store.rows("SELECT path, status FROM files WHERE owner = ?", f"stream:{LOAN}")),
        store.rows(f"SELECT type, id, data FROM events WHERE type IN ({marks}) AND subject = ? ORDER BY seq",
                   *MEASURED, LOAN),
    )  # fmt: skip


def happened(scene: Scene, senders: Senders) -> Counter[str]:
    """How much there was to get wrong."""
    store = Store(scene)
    counts = {
        "acks": senders.acks,
        "events": store.one("SELECT count(*) FROM events"),
        "decisions": store.one("SELECT count(*) FROM decisions"),
        "jobs": sum(1 for _ in (scene.home / "jobs").glob("[!.]*")),
    }
    return Counter(counts)


def unsettled(scene: Scene, senders: Senders) -> list[str]:
    """What is still on its way; nothing: all that was told is done with."""
    store = Store(scene)
    found = []
    if senders.waiting:
        found.append(f"{len(senders.waiting)} events are not acked")
    landed = store.one("SELECT count(*) FROM files WHERE owner = ?", f"storage:{LANDING}") or 0
    if landed < len(senders.landed):
        found.append(f"{landed} of {len(senders.landed)} landed files are taken")
    read = store.one("SELECT count(*) FROM files WHERE owner = ?", f"stream:{LOAN}") or 0
    if read < len(landings()):
        found.append(f"{read} of {len(landings())} files of the stream are measured")
    for name, query in (
        ("runs are live", "SELECT count(*) FROM runs WHERE live = 1"),
        ("calls are open", "SELECT count(*) FROM calls WHERE status IN ('due', 'claimed')"),
    ):
        if count := store.one(query):
            found.append(f"{count} {name}")
    late = micros(datetime.now(UTC) - timedelta(seconds=1))
    if count := store.one("SELECT count(*) FROM timers WHERE due < ?", late):
        found.append(f"{count} timers are overdue")
    return found


def violations(scene: Scene, senders: Senders, undisturbed: Measures) -> list[str]:
    """Everything that does not hold, after all has settled and the daemon has ended."""
    store = Store(scene)
    return [
        *senders.wrong,
        *_acked(store, senders),
        *_landed(store, senders),
        *_ticks(store),
        *_decided_once(store),
        *_reproduced(scene, store),
        *_started_once(scene, store),
        *_runs(store),
        *_dangling(store),
        *_audited(scene, store),
        *undisturbed.differs(measures(scene)),
    ]


def _acked(store: Store, senders: Senders) -> Iterator[str]:
    """Every acked event is where its receipt says."""
    stored = {
        seq: f"{source.partition(':')[0]}|{name}"
        for seq, source, name in store.rows("SELECT seq, source, id FROM events")
    }
    for seq, key in senders.acked.items():
        if stored.get(seq) != key:
            yield f"acked: {key} was acked with place {seq}, where the store has {stored.get(seq)}"
    twice = [key for key, count in Counter(stored.values()).items() if count > 1 and key in senders.acked.values()]
    if twice:
        yield f"acked: stored more than once: {twice}"
    if stored and sorted(stored) != list(range(1, len(stored) + 1)):
        yield "acked: the places of the events have gaps"


def _landed(store: Store, senders: Senders) -> Iterator[str]:
    """Every landed file is one event."""
    told = Counter(
        orjson.loads(data)["path"] for (data,) in store.rows("SELECT data FROM events WHERE type = 'data.landed'")
    )
    if told != Counter(senders.landed):
        yield f"landed: files and their events: {dict(told)} instead of one each of {len(senders.landed)}"


def _ticks(store: Store) -> Iterator[str]:
    """Every due time of the schedule is one event, those too that passed while nobody lived."""
    dues = [
        datetime.fromisoformat(orjson.loads(data)["due"])
        for (data,) in store.rows(
            "SELECT data FROM events WHERE type = 'schedule.due' AND subject = ? ORDER BY seq", TICK
        )
    ]
    steps = {later - earlier for earlier, later in pairwise(dues)}
    if steps - {timedelta(seconds=TICK_SECONDS)}:
        yield f"ticks: the schedule's due times are {sorted(steps)} apart"


def _decided_once(store: Store) -> Iterator[str]:
    """No event is decided twice by one rule, and none is undecided that rules could decide."""
    for event, rule, count in store.rows(
        "SELECT event, rule, count(*) FROM decisions GROUP BY 1, 2, key HAVING count(*) > 1"
    ):
        yield f"decided: event {event} was decided {count} times by rule {rule}"
    for seq, why in store.rows("SELECT seq, undecidable FROM events WHERE undecidable IS NOT NULL"):
        yield f"decided: event {seq} was not decided: {why}"


def _reproduced(scene: Scene, store: Store) -> Iterator[str]:
    """Replaying the stored events in their order gives every stored decision, and the memory."""
    folder = RuleFolder(scene.config, {name: loaded.verb for name, loaded in load_verbs().items()})
    rules = {
        revision: folder.parse(orjson.loads(files), commit).rules
        for revision, files, commit in store.rows("SELECT revision, files, commit_id FROM rulesets")
    }
    with closing(open_reader(scene.config)) as reader:
        for mismatch in replay(reader, rules)[:5]:  # type: ignore[arg-type]
            yield f"replay: {mismatch}"
    known = {rule.name for one in rules.values() for rule in one.rules}
    for (rule,) in store.rows("SELECT DISTINCT rule FROM memory"):
        if rule not in known:
            yield f"memory: there is memory of a rule {rule!r} that never was"


def _started_once(scene: Scene, store: Store) -> Iterator[str]:
    """Every job was started exactly once, belongs to a call of the store, and its call knows how it ended."""
    path = scene.home / "started"
    lines = path.read_text().splitlines() if path.exists() else []
    starts = Counter(line.split()[0] for line in lines)
    for job, count in starts.items():
        if count > 1:
            yield f"jobs: {job} was started {count} times"
    calls = {row[0]: call_of(row) for row in store.rows(_CALLS)}
    for line in lines:
        job, name = line.split()
        if name not in calls or not job.startswith(name):
            yield f"jobs: {job} was started for {name}, which is no call of the store"
    tries = Counter(line.split()[1] for line in lines)
    for call in calls.values():
        if call.verb != "command":
            continue
        late = bool(_inputs(store, call.run, call.step).get("with"))
        if call.status != "done" or tries[call.id] != (2 if late else 1):
            yield f"jobs: call {call.id} is {call.status} ({call.note}) after {tries[call.id]} starts"
    for folder in (scene.home / "jobs").glob("[!.]*"):
        if folder.name not in starts or shim.read_json(folder / "status.json") is None:
            yield f"jobs: the job {folder.name} was made, but not started, or has no end"


def _inputs(store: Store, run: str, step: int) -> dict[str, Any]:
    (row,) = store.rows("SELECT doc FROM runs WHERE id = ?", run)
    return dict(run_of(row).step(step).inputs)


def _runs(store: Store) -> Iterator[str]:
    """Every firing that was admitted has its run, every run its firing; all have ended."""
    fired = Counter(run for (run,) in store.rows("SELECT run FROM decisions WHERE run <> ''"))
    runs = {name: (state, rule) for name, state, rule in store.rows("SELECT id, state, rule FROM runs")}
    if fired != Counter(runs.keys()):
        yield f"runs: {len(runs)} runs, {sum(fired.values())} firings with a run"
    for name, (state, rule) in runs.items():
        if rule != "try" and state != "succeeded":
            yield f"runs: {name[:8]} of {rule} ended {state}"


def _dangling(store: Store) -> Iterator[str]:
    """Nothing is held by what has ended: no lock, no open call, no due time that has passed or waits for a call."""
    live = {name for (name,) in store.rows("SELECT id FROM runs WHERE live = 1")}
    for target, run in store.rows("SELECT target, run FROM locks"):
        if run not in live:
            yield f"dangling: {target} is locked by run {run[:8]}, which has ended"
    settled = {row[0] for row in store.rows("SELECT id FROM calls WHERE status NOT IN ('due', 'claimed')")}
    for key, why in store.rows("SELECT key, why FROM timers WHERE rule = '' AND why = 'deadline'"):
        run, _, step = key.rpartition("|")
        calls = store.rows("SELECT id FROM calls WHERE run = ? AND step = ?", run, int(step))
        if not calls or calls[0][0] in settled:
            yield f"dangling: a {why} waits for step {step} of run {run[:8]}, which is over"


def _audited(scene: Scene, store: Store) -> Iterator[str]:
    """The chain verifies, every exported head is on it, and the end of every run is under one."""
    heads, unreadable = exported_heads(scene.home / "audit" / "heads.jsonl")
    if unreadable:
        yield f"audit: lines {unreadable} of the exported heads cannot be read"
    with closing(open_reader(scene.config)) as reader:
        try:
            verify_store(reader, heads)
        except AuditBroken as error:
            yield f"audit: {error}"
    last = store.one("SELECT max(seq) FROM audit WHERE kind = 'run'")
    if last and max((head.seq for head in heads), default=0) < last:
        yield f"audit: no head was exported since record {last}, the last one about a run"
    told = {orjson.loads(body)["seq"] for (body,) in store.rows("SELECT body FROM audit WHERE kind = 'event'")}
    if told != {seq for (seq,) in store.rows("SELECT seq FROM events")}:
        yield "audit: events and their audit records are not the same"


_CALLS = (
    "SELECT id, run, step, verb, status, priority, due, deadline, attempt, epoch, lease, state, note FROM calls "
    f"WHERE step <= {AFTER_STEP + 1000}"
)
