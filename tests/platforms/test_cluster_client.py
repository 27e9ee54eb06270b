"""The cluster client against a real API server: objects, preconditions, refusals with the server's words, and watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from daemon.clients import kubernetes
from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_errors import Absent, Exists, FieldsOwned, UnknownKind
from daemon.clients.kubernetes_mirror import Change
from daemon.clients.kubernetes_objects import Kind, Ref, uid_of, version_of
from daemon.clients.kubernetes_watch import Watch, Watched
from daemon.core.errors import Conflict, Refused, Unavailable
from daemon.platformparts import KubernetesConnection
from tests.cluster.admin import Admin
from tests.cluster.cluster import Cluster as Real

CONFIG = Kind("v1", "ConfigMap")
LONG = 60.0
WatchOf = Callable[..., Watch]


def config_map(name: str, **data: str) -> dict[str, Any]:
    """A ConfigMap of the client's own namespace."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture
def client(cluster: Real, namespace: str) -> Iterator[Cluster]:
    """The client as the administrator, in a namespace of the test's own."""
    made = Cluster(KubernetesConnection(kubeconfig=cluster.kubeconfig, namespace=namespace))
    yield made
    made.close()


@pytest.fixture
def watch_of(client: Cluster) -> Iterator[WatchOf]:
    """Starts a watch of the ConfigMaps that are not the cluster's own."""
    started: list[Watch] = []

    def start(on_changes: Callable[[Sequence[Change]], None] = lambda _changes: None, **more: Any) -> Watch:
        quiet = more.pop("quiet", 75.0)
        watch = Watch(client, Watched(CONFIG, labels="!cluster", **more), on_changes, quiet=quiet)
        started.append(watch)
        watch.start()
        assert watch.wait_synced(LONG), watch.standing
        return watch

    yield start
    for watch in started:
        watch.stop()


def test_an_object_is_made_read_changed_and_removed(client: Cluster) -> None:
    """By its name, as a plain dict; a second removal says that there was none."""
    made = client.create(config_map("one", a="1"))
    ref = Ref(CONFIG, "one")
    changed = client.patch(ref, {"data": {"b": "2"}}, version_of(made))

    assert changed["data"] == {"a": "1", "b": "2"}
    assert client.get(ref) == changed
    assert [item["metadata"]["name"] for item in client.list(CONFIG, fields="metadata.name=one").items] == ["one"]
    assert (client.delete(ref), client.delete(ref), client.get(ref)) == (True, False, None)


def test_writes_hold_to_their_preconditions(client: Cluster) -> None:
    """Made twice, changed behind one's back, another object of the name, and none at all."""
    made = client.create(config_map("one"))
    ref = Ref(CONFIG, "one")
    client.patch(ref, {"data": {"a": "1"}})

    with pytest.raises(Exists):
        client.create(config_map("one"))
    with pytest.raises(Conflict):
        client.patch(ref, {"data": {"a": "2"}}, version_of(made))
    with pytest.raises(Conflict):
        client.delete(ref, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        client.delete(ref, version=version_of(made))
    with pytest.raises(Absent):
        client.patch(Ref(CONFIG, "none"), {"data": {}})
    assert client.delete(ref, uid=uid_of(made))


def test_unknown_fields_kinds_and_namespaces_are_refused(client: Cluster) -> None:
    """In the server's words: nothing that was written is silently dropped."""
    with pytest.raises(Refused, match='unknown field "dta"'):
        client.create({**config_map("one"), "dta": {}})
    with pytest.raises(UnknownKind, match=r"no Nonsense of example\.com/v1"):
        client.get(Ref(Kind("example.com/v1", "Nonsense"), "x"))
    with pytest.raises(Refused, match='namespaces "nowhere" not found'):
        client.create({**config_map("one"), "metadata": {"name": "one", "namespace": "nowhere"}})
    assert client.resource(Kind("batch/v1", "Job")) is not None
    assert client.resource(Kind("batch/v1", "Jbo")) is None


def test_an_applied_field_of_somebody_else_is_refused_with_its_owner(client: Cluster, admin: Admin) -> None:
    """And left alone, until it is taken by force."""
    path = f"/api/v1/namespaces/{client.namespace}/configmaps"
    admin.apply({**config_map("one", a="theirs"), "metadata": {"name": "one", "namespace": client.namespace}}, "team-b")
    with pytest.raises(FieldsOwned, match=r"\.data\.a is owned by team-b"):
        client.apply(config_map("one", a="ours"))

    assert admin.get(f"{path}/one")["data"] == {"a": "theirs"}
    assert client.apply(config_map("one", a="ours"), force=True)["data"] == {"a": "ours"}
    assert client.apply(config_map("one", b="ours"))["data"] == {"b": "ours"}


def test_lists_come_page_by_page(client: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, each once, each with its kind."""
    for number in range(7):
        client.create(config_map(f"m-{number}"))
    monkeypatch.setattr(kubernetes, "PAGE", 3)
    found = client.list(CONFIG)

    assert {f"m-{number}" for number in range(7)} <= {item["metadata"]["name"] for item in found.items}
    assert {item["kind"] for item in found.items} == {"ConfigMap"}


def test_who_may_not_is_told_so(cluster: Real, namespace: str) -> None:
    """A service account without a role, and a token that nobody knows."""
    account = Cluster(KubernetesConnection(kubeconfig=cluster.kubeconfig_of(namespace, "default"), namespace=namespace))
    with pytest.raises(Refused, match="cannot create resource"):
        account.create(config_map("one"))
    account.close()


def test_no_answer_is_unavailable_within_its_time(cluster: Real, namespace: str) -> None:
    """An API server that hangs costs the request's own time, not more; one that is closed for good costs none."""
    one = Cluster(
        KubernetesConnection.model_validate({"kubeconfig": cluster.kubeconfig, "namespace": namespace, "timeout": "1s"})
    )
    one.get(Ref(CONFIG, "x"))
    cluster.api_server.freeze()
    try:
        with pytest.raises(Unavailable, match="no answer"):
            one.get(Ref(CONFIG, "x"))
    finally:
        cluster.api_server.thaw()
    one.close()
    with pytest.raises(Unavailable, match="stopping"):
        one.get(Ref(CONFIG, "x"))


def test_a_watch_mirrors_what_happens(client: Cluster, watch_of: WatchOf) -> None:
    """What was there, what is made, changed and removed; each change is heard once, in order."""
    client.create(config_map("before"))
    heard: list[tuple[str, bool]] = []

    def hear(changes: Sequence[Change]) -> None:
        heard.extend(((now or before or {})["metadata"]["name"], now is not None) for before, now in changes)

    watch = watch_of(hear)
    client.create(config_map("after", a="1"))
    client.patch(Ref(CONFIG, "after"), {"data": {"a": "2"}})
    assert watch.wait(lambda: (watch.get("after") or {}).get("data") == {"a": "2"}, LONG)
    client.delete(Ref(CONFIG, "before"))
    assert watch.wait(lambda: watch.get("before") is None, LONG)

    mine = [one for one in heard if one[0] in {"before", "after"}]
    assert mine == [("before", True), ("after", True), ("after", True), ("before", False)]
    assert (watch.complete, watch.standing.problem) == (True, "")


def test_a_watch_outlives_its_api_server(cluster: Real, client: Cluster, watch_of: WatchOf) -> None:
    """Killed and restarted: what was changed meanwhile, and what is changed after, is seen; until then it says why not."""
    watch = watch_of()
    client.create(config_map("kept"))
    client.create(config_map("gone"))
    assert watch.wait(lambda: watch.get("gone") is not None, LONG)
    cluster.api_server.kill()
    assert watch.wait(lambda: bool(watch.standing.problem), LONG)
    assert watch.get("gone") is not None
    cluster.start_api_server()
    client.delete(Ref(CONFIG, "gone"))
    client.create(config_map("new"))

    assert watch.wait(lambda: watch.get("gone") is None and watch.get("new") is not None, LONG), watch.standing
    assert watch.get("kept") is not None
    assert watch.standing.problem == ""


def test_a_version_that_is_too_old_is_listed_anew(cluster: Real, client: Cluster, watch_of: WatchOf) -> None:
    """As after an outage that was longer than the server remembers: what was missed is told as changes, and only that."""
    cluster.api_server.kill()
    cluster.start_api_server()  # a fresh one remembers nothing from before its start
    client.create(config_map("old"))
    heard: list[str] = []
    watch = watch_of(lambda changes: heard.extend(now["metadata"]["name"] for _, now in changes if now is not None))
    assert watch.wait(lambda: watch._stream is not None, LONG)
    stream, watch._mirror.version = watch._stream, "1"
    assert stream is not None
    stream.cut()  # the watch asks to go on from where it believes to be
    assert watch.wait(lambda: watch._mirror.version != "1" and not watch.standing.problem, LONG)
    client.create(config_map("new"))

    assert watch.wait(lambda: watch.get("new") is not None, LONG)
    assert (heard.count("old"), heard.count("new")) == (1, 1)


def test_a_watch_of_an_unknown_kind_waits_for_it(client: Cluster) -> None:
    """It says so, and is not taken for one that sees nothing because there is nothing."""
    watch = Watch(client, Watched(Kind("example.com/v1", "Nonsense")))
    watch.start()

    assert watch.wait(lambda: not watch.served, 10) or not watch.served
    assert (watch.complete, "no Nonsense" in watch.standing.problem) == (False, True)
    watch.stop()


def test_a_silent_stream_is_begun_anew(client: Cluster, watch_of: WatchOf) -> None:
    """A connection that may be dead is not waited on: that is no trouble, and nothing is missed."""
    watch = watch_of(quiet=0.5)
    before = client.requests
    pause = threading.Event()
    for _ in range(100):
        if client.requests >= before + 2:
            break
        pause.wait(0.1)
    client.create(config_map("later"))

    assert client.requests >= before + 2
    assert watch.wait(lambda: watch.get("later") is not None, LONG)


def test_a_watch_that_is_stopped_ends_at_once(client: Cluster, watch_of: WatchOf) -> None:
    """Though its stream would go on for minutes."""
    watch = watch_of()
    watch.stop(LONG)

    assert not watch._thread.is_alive()
