"""The MLflow source: what it makes of a registry that changes while nobody looks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.clients.base import ModelVersion, RegisteredModel
from daemon.clients.registry import RegistryProcess
from daemon.config import Model
from daemon.core.events import Event
from daemon.core.schema import check_data
from daemon.sources.mlflow import MlflowSource, above, chain_of, changes, mover_of
from tests.contract.desk import Clock, Desk, eventually, running

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = {"churn-model": ("churn",)}
pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")


def version(number: int, status: str = "READY", created: str = "1", **tags: str) -> ModelVersion:
    """A version of churn-model."""
    return ModelVersion(
        "churn-model", str(number), created, f"run-{number}", f"models:/churn-model/{number}", status, tags
    )


def model(*versions: ModelVersion, aliases: dict[str, str] | None = None, created: str = "1") -> RegisteredModel:
    """The registered model with all its versions."""
    live = frozenset(item.version for item in versions)
    return RegisteredModel("churn-model", created, aliases or {}, versions, live)


def told(events: tuple[Event, ...]) -> list[tuple[str, ...]]:
    """The events in short."""
    short = {
        "model.registered": ("version",),
        "model.alias_changed": ("alias", "version", "previous"),
        "model.deleted": ("version",),
    }
    return [(event.type.removeprefix("model."), *(event.data[name] for name in short[event.type])) for event in events]


def poll(cursor: Any, *models: RegisteredModel) -> tuple[list[tuple[str, ...]], Any]:
    """One poll: what it tells, and the cursor as it comes back from the store."""
    names = above(cursor, list(NAMES))
    seen = [
        RegisteredModel(
            item.name, item.created, item.aliases,
            tuple(v for v in item.versions if int(v.version) > names[item.name]), item.live,
        )
        for item in models
    ]  # fmt: skip
    found = changes(cursor, seen, NAMES, NOW)
    for event in found.events:
        assert check_data(event.type, event.data) == []
    return told(found.events), orjson.loads(orjson.dumps(found.cursor))


def test_without_a_cursor_the_present_state_is_where_watching_begins() -> None:
    """What is there makes no events; what comes or changes from then on does."""
    first, cursor = poll(None, model(version(1), version(2), aliases={"champion": "1"}))
    second, _ = poll(cursor, model(version(1), version(2), version(3), aliases={"champion": "2"}))
    assert first == []
    assert second == [("registered", "3"), ("alias_changed", "champion", "2", "1")]


def test_a_model_that_did_not_exist_is_new_with_all_its_versions() -> None:
    """Watching began when there was none; a name that is added to the config later begins anew."""
    _, cursor = poll(None)
    events, _ = poll(cursor, model(version(1), version(2), aliases={"champion": "2"}))
    assert events == [("registered", "1"), ("registered", "2"), ("alias_changed", "champion", "2", "")]
    assert poll({"another": None}, model(version(1)))[0] == []


def test_a_version_that_is_not_ready_waits_and_holds_up_nobody() -> None:
    """It is told when its upload is done, after others if they were faster; each once."""
    _, cursor = poll(None, model(version(1)))
    waiting = version(2, "PENDING_REGISTRATION")
    first, cursor = poll(cursor, model(version(1), waiting, version(3)))
    second, cursor = poll(cursor, model(version(1), waiting, version(3), version(4)))
    third, cursor = poll(cursor, model(version(1), version(2), version(3), version(4)))
    fourth, cursor = poll(cursor, model(version(1), version(2), version(3), version(4)))
    assert [first, second, third, fourth] == [[("registered", "3")], [("registered", "4")], [("registered", "2")], []]
    assert cursor["churn-model"]["above"] == 4
    assert cursor["churn-model"]["ahead"] == []


def test_a_version_whose_upload_failed_is_a_problem_not_an_event() -> None:
    """It is passed over once, and said."""
    _, cursor = poll(None, model())
    found = changes(cursor, [model(version(1, "FAILED_REGISTRATION"))], NAMES, NOW)
    assert found.events == ()
    assert [problem.where for problem in found.problems] == ["churn-model version 1"]
    assert changes(found.cursor, [model(version(1, "FAILED_REGISTRATION"))], NAMES, NOW).problems == found.problems[:0]


def test_deletions_are_told() -> None:
    """Of a version, and of the whole model."""
    _, cursor = poll(None, model(version(1), version(2), version(3)))
    first, cursor = poll(cursor, model(version(1), version(3)))
    second, cursor = poll(cursor)
    third, _ = poll(cursor)
    assert [first, second, third] == [[("deleted", "2")], [("deleted", "")], []]


def test_a_model_made_anew_is_told_apart_from_the_old_one() -> None:
    """Its numbers begin at 1 again, under the number where the cursor stood."""
    _, cursor = poll(None, model(*(version(number) for number in range(1, 6))))
    anew = model(version(1, created="2"), aliases={"champion": "1"}, created="2")
    found = changes(cursor, [anew], NAMES, NOW)
    assert (told(found.events), found.again) == ([("deleted", "")], True)
    born = changes(found.cursor, [anew], NAMES, NOW).events
    old = changes({"churn-model": None}, [model(version(1), aliases={"champion": "1"})], NAMES, NOW).events
    assert {event.id for event in born} & {event.id for event in old} == set()
    events, _ = poll(found.cursor, anew)
    assert events == [("registered", "1"), ("alias_changed", "champion", "1", "")]


def test_an_alias_that_goes_to_and_fro_is_another_event_each_time() -> None:
    """The second move to version 2 must not pass for the first one."""
    cursor = changes(None, [model(aliases={"champion": "1"})], NAMES, NOW).cursor
    ids = []
    for to in ("2", "1", "2", "1"):
        found = changes(cursor, [model(aliases={"champion": to})], NAMES, NOW)
        assert changes(cursor, [model(aliases={"champion": to})], NAMES, NOW).events == found.events
        ids += [event.id for event in found.events]
        cursor = found.cursor
    assert len(set(ids)) == 4


def test_two_models_may_go_by_one_registered_name() -> None:
    """Each has its own event, about itself."""
    names = {"churn-model": ("churn-eu", "churn-us")}
    cursor = changes(None, [], names, NOW).cursor
    events = changes(cursor, [model(version(1))], names, NOW).events
    assert [(e.subject, e.data["model"]) for e in events] == [("churn-eu", "churn-eu"), ("churn-us", "churn-us")]
    assert len({event.id for event in events}) == 2


def test_a_registration_says_who_made_it_and_what_led_there() -> None:
    """The tags of a retraining run become author, digest and chain; a foreigner has none."""
    tags = {"driftd.run": "r2", "driftd.chain": '["r1", "r2"]', "driftd.digest": "abc"}
    cursor = changes(None, [model()], NAMES, NOW).cursor
    ours, theirs = changes(cursor, [model(version(1, **tags), version(2))], NAMES, NOW).events
    assert (ours.chain, ours.data["registered_by"], ours.data["digest"]) == (("r1", "r2"), "r2", "abc")
    assert (theirs.chain, theirs.data["registered_by"], "digest" in theirs.data) == ((), "", False)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        pytest.param('["r1"]', ("r1", "r2"), id="the run itself is left out"),
        pytest.param("not json", ("r2",), id="no JSON"),
        pytest.param('{"r1": 1}', ("r2",), id="no list"),
        pytest.param("[1]", ("r2",), id="no strings"),
    ],
)
def test_a_chain_that_cannot_be_read_counts_as_none(chain: str, expected: tuple[str, ...]) -> None:
    """Tags are anybody's to write; the run that registered is in the chain whatever they say."""
    assert expected == chain_of(version(1, **{"driftd.run": "r2", "driftd.chain": chain}))


@dataclass
class Simulated:
    """A registered model as MLflow keeps it, by the facts of its documentation: numbers go up and are never used again,
    a deleted model that is made anew begins at 1 with another creation time.
    """

    lives: int = 0
    exists: bool = False
    top: int = 0
    versions: dict[int, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def do(self, operation: str, number: int) -> None:
        """One operation; impossible ones do nothing."""
        if operation == "create" and not self.exists:
            self.exists, self.lives, self.top = True, self.lives + 1, 0
        elif operation == "drop":
            self.exists, self.versions, self.aliases = False, {}, {}
        elif operation in {"register", "upload"} and self.exists:
            self.top += 1
            self.versions[self.top] = "READY" if operation == "register" else "PENDING_REGISTRATION"
        elif number in self.versions:
            self._change(operation, number)

    def _change(self, operation: str, number: int) -> None:
        if operation == "finish":
            self.versions[number] = "READY"
        elif operation == "delete":
            del self.versions[number]
            self.aliases = {alias: to for alias, to in self.aliases.items() if to != str(number)}
        elif operation == "alias":
            self.aliases["champion"] = str(number)

    def snapshot(self, names: dict[str, int]) -> tuple[RegisteredModel, ...]:
        """What `Registry.models` answers."""
        if not self.exists:
            return ()
        created = str(self.lives)
        versions = tuple(
            version(number, status, created)
            for number, status in sorted(self.versions.items())
            if number > names["churn-model"]
        )
        live = frozenset(str(number) for number in self.versions)
        return (RegisteredModel("churn-model", created, dict(self.aliases), versions, live),)


OPERATIONS = st.tuples(
    st.sampled_from(["create", "register", "register", "upload", "finish", "delete", "alias", "drop", "poll", "poll"]),
    st.integers(1, 5),
)


@settings(deadline=None, max_examples=300)
@given(operations=st.lists(OPERATIONS, min_size=10, max_size=60), lose=st.randoms(use_true_random=False))
def test_every_registration_that_can_be_seen_is_told_exactly_once(operations: list[tuple[str, int]], lose: Any) -> None:
    """Whatever happens between polls, and however often a poll is repeated because its receipt was lost."""
    registry = Simulated()
    cursor: Any = changes(None, (), NAMES, NOW).cursor  # watching began before there was anything
    expected: set[tuple[str, str]] = set()
    events: dict[str, Event] = {}
    counted: Counter[tuple[str, str]] = Counter()
    for operation, number in [*operations, ("poll", 0), ("poll", 0)]:
        if operation != "poll":
            registry.do(operation, number)
            continue
        found = changes(cursor, registry.snapshot(above(cursor, list(NAMES))), NAMES, NOW)
        for event in found.events:
            if event.id not in events and event.type == "model.registered":
                counted[event.data["created"], event.data["version"]] += 1
            events[event.id] = event
        if lose.random() < 0.3:
            continue  # stored events, but the daemon died before it knew: impossible, yet harmless
        cursor = orjson.loads(orjson.dumps(found.cursor))
        if not found.again:
            ready = [item for item, status in registry.versions.items() if status == "READY"]
            expected |= {(str(registry.lives), str(item)) for item in ready}
    assert expected - set(counted) == set()
    assert set(counted.values()) <= {1}


@settings(deadline=None, max_examples=200)
@given(operations=st.lists(OPERATIONS, min_size=10, max_size=60))
def test_what_is_told_leads_to_what_is_there(operations: list[tuple[str, int]]) -> None:
    """Whoever follows the events knows the live versions and the alias after every poll."""
    registry = Simulated()
    cursor: Any = changes(None, (), NAMES, NOW).cursor
    versions: set[str] = set()
    champion = ""
    for operation, number in [*operations, ("poll", 0)]:
        registry.do(operation, number)
        while operation == "poll":
            found = changes(cursor, registry.snapshot(above(cursor, list(NAMES))), NAMES, NOW)
            for event in found.events:
                if event.type == "model.registered":
                    versions.add(event.data["version"])
                elif event.type == "model.alias_changed":
                    champion = event.data["version"]
                elif event.data["version"]:
                    versions.discard(event.data["version"])
                else:
                    versions, champion = set(), ""
            cursor = found.cursor
            if found.again:
                continue
            assert {str(n) for n, status in registry.versions.items() if status == "READY"} == versions
            assert champion == registry.aliases.get("champion", "")
            break


MOVED = {"driftd.moved.champion": '{"chain":["r0"],"from":"1","run":"r1"}'}


@pytest.mark.parametrize(
    ("tags", "previous", "credited", "chain"),
    [
        (MOVED, "1", "", ("r0", "r1")),
        (MOVED, "1", "r0", ("r0", "r1")),
        (MOVED, "1", "r1", None),  # the run's move was seen before: this one is somebody else's
        (MOVED, "3", "", None),  # the run had moved it from elsewhere
        ({}, "1", "", None),
        ({"driftd.moved.champion": "no JSON"}, "1", "", None),
        ({"driftd.moved.champion": "[]"}, "1", "", None),
        ({"driftd.moved.champion": '{"chain":[1],"from":"1","run":"r1"}'}, "1", "", None),
        ({"driftd.moved.champion": '{"chain":[],"from":"1","run":""}'}, "1", "", None),
    ],
)
def test_who_moved_an_alias_is_read_from_its_version(
    tags: dict[str, str], previous: str, credited: str, chain: tuple[str, ...] | None
) -> None:
    """A run's own move carries its chain, once; anything else counts as somebody else's."""
    mover = mover_of(tags, "champion", previous, credited)
    assert chain == (mover and mover.chain)


def _changed(desk: Desk, times: int) -> bool:
    return len(desk.events("model.alias_changed")) == times


def test_a_runs_own_move_carries_its_chain_once(
    registry: RegistryProcess, client: Any, name: str, clock: Clock, desk: Desk
) -> None:
    """On a real MLflow: the alias is moved by a run, taken back and moved again by somebody: one event has the chain."""
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, source="file:///nowhere")
    client.set_registered_model_alias(name, "champion", "1")
    source = MlflowSource(registry, {"churn": Model(task="binary", registered=name)}, 60, clock)
    with running(source, desk):
        eventually(lambda: desk.cursor(source.name))
        client.set_model_version_tag(name, "2", *next(iter(MOVED.items())))
        for count, version in enumerate(("2", "1", "2"), start=1):
            client.set_registered_model_alias(name, "champion", version)
            source.wake()
            eventually(partial(_changed, desk, count))
    assert desk.chains("model.alias_changed") == [("r0", "r1"), (), ()]


def test_a_real_registry_is_followed_through_all_its_changes(
    registry: RegistryProcess, client: Any, name: str, clock: Clock, desk: Desk
) -> None:
    """Registered, moved, deleted and made anew, on a real MLflow, with a poll woken by hand."""
    source = MlflowSource(registry, {"churn": Model(task="binary", registered=name)}, 60, clock)
    with running(source, desk):
        eventually(lambda: desk.cursor(source.name))
        client.create_registered_model(name)
        client.create_model_version(name, source="file:///nowhere", tags={"driftd.run": "r1"})
        client.set_registered_model_alias(name, "champion", "1")
        source.wake()
        eventually(lambda: desk.events("model.alias_changed"))
        assert [event["registered_by"] for event in desk.events("model.registered")] == ["r1"]
        client.create_model_version(name, source="file:///nowhere")
        client.delete_model_version(name, "1")
        source.wake()
        eventually(lambda: desk.events("model.deleted"))
        client.delete_registered_model(name)
        client.create_registered_model(name)
        client.create_model_version(name, source="file:///nowhere")
        source.wake()
        eventually(lambda: len(desk.events("model.registered")) == 3)
    assert [event["version"] for event in desk.events("model.registered")] == ["1", "2", "1"]
    assert len({event["created"] for event in desk.events("model.registered")}) == 2
    assert [event["version"] for event in desk.events("model.deleted")] == ["1", ""]
    assert [event["version"] for event in desk.events("model.alias_changed")] == ["1", ""]


def test_a_registry_that_goes_away_is_said_and_nothing_is_lost(
    registry: RegistryProcess, client: Any, name: str, clock: Clock, desk: Desk
) -> None:
    """Its process is killed again and again; what was registered meanwhile is told when it answers."""
    client.create_registered_model(name)
    source = MlflowSource(registry, {"churn": Model(task="binary", registered=name)}, 0.2, clock)
    with running(source, desk):
        eventually(lambda: desk.cursor(source.name))
        child = registry._child
        assert child is not None
        child._process.kill()
        eventually(lambda: "does not answer" in source.health().problem)
        client.create_model_version(name, source="file:///nowhere")
        eventually(lambda: desk.events("model.registered"))
        assert source.health().problem == ""
    assert desk.problems("registry") == []
