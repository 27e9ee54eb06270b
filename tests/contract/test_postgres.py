"""What only the store on PostgreSQL does: a lease, a server that goes away, and another dialect of the same schema."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from daemon.core.errors import Deposed, Kept, NotFound, StoreBusy, StoreError
from daemon.core.events import Event, unstorable
from daemon.store import links
from daemon.store import postgres as module
from daemon.store.links import Server
from daemon.store.postgres import PostgresStore
from daemon.store.readers import PostgresReader
from daemon.store.statements import migrations, postgres_migrations, postgres_statements, statements
from tests.builders import T0
from tests.monitors.lab import wait_for
from tests.postgres import Database, Postgres

Open = Callable[..., PostgresStore]


@pytest.fixture
def database(postgres: Postgres) -> Database:
    """An empty one."""
    return postgres.fresh()


@pytest.fixture
def opened(database: Database) -> Iterator[Open]:
    """Opens the store; `how` is Server's."""
    stores: list[PostgresStore] = []

    def open_one(**how: Any) -> PostgresStore:
        stores.append(PostgresStore(database.server.server(database.name, **how)))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def own() -> Iterator[Database]:
    """A database of a server that the test may kill."""
    with Postgres() as server:
        yield server.fresh()


def put(store: PostgresStore, epoch: int, name: str, value: str = "x") -> None:
    """Write something in a transaction."""
    with store.transaction(epoch) as session:
        session.run("set_meta", name, value)


def value(store: PostgresStore, name: str) -> list[Any]:
    """What was written."""
    with store.read() as session:
        return session.rows("meta", name)


def leads(store: PostgresStore) -> int:
    """The epoch; 0 while another leads."""
    try:
        return store.lead()
    except StoreBusy:
        return 0


# -- the lease


def test_the_lease_is_renewed(opened: Open) -> None:
    """Who leads goes on leading, without a transaction."""
    leader, other = opened(lease_s=1.0), opened(lease_s=1.0)
    epoch = leader.lead()
    for _ in range(10):
        threading.Event().wait(0.2)
        assert leads(other) == 0
    put(leader, epoch, "a")


def silence(store: PostgresStore) -> None:
    """Its lease is not renewed any more, as if the process stood still."""
    assert store._lease is not None
    store._lease._over.set()
    store._lease._thread.join()


def test_a_leader_that_says_nothing_is_followed_and_refused(opened: Open) -> None:
    """When its lease is over another leads; what the old one writes is refused, and it knows that it is over."""
    leader, other = opened(lease_s=1.0), opened()
    epoch = leader.lead()
    silence(leader)
    assert wait_for(lambda: leads(other)) == epoch + 1
    assert leader.lease_s <= 0
    with pytest.raises(Deposed, match=str(epoch + 1)):
        put(leader, epoch, "a")
    assert value(other, "a") == []
    assert leader.lease_s == float("-inf")
    put(other, epoch + 1, "b")


def test_a_leader_that_is_back_before_anybody_asked_goes_on(opened: Open) -> None:
    """A lease that is over costs nothing while nobody else has taken the lead."""
    leader = opened(lease_s=0.5)
    epoch = leader.lead()
    silence(leader)
    wait_for(lambda: leader.lease_s <= 0)
    put(leader, epoch, "a")
    assert value(leader, "a") == [("x",)]


def test_no_epoch_begins_while_a_transaction_of_the_one_before_is_open(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next leader waits for its end: what it wrote is there before anything of the next epoch."""
    leader, other = opened(lease_s=0.5), opened()
    epoch = leader.lead()
    silence(leader)
    took: list[int] = []
    with leader.transaction(epoch) as session:
        session.run("set_meta", "a", "1")
        wait_for(lambda: leader.lease_s <= 0)
        taker = threading.Thread(target=lambda: took.append(wait_for(lambda: leads(other))))
        taker.start()
        taker.join(1)
        assert took == []
    taker.join(20)
    assert took == [epoch + 1]
    assert value(other, "a") == [("1",)]


def test_a_transaction_that_stands_still_holds_up_nobody_for_long(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends it, nothing of it is kept, and another leads."""
    monkeypatch.setattr(links, "IDLE_S", 1)
    leader, other = opened(lease_s=0.5), opened()
    epoch = leader.lead()
    silence(leader)

    def stand_still() -> None:
        with leader.transaction(epoch) as session:
            session.run("set_meta", "a", "1")
            assert wait_for(lambda: leads(other)) == epoch + 1

    with pytest.raises(StoreBusy):
        stand_still()
    assert value(other, "a") == []
    with pytest.raises(Deposed):
        put(leader, epoch, "a")


def test_who_leaves_is_followed_at_once(opened: Open) -> None:
    """A leader that ends in good order does not let others wait for its lease."""
    leader, other = opened(lease_s=600.0), opened()
    epoch = leader.lead()
    with pytest.raises(StoreBusy, match="another driftd leads"):
        other.lead()
    leader.close()
    assert other.lead() == epoch + 1


# -- a server that goes away


def test_a_server_that_was_restarted_is_used_again(own: Database) -> None:
    """What was committed is there, what was not is not, the epoch still stands; readers and the writer connect anew."""
    store = PostgresStore(own.server.server(own.name))
    epoch = store.lead()
    put(store, epoch, "a", "1")
    assert value(store, "a") == [("1",)]

    def killed_inside() -> None:
        with store.transaction(epoch) as session:
            session.run("set_meta", "a", "2")
            own.server.kill()
            wait_for(lambda: _fails(lambda: session.run("set_meta", "b", "1")))
            session.run("set_meta", "c", "1")

    with pytest.raises(StoreBusy):
        killed_inside()
    with pytest.raises(StoreBusy):
        put(store, epoch, "a")
    with pytest.raises(StoreBusy):
        value(store, "a")
    own.server.start()
    assert value(store, "a") == [("1",)]
    put(store, epoch, "a", "3")
    assert value(store, "a") == [("3",)]
    assert wait_for(lambda: store.lease_s > 50)
    store.close()


def _fails(what: Callable[[], Any]) -> bool:
    try:
        what()
    except StoreError:
        return True
    return False


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_asked_for(opened: Open, committed: bool) -> None:
    """The connection is lost in the COMMIT: the next transaction says whether it was one, and is as good as any after that."""
    store = opened()
    epoch = store.lead()
    execute = psycopg.Connection.execute

    def cut(connection: Any, query: Any, *rest: Any) -> Any:
        if query != "COMMIT":
            return execute(connection, query, *rest)
        if committed:
            execute(connection, query)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", cut)
        with pytest.raises(StoreBusy):
            put(store, epoch, "a", "1")
    if committed:
        with pytest.raises(Kept):
            put(store, epoch, "b")
    put(store, epoch, "b")
    assert value(store, "a") == ([("1",)] if committed else [])
    assert value(store, "b") == [("x",)]


def test_a_server_that_is_not_there_is_busy(database: Database) -> None:
    """It may come: try again. The message says where it was looked for, and holds no password."""
    nowhere = Server("host=127.0.0.1 port=1 user=driftd password=hunter2 dbname=driftd")
    with pytest.raises(StoreBusy, match=r"127\.0\.0\.1") as error:
        PostgresStore(nowhere)
    assert "hunter2" not in f"{error.value} {nowhere}"


def test_a_wrong_password_is_told(database: Database) -> None:
    """By the server's own word, without the password."""
    wrong = replace(database.server.server(database.name), conninfo=database.server.conninfo(database.name, application_name="x").replace(database.server.password, "hunter2"))  # fmt: skip
    with pytest.raises(StoreBusy, match="password authentication failed") as error:
        PostgresStore(wrong)
    assert "hunter2" not in str(error.value)


def test_readers_are_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more connections than configured; who finds all taken waits, and is told in the end."""
    monkeypatch.setattr("daemon.store.readers.READING_S", 0.1)
    store = opened(readers=2)
    with store.read(), store.read(), pytest.raises(StoreBusy, match="2 others"), store.read():
        pass
    with store.read() as session:
        assert session.rows("meta", "a") == []


def test_a_statement_that_takes_too_long_is_ended(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server, after its time; the view is over, the next one is as good as any."""
    monkeypatch.setattr(links, "STATEMENT_S", 1)
    monkeypatch.setitem(postgres_statements(), "slow", "SELECT pg_sleep(60)")
    store = opened()
    with pytest.raises(StoreBusy, match="statement timeout"), store.read() as session:
        session.rows("slow")
    assert value(store, "a") == []


def test_commits_are_durable_when_they_return(opened: Open, database: Database) -> None:
    """Whatever the database's own default is."""
    database.server.ask(database.name, f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    store = opened()
    assert store._writer is not None
    assert store._writer.execute("SHOW synchronous_commit").fetchall() == [("on",)]


# -- texts


def test_nul_in_a_text_is_shown(opened: Open) -> None:
    """PostgreSQL's texts have no NUL: a note that has one is kept with the sign for it; rows that are copied too."""
    store = opened()
    epoch = store.lead()
    put(store, epoch, "a", "x\x00y")
    with store.transaction(epoch) as session:
        session.many("add_audit", [(1, "k", "r\x00", "b\tb\nb\\N", "h")])
    assert value(store, "a") == [("x\u2400y",)]
    with store.read() as session:
        assert session.rows("audit_after", 0, 9) == [(1, "k", "r\u2400", "b\tb\nb\\N", "h")]


@pytest.mark.parametrize("name", ["id", "source", "subject"])
def test_an_event_whose_name_has_nul_is_refused(name: str) -> None:
    """Under no store: two names must not become one."""
    event = replace(Event("1", "s", "data.landed", "x", T0), **{name: "a\x00b"})
    assert "NUL" in unstorable(event)


# -- schema


def test_a_reader_wants_a_store(database: Database, opened: Open) -> None:
    """NotFound in a fresh database, and nothing is made there; a view once a daemon has been."""
    place = database.server.server(database.name)
    with pytest.raises(NotFound):
        PostgresReader(place)
    opened()
    reader = PostgresReader(place)
    with reader.read() as session:
        assert session.rows("meta", "a") == []
    reader.close()


def test_a_store_of_a_newer_driftd_is_left_alone(database: Database, opened: Open) -> None:
    """An older program refuses it, and says why; a reader too."""
    opened()
    database.rows("INSERT INTO migrations VALUES (99, now())")
    with pytest.raises(StoreError, match="newer"):
        opened()
    with pytest.raises(StoreError, match="99"):
        PostgresReader(database.server.server(database.name))


def test_a_migration_that_breaks_leaves_the_store_as_it_was(
    database: Database, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration and its number are one transaction."""
    opened()
    before = tables(database)
    last = len(postgres_migrations())
    broken = (*postgres_migrations(), (last + 1, "CREATE TABLE more (x INT); CREATE TABLE meta (x INT);"))
    monkeypatch.setattr(module, "postgres_migrations", lambda: broken)
    with pytest.raises(StoreError):
        opened()
    assert tables(database) == before
    assert database.rows("SELECT max(number) FROM migrations") == [(last,)]


def test_every_upgrade_leads_to_the_schema_of_a_fresh_store(postgres: Postgres) -> None:
    """A database that was made with any earlier number of migrations becomes what a fresh one is."""
    found = []
    for start in range(len(postgres_migrations())):
        database = postgres.fresh()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "postgres_migrations", lambda start=start: postgres_migrations()[: max(start, 1)])
            PostgresStore(postgres.server(database.name)).close()
        PostgresStore(postgres.server(database.name)).close()
        found.append((tables(database), indexes(database)))
    assert all(one == found[0] for one in found)


def test_both_databases_have_the_same_schema(database: Database, opened: Open) -> None:
    """Migrations under the same numbers make the same tables, columns, keys and indexes; PostgreSQL has its lease besides."""
    opened()
    assert [number for number, _ in postgres_migrations()] == [number for number, _ in migrations()]
    kinds = {"INTEGER": "bigint", "TEXT": "text", "BLOB": "bytea"}
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for _, script in migrations():
            connection.executescript(script)
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        expected = {
            (table, column, kinds[kind], bool(required or key))
            for table in names
            for _, column, kind, required, _, key in connection.execute(f"PRAGMA table_info({table})")
        }
        made = {
            (table, tuple(one[2] for one in connection.execute(f"PRAGMA index_info('{index}')")))
            for table in names
            for _, index, _, origin, _ in connection.execute(f"PRAGMA index_list({table})")
            if origin != "pk"
        }
        keys = {
            (table, tuple(row[1] for row in sorted(columns, key=lambda row: row[5]) if row[5]))
            for table in names
            if (columns := connection.execute(f"PRAGMA table_info({table})").fetchall())
        }
    own = {"leader", "migrations"}
    assert {one for one in tables(database) if one[0] not in own} == expected
    assert {one for one in indexes(database) if one[0] not in own} == made | keys
    assert database.rows("SELECT collation_name FROM information_schema.columns WHERE table_schema = 'public' "
                         "AND data_type = 'text' AND table_name <> 'leader' AND collation_name IS DISTINCT FROM 'C'") == []  # fmt: skip


def tables(database: Database) -> set[tuple[str, str, str, bool]]:
    """Table, column, type and whether it is required, of each."""
    return set(database.rows(
        "SELECT table_name, column_name, data_type, is_nullable = 'NO' FROM information_schema.columns "
        "WHERE table_schema = 'public'"
    ))  # fmt: skip


def indexes(database: Database) -> set[tuple[str, tuple[str, ...]]]:
    """Table and columns of each, keys too."""
    rows = database.rows("SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    found = set()
    for table, text in rows:
        columns = re.search(r"\(([^)]*)\)", text)
        assert columns is not None
        found.add((table, tuple(name.strip().strip('"') for name in columns[1].split(","))))
    return found


@pytest.mark.parametrize("name", sorted(postgres_statements()))
def test_every_statement_fits_the_schema(shared: PostgresStore, name: str) -> None:
    """Each named statement can be prepared on a fresh store, and takes the parameters that SQLite's takes."""
    text = postgres_statements()[name]
    assert shared._writer is not None
    with contextlib.closing(psycopg.RawCursor(shared._writer)) as cursor:
        cursor.execute(f"PREPARE one AS {text}")
        cursor.execute("DEALLOCATE one")
    if name in statements():
        theirs = re.sub(r"(?m)^--.*$", "", statements()[name])
        assert (text.count("$") and set(re.findall(r"\$\d+", text))) or "?" not in theirs
        named = set(re.findall(r"\?(\d+)", theirs))
        assert len(set(re.findall(r"\$\d+", text))) == (len(named) or theirs.count("?"))


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[PostgresStore]:
    """One store for all statements."""
    store = PostgresStore(postgres.server(postgres.database()))
    yield store
    store.close()
