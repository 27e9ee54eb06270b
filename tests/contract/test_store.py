"""What every store must do: the suite runs on SQLite's files and on a PostgreSQL server. What only one of them does is at its name."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core.canonical import canonical
from daemon.core.errors import Deposed, StoreBusy, StoreError
from daemon.core.events import Event, Recorded, clean, event_from_json, event_json
from daemon.core.runs import Moved, Run, RunStep, State
from daemon.core.verdicts import Clause, Decision, Verdict
from daemon.store import sqlite
from daemon.store.base import Store
from daemon.store.folding import ROWS
from daemon.store.links import Server
from daemon.store.postgres import PostgresStore
from daemon.store.rows import (
    call_of,
    decision_of,
    decision_row,
    event_of,
    event_row,
    micros,
    moment,
    run_of,
    run_row,
)
from daemon.store.sqlite import SqliteStore
from daemon.store.statements import migrations, statements
from tests.monitors.lab import wait_for
from tests.postgres import Postgres

Open = Callable[[], Store]
Place = Path | Server
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an empty store may be made: a file, or a database of the server."""
    if request.param == "sqlite":
        return tmp_path / "store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.server(server.database(), lease_s=30.0)


@pytest.fixture
def opened(place: Place) -> Iterator[Open]:
    """Opens the same store as often as it is called."""
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(open_at(place))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteStore]:
    """SQLite's, where only that is meant."""
    store = SqliteStore(tmp_path / "store.db")
    yield store
    store.close()


def open_at(place: Place) -> Store:
    """The store there."""
    return SqliteStore(place) if isinstance(place, Path) else PostgresStore(place)


def put(store: Store, epoch: int, name: str, value: str = "x") -> None:
    """Write something in a transaction."""
    with store.transaction(epoch) as session:
        session.run("set_meta", name, value)


def value(store: Store, name: str) -> list[Any]:
    """What was written."""
    with store.read() as session:
        return session.rows("meta", name)


# -- transactions


def test_a_transaction_is_kept_whole(opened: Open) -> None:
    """What a transaction wrote is there for every reader afterwards, also for one who opens the store anew."""
    store = opened()
    put(store, store.lead(), "a", "1")
    assert value(store, "a") == value(opened(), "a") == [("1",)]


def test_a_transaction_that_breaks_leaves_nothing(opened: Open) -> None:
    """Any exception takes everything back, and the next transaction is as good as any."""
    store = opened()
    epoch = store.lead()
    with contextlib.suppress(_Undone), store.transaction(epoch) as session:
        session.run("set_meta", "a", "1")
        raise _Undone
    assert value(store, "a") == []
    put(store, epoch, "b")
    assert value(store, "b") == [("x",)]


def test_a_statement_that_fails_is_trouble(opened: Open) -> None:
    """A broken constraint is a StoreError with the cause, and takes the transaction back."""
    store = opened()
    epoch = store.lead()

    def orphan() -> None:
        with store.transaction(epoch) as session:
            session.run("set_meta", "a", "1")
            session.run("take_lock", "serving:churn", "no such run", 1)

    with pytest.raises(StoreError) as error:
        orphan()
    assert error.value.__cause__ is not None
    assert not isinstance(error.value, StoreBusy)
    assert value(store, "a") == []


def test_two_runs_cannot_hold_one_lock(opened: Open) -> None:
    """A lock is a row: the second run that takes it fails."""
    store = opened()
    epoch = store.lead()
    with store.transaction(epoch) as session:
        session.run("put_run", *run_row(RUN))
        session.run("put_run", *run_row(replace(RUN, id="other")))
        session.run("take_lock", "serving:churn", RUN.id, 1)
    with pytest.raises(StoreError), store.transaction(epoch) as session:
        session.run("take_lock", "serving:churn", "other", 1)


def test_a_view_stands_still(opened: Open) -> None:
    """A reader sees one moment, whatever is committed meanwhile, and does not hold up the writer."""
    store = opened()
    epoch = store.lead()
    put(store, epoch, "a", "1")
    with store.read() as session:
        assert session.rows("meta", "a") == [("1",)]
        put(store, epoch, "a", "2")
        assert session.rows("meta", "a") == [("1",)]
    assert value(store, "a") == [("2",)]


def test_a_reader_sees_nothing_that_is_not_committed(opened: Open) -> None:
    """Half a transaction is invisible."""
    store = opened()
    with store.transaction(store.lead()) as session:
        session.run("set_meta", "a", "1")
        assert value(store, "a") == []


def test_a_view_cannot_write(opened: Open) -> None:
    """Only the writer opens a transaction."""
    store = opened()
    with pytest.raises(StoreError), store.read() as session:
        session.run("set_meta", "a", "1")


def idle(store: SqliteStore | PostgresStore) -> int:
    """Connections that are kept for the next reader."""
    return len(store._idle if isinstance(store, SqliteStore) else store._readers._idle)


def test_reading_from_many_threads_keeps_few_connections(opened: Open) -> None:
    """Readers come and go; the store keeps as many connections as ever read at once."""
    store = opened()
    for _ in range(20):
        thread = threading.Thread(target=lambda: value(store, "a"))
        thread.start()
        thread.join()
    assert isinstance(store, SqliteStore | PostgresStore)
    assert idle(store) == 1


def test_who_reads_while_the_store_is_closed_reads_on(opened: Open) -> None:
    """A connection is not closed under its reader, which SQLite would not survive; it is closed when the reader is done."""
    store = opened()
    assert isinstance(store, SqliteStore | PostgresStore)
    with store.read() as session:
        store.close()
        assert session.rows("meta", "a") == []
    assert idle(store) == 0


def test_the_log_is_folded_beside_the_writer(file: SqliteStore) -> None:
    """After many commits the log's pages are in the file, without the writer's own checkpoint, which is switched off here."""
    store = file
    epoch = store.lead()
    store._writer.execute("PRAGMA wal_autocheckpoint = 0")
    before = store._path.stat().st_size
    for number in range(2 * ROWS // 100):
        with store.transaction(epoch) as session:
            session.many("set_meta", [(f"{number}-{row}", "x" * 200) for row in range(100)])
    limit = time.monotonic() + 20
    while store._path.stat().st_size < before + ROWS * 200 and time.monotonic() < limit:
        time.sleep(0.02)
    assert store._path.stat().st_size >= before + ROWS * 200


# -- leadership


def test_epochs_go_up(opened: Open) -> None:
    """Every leader has a higher epoch than all before it."""
    store = opened()
    first = store.lead()
    store.close()
    assert opened().lead() == first + 1


def _lead_elsewhere(place: Place, told: Any) -> None:
    """In a process of its own: try to lead; hold on until told to end."""
    store = open_at(place)
    try:
        told.send(store.lead())
    except StoreBusy as error:
        told.send(str(error))
    told.recv()
    store.close()


@pytest.fixture
def elsewhere(place: Place) -> Iterator[Callable[[], Any]]:
    """Tries to lead in another process; its epoch, or why not."""
    started: list[tuple[Any, Any]] = []

    def lead() -> Any:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_lead_elsewhere, args=(place, theirs))
        process.start()
        started.append((process, ours))
        assert ours.poll(30)
        return ours.recv()

    yield lead
    for process, ours in started:
        with contextlib.suppress(OSError):
            ours.send("end")
        process.join(10)
        process.kill()
        process.join()
        ours.close()


def test_a_second_process_may_not_lead(opened: Open, elsewhere: Callable[[], Any]) -> None:
    """While one process leads another is refused, and told who does; when the first has gone it may."""
    store = opened()
    first = store.lead()
    assert "another driftd leads" in elsewhere()
    store.close()
    assert elsewhere() == first + 1


def test_the_leader_knows_that_it_leads(opened: Open, elsewhere: Callable[[], Any]) -> None:
    """Time is left to the leader alone: none to who does not lead, and none any more to who has left."""
    store, other = opened(), opened()
    assert max(store.lease_s, other.lease_s) <= 0
    store.lead()
    assert store.lease_s > 0
    assert other.lease_s <= 0
    store.close()
    assert store.lease_s <= 0


def test_a_leader_whose_lock_was_lost_is_refused(
    file: SqliteStore, tmp_path: Path
) -> None:  # fmt: skip
    """When the lock file went away under it and another process leads, the old leader's writes are refused."""
    epoch = file.lead()
    (tmp_path / "store.db.lock").unlink()
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as other:
        assert other.lead() == epoch + 1
        with pytest.raises(Deposed, match=str(epoch + 1)):
            put(file, epoch, "a")
    assert value(file, "a") == []


def test_a_killed_leader_leaves_the_lead(place: Place, opened: Open) -> None:
    """A process that was killed holds nothing; on PostgreSQL, once its lease is over."""
    brief = place if isinstance(place, Path) else replace(place, lease_s=1.0)
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_lead_elsewhere, args=(brief, theirs))
    process.start()
    assert ours.poll(30)
    epoch = ours.recv()
    process.kill()
    process.join()
    store = opened()
    wait_for(lambda: leads(store) == epoch + 1)


def leads(store: Store) -> int:
    """The new epoch; 0 when another still leads."""
    try:
        return store.lead()
    except StoreBusy:
        return 0


# -- busy


def test_a_locked_database_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody else holds the write lock a transaction is refused as busy: nothing was written, try again."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 20)
    store = SqliteStore(tmp_path / "store.db")
    epoch = store.lead()
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="SQLITE_BUSY"):
        put(store, epoch, "a")
    assert value(store, "a") == []
    other.execute("ROLLBACK")
    other.close()
    put(store, epoch, "a")
    store.close()


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    """The first start makes the folder of the store."""
    SqliteStore(tmp_path / "a" / "b" / "store.db").close()


def test_what_is_no_database_is_trouble(tmp_path: Path) -> None:
    """A file that is something else is a StoreError, never overwritten."""
    path = tmp_path / "store.db"
    path.write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(StoreError):
        SqliteStore(path)
    assert path.read_bytes().startswith(b"this is a letter")


# -- schema


def schema(path: Path) -> set[tuple[str, str]]:
    """Every table and index as SQLite has it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return set(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


def test_every_upgrade_leads_to_the_schema_of_a_fresh_store(tmp_path: Path) -> None:
    """A store that was made with any earlier number of migrations becomes what a fresh one is."""
    SqliteStore(tmp_path / "fresh.db").close()
    for start in range(len(migrations())):
        path = tmp_path / f"from-{start}.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for number, script in migrations()[:start]:
                connection.executescript(f"{script}; PRAGMA user_version = {number};")
        SqliteStore(path).close()
        assert schema(path) == schema(tmp_path / "fresh.db")


def test_migrations_are_numbered_without_gaps() -> None:
    """001, 002, …"""
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_store_of_a_newer_driftd_is_left_alone(tmp_path: Path) -> None:
    """An older program refuses it, and says why."""
    SqliteStore(tmp_path / "store.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer"):
        SqliteStore(tmp_path / "store.db")


def test_a_migration_that_breaks_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration and its number are one transaction."""
    SqliteStore(tmp_path / "store.db").close()
    before = schema(tmp_path / "store.db")
    broken = (*migrations(), (len(migrations()) + 1, "CREATE TABLE more (x);\nCREATE TABLE meta (x);\n"))
    monkeypatch.setattr(sqlite, "migrations", lambda: broken)
    with pytest.raises(StoreError):
        SqliteStore(tmp_path / "store.db")
    assert schema(tmp_path / "store.db") == before


def test_several_may_open_a_fresh_store_at_once(place: Place) -> None:
    """One of them makes the schema, the others find it."""
    opened_stores: list[Store] = []
    errors: list[StoreError] = []
    start = threading.Barrier(4)

    def open_one() -> None:
        start.wait(10)
        try:
            opened_stores.append(open_at(place))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, len(opened_stores)) == ([], 4)
    for store in opened_stores:
        store.close()


@pytest.mark.parametrize("name", sorted(statements()))
def test_every_statement_fits_the_schema(tmp_path: Path, name: str) -> None:
    """Each named statement can be prepared on a fresh store."""
    store = SqliteStore(tmp_path / "store.db")
    count = statements()[name].count("?") + 9
    for parameters in range(count):
        try:
            store._writer.execute(f"EXPLAIN {statements()[name]}", [0] * parameters)
        except sqlite3.ProgrammingError:  # another number of parameters
            continue
        break
    else:
        pytest.fail("no number of parameters fits")
    store.close()


# -- rows

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
TIME = st.integers(0, micros(datetime(2200, 1, 1, tzinfo=UTC))).map(moment)
EVENTS = st.builds(Event, TEXT, TEXT, TEXT, TEXT, TIME, OBJECT, st.lists(TEXT, max_size=3).map(tuple))
STEPS = st.builds(RunStep, TEXT, OBJECT, st.booleans(), st.booleans(), st.floats(0, 1e9))
RUNS = st.builds(
    Run, TEXT.filter(bool), TEXT, TEXT, TEXT, TEXT, EVENTS, st.integers(0, 2**62), st.lists(TEXT, max_size=2).map(tuple),
    st.lists(STEPS, max_size=3).map(tuple), st.lists(STEPS, max_size=2).map(tuple), st.lists(TEXT, max_size=2).map(tuple),
    TIME, st.sampled_from(list(State)), st.integers(0, 9), st.integers(-1, 9), OBJECT, TEXT,
    st.lists(st.builds(Moved, TIME, TEXT, TEXT, TEXT), min_size=1, max_size=3).map(tuple), TEXT,
)  # fmt: skip
RUN = Run(
    "run", "r", "v", "churn", "k", Event("1", "s", "data.landed", "x", datetime(2026, 1, 1, tzinfo=UTC)), 1, (), (), (),
    ("run",), datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip
ON_FILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def leading(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Store, int]]:  # fmt: skip
    """One store for all the examples."""
    store: Store
    if request.param == "sqlite":
        store = SqliteStore(tmp_path_factory.mktemp("rows") / "store.db")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        store = PostgresStore(server.server(server.database()))
    yield store, store.lead()
    store.close()


class _Undone(Exception):
    """Ends a transaction without keeping it."""


def there_and_back(leading: tuple[Store, int], write: list[tuple[str, tuple[Any, ...]]], read: str, *key: Any) -> Any:
    """A row as the database gives it back; the transaction is undone."""
    store, epoch = leading
    found: list[Any] = []
    with contextlib.suppress(_Undone), store.transaction(epoch) as session:
        for name, row in write:
            session.run(name, *row)
        found = session.rows(read, *key)
        raise _Undone
    return found[0]


@given(TIME)
def test_times_come_back_to_the_microsecond(time: datetime) -> None:
    """A stored time is the time."""
    assert moment(micros(time)) == time


@ON_FILE
@given(event=EVENTS, seq=st.integers(1, 2**62), at=TIME, undecidable=TEXT)
def test_events_come_back(leading: tuple[Store, int], event: Event, seq: int, at: datetime, undecidable: str) -> None:
    """An event, its place, its time and its reason are read as they were written."""
    data, raw = clean(event.data)
    recorded = Recorded(seq, at, replace(event, data=data))
    row = event_row(recorded, raw, undecidable)
    stored = event_of(there_and_back(leading, [("add_event", row)], "event", seq))
    assert (stored.recorded, stored.undecidable) == (recorded, undecidable)


@ON_FILE
@given(
    clauses=st.lists(st.builds(Clause, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    verdict=st.sampled_from(list(Verdict)), texts=st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT),
)  # fmt: skip
def test_decisions_come_back(
    leading: tuple[Store, int], clauses: tuple[Clause, ...], verdict: Verdict, texts: tuple[str, ...]
) -> None:
    """A decision is read as it was written."""
    rule, revision, key, why, admission, run = texts
    decision = Decision(rule, revision, key, "churn", verdict, why, clauses)
    row = decision_row(7, 3, decision, admission, run)
    stored = decision_of(there_and_back(leading, [("add_decision", row)], "decision", 7))
    assert (stored.seq, stored.event, stored.rule, stored.revision, stored.key) == (7, 3, rule, revision, key)
    assert (stored.verdict, stored.why, stored.admission, stored.run) == (verdict.value, why, admission, run)
    assert stored.clauses == [[clause.text, clause.truth, clause.reason] for clause in clauses]


@ON_FILE
@given(run=RUNS)
def test_runs_come_back(leading: tuple[Store, int], run: Run) -> None:
    """A run is read as it was written, with its trigger, steps and moves; live ones are found as such."""
    assert run_of(there_and_back(leading, [("put_run", run_row(run))], "run", run.id)) == run
    if not run.ended:
        assert run_of(there_and_back(leading, [("put_run", run_row(run))], "live_runs")) == run


@ON_FILE
@given(
    due=TIME, deadline=TIME, lease=TIME, state=OBJECT, note=TEXT, step=st.integers(0, 3000), attempt=st.integers(0, 99)
)
def test_calls_come_back(
    leading: tuple[Store, int], due: datetime, deadline: datetime, lease: datetime, state: dict[str, Any], note: str,
    step: int, attempt: int,
) -> None:  # fmt: skip
    """A call is read as it was written, claimed and settled."""
    call = call_of(there_and_back(leading, [
        ("put_run", run_row(RUN)),
        ("add_call", ("c", "run", step, "train", 5, micros(due), micros(deadline))),
        ("claim_call", (4, micros(lease), "c")),
        ("settle_call", ("due", micros(due + timedelta(seconds=1)), attempt, canonical(state).decode(), note, "c", 4, micros(lease))),
    ], "call", "c"))  # fmt: skip
    assert (call.run, call.step, call.verb, call.status, call.priority) == ("run", step, "train", "due", 5)
    assert (call.due, call.deadline, call.lease) == (due + timedelta(seconds=1), deadline, lease)
    assert (call.attempt, call.epoch, call.state, call.note) == (attempt, 4, state, note)


@given(EVENTS)
def test_an_event_within_a_document_comes_back(event: Event) -> None:
    """A trigger inside a run, or in a rule's memory, survives its trip through JSON."""
    event = replace(event, data=clean(event.data)[0])
    assert event_from_json(orjson.loads(canonical(event_json(event)))) == event
