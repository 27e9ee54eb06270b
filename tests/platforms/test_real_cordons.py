"""The verbs cordon and uncordon, as handlers, on nodes of a real API server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.kubernetes import Cluster as Client
from daemon.config import Config
from daemon.context import LiveContext, Services
from daemon.core.calls import Call, Done, Failed, Outcome
from daemon.platformparts import KubernetesConnection
from daemon.platforms.kubernetes_nodes import CORDONED, KubernetesNodes
from daemon.store.sqlite import SqliteStore
from daemon.verbs import load_verbs
from tests.builders import landed
from tests.cluster import playing
from tests.cluster.admin import Admin

MUST_NOT_BE_ASKED: Any = None


class Hand:
    """The verbs over one node of the cluster."""

    def __init__(self, admin: Admin, client: Client, home: Path) -> None:
        self.admin = admin
        self.node = f"n-{uuid.uuid4().hex[:8]}"
        self.path = f"/api/v1/nodes/{self.node}"
        playing.node(admin, self.node, 8)
        nodes = KubernetesNodes(client, lambda: datetime.now(UTC))
        nothing = MUST_NOT_BE_ASKED
        self.store = SqliteStore(home / "store.db")
        self.store.lead()
        services = Services(
            Config(home=home), nothing, nothing, nothing, self.store, {}, lambda: datetime.now(UTC), nodes=nodes
        )
        self.context = LiveContext(services, "run-1")

    def does(self, verb: str, call: str = "c1", node: str = "") -> Outcome:
        """One call of a verb."""
        due = datetime.now(UTC) + timedelta(minutes=5)
        inputs = {"node": node or self.node}
        made = Call(call, "run-1", 0, verb, "churn", inputs, {}, {}, landed(1), 0, due, ("run-1",), "r")
        return load_verbs()[verb].run(made, self.context)

    def found(self) -> dict[str, Any]:
        """The node as it is."""
        return self.admin.get(self.path)

    def cordoned(self) -> bool:
        """Whether pods are kept away."""
        return bool(self.found()["spec"].get("unschedulable"))

    def events(self) -> list[str]:
        """The reasons of the Kubernetes Events on the node."""
        found = self.admin.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        return [one["reason"] for one in found if one["regarding"]["name"] == self.node]


@pytest.fixture
def hand(admin: Admin, account: Path, tmp_path: Path) -> Iterator[Hand]:
    """A node of the test's own; the verbs have the rights that driftd asks for, no others."""
    client = Client(KubernetesConnection(kubeconfig=account))
    made = Hand(admin, client, tmp_path)
    yield made
    admin.delete(made.path)
    made.store.close()
    client.close()


def test_a_cordon_and_its_end(hand: Hand) -> None:
    """The node is unschedulable and says whose doing that is, then schedulable again without a trace; each is told on it once."""
    done = hand.does("cordon")
    assert isinstance(done, Done)
    assert done.answers[0].result["changed"] is True
    assert hand.cordoned()
    assert hand.found()["metadata"]["annotations"][CORDONED] == "c1"
    again = hand.does("cordon")
    assert isinstance(again, Done)
    assert again.answers[0].result["changed"] is False
    assert isinstance(hand.does("uncordon", "c2"), Done)
    assert not hand.cordoned()
    assert CORDONED not in hand.found()["metadata"].get("annotations", {})
    assert isinstance(hand.does("uncordon", "c2"), Done)
    assert hand.events() == ["Cordoned", "Uncordoned"]


def test_somebody_else_s_cordon_is_left_alone(hand: Hand) -> None:
    """It is no reason to fail for who wants it cordoned, and not driftd's to take away."""
    hand.admin.merge(hand.path, {"spec": {"unschedulable": True}})
    assert isinstance(hand.does("cordon"), Done)
    refused = hand.does("uncordon", "c2")
    assert isinstance(refused, Failed)
    assert "somebody else" in refused.why
    assert hand.cordoned()
    assert hand.events() == []


def test_there_is_no_such_node(hand: Hand) -> None:
    """It fails and says so."""
    failed = hand.does("cordon", node="nowhere")
    assert isinstance(failed, Failed)
    assert "there is no node 'nowhere'" in failed.why


def test_a_write_of_somebody_else_in_between(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet that writes the node between read and write costs another try, never its own write."""
    original = KubernetesNodes._found
    writes = iter([True, True])

    def found(nodes: KubernetesNodes, node: str) -> Any:
        read = original(nodes, node)
        if next(writes, False):
            hand.admin.merge(hand.path, {"metadata": {"labels": {"beat": uuid.uuid4().hex[:8]}}})
        return read

    monkeypatch.setattr(KubernetesNodes, "_found", found)
    assert isinstance(hand.does("cordon"), Done)
    assert hand.cordoned()
