"""Nodes of a real API server: they join, are cordoned, lose GPUs, flap, are out of reach, and change while driftd is down.

A GPU node needs no device: what its kubelet and its device plugin would say is written into its status by the test.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.nodeparts import NodesSource as NodesConfig
from daemon.platformparts import KubernetesConnection
from daemon.sources.nodes import NodesSource
from tests.cluster import playing
from tests.cluster.admin import Admin
from tests.cluster.cluster import Cluster
from tests.contract.desk import Desk, eventually, running

LABELS = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}


class Rack:
    """Nodes of one test among those of others: a label tells them."""

    def __init__(self, admin: Admin, kubeconfig: Path, desk: Desk) -> None:
        self.admin = admin
        self.desk = desk
        self.rack = uuid.uuid4().hex[:8]
        self.connection = KubernetesConnection(kubeconfig=kubeconfig)
        self.names: list[str] = []

    def source(self, **how: Any) -> NodesSource:
        """The source that watches them; losses count at once unless it is said otherwise."""
        config = {"kind": "nodes", "labels": f"rack={self.rack}", "settle": "0s", "ready_after": "0s", **how}
        return NodesSource("gpus", NodesConfig.model_validate(config), self.connection, lambda: datetime.now(UTC))

    def name(self, short: str) -> str:
        """The node's name in the cluster."""
        return f"{short}-{self.rack}"

    def node(self, short: str, gpus: int = 8) -> None:
        """A ready node with so many GPUs."""
        self.names.append(self.name(short))
        playing.node(self.admin, self.name(short), gpus, {"rack": self.rack, **LABELS})

    def gpus(self, short: str, capacity: int, allocatable: int, ready: bool = True) -> None:
        """What the node says of its GPUs, and whether it is ready."""
        playing.node_status(self.admin, self.name(short), capacity, allocatable, ready)

    def patch(self, short: str, body: dict[str, Any]) -> None:
        """Merge into the node."""
        self.admin.merge(f"/api/v1/nodes/{self.name(short)}", body)

    def silent(self, short: str) -> None:
        """What the node controller writes when a kubelet has not been heard of."""
        condition = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
        }
        self.admin.merge(f"/api/v1/nodes/{self.name(short)}/status", {"status": {"conditions": [condition]}})

    def delete(self, short: str) -> None:
        """The node goes."""
        self.admin.delete(f"/api/v1/nodes/{self.name(short)}")

    def told(self) -> list[tuple[str, str, Any]]:
        """What was stored: type, node, and its reason, change, or what it was."""
        kinds = ("node.lost", "node.ready", "gpu.capacity_changed")
        return [
            (kind, data["node"].split("-")[0], data.get("reason", data.get("change", data.get("was"))))
            for kind in kinds
            for data in self.desk.events(kind)
        ]

    def waits_for(self, *events: tuple[str, str, Any]) -> None:
        """Until just these were told, in any order between types."""
        eventually(lambda: len(self.told()) >= len(events))
        assert sorted(self.told(), key=str) == sorted(events, key=str)

    def watched(self) -> None:
        """Until the source has stored what it first saw."""
        eventually(lambda: self.desk.cursor("nodes:gpus") is not None)


@pytest.fixture
def rack(admin: Admin, account: Path, tmp_path: Path) -> Iterator[Rack]:
    """Nodes that go when the test ends, and a desk that takes events."""
    desk = Desk(tmp_path)
    made = Rack(admin, account, desk)
    yield made
    for name in made.names:
        admin.delete(f"/api/v1/nodes/{name}")
    desk.close()


def test_a_node_joins(rack: Rack) -> None:
    """A node that appears without GPUs, not ready, is told when it takes work, and its GPUs when its plugin counts them."""
    rack.node("old")
    with running(rack.source(), rack.desk):
        rack.watched()
        rack.names.append(rack.name("new"))
        rack.admin.apply(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": rack.name("new"), "labels": {"rack": rack.rack}}}
        )
        rack.patch("new", {"metadata": {"labels": LABELS}})
        rack.gpus("new", 0, 0, ready=False)
        rack.gpus("new", 0, 0)
        rack.waits_for(("node.ready", "new", ""))
        rack.gpus("new", 8, 8)
        rack.waits_for(("node.ready", "new", ""), ("gpu.capacity_changed", "new", 8))
    (ready,) = rack.desk.events("node.ready")
    assert (ready["product"], ready["memory_mb"], ready["new"]) == ("NVIDIA-A100-SXM4-80GB", 81920, True)


def test_a_node_is_drained_and_comes_back(rack: Rack) -> None:
    """A cordon is a loss with its reason (the API server adds the taint itself); taking it away is told too."""
    rack.node("a")
    with running(rack.source(), rack.desk):
        rack.watched()
        rack.patch("a", {"spec": {"unschedulable": True}})
        rack.waits_for(("node.lost", "a", "cordoned"))
        rack.patch("a", {"spec": {"unschedulable": None}})
        rack.waits_for(("node.lost", "a", "cordoned"), ("node.ready", "a", "cordoned"))


def test_a_node_loses_gpus_and_goes_silent(rack: Rack) -> None:
    """A broken GPU is missing in what is allocatable; a kubelet that is not heard of is a loss of the node; then it is deleted."""
    rack.node("a")
    with running(rack.source(), rack.desk):
        rack.watched()
        rack.gpus("a", 8, 7)
        rack.waits_for(("gpu.capacity_changed", "a", -1))
        rack.silent("a")
        rack.waits_for(("gpu.capacity_changed", "a", -1), ("node.lost", "a", "unreachable"))
        rack.delete("a")
        eventually(lambda: rack.desk.cursor("nodes:gpus")["nodes"] == {})
    (first, last) = rack.desk.events("gpu.capacity_changed")
    assert (first["capacity"], first["allocatable"], first["usable"]) == (8, 7, True)
    assert (last["allocatable"], last["previous"]) == (0, 7)
    (lost,) = rack.desk.events("node.lost")
    assert lost["why"] == (
        "its kubelet has not been heard of (NodeStatusUnknown: Kubelet stopped posting node status.)"
    )
    assert (lost["gpus"], lost["condition"]) == (7, "Ready")


def test_flapping_is_not_told(rack: Rack) -> None:
    """A kubelet that restarts takes node and GPUs away for a moment, again and again: nothing is told but what stays."""
    rack.node("a")
    rack.node("b")
    with running(rack.source(settle="2m", ready_after="0s"), rack.desk):
        rack.watched()
        for _ in range(5):
            rack.gpus("a", 0, 0, ready=False)
            rack.gpus("a", 8, 8)
        rack.gpus("b", 16, 16)
        rack.waits_for(("gpu.capacity_changed", "b", 8))


def test_a_vendor_s_condition(rack: Rack) -> None:
    """A health check's condition is a loss, with its name and reason."""
    rack.node("a")
    with running(rack.source(), rack.desk):
        rack.watched()
        found = rack.admin.get(f"/api/v1/nodes/{rack.name('a')}")["status"]["conditions"]
        bad = {
            "type": "AcceleratedHardwareReady",
            "status": "False",
            "reason": "NvidiaXID79Error",
            "message": "fell off the bus",
        }
        rack.admin.merge(f"/api/v1/nodes/{rack.name('a')}/status", {"status": {"conditions": [*found, bad]}})
        rack.waits_for(("node.lost", "a", "condition"))
    (lost,) = rack.desk.events("node.lost")
    assert (lost["condition"], "NvidiaXID79Error" in lost["why"]) == ("AcceleratedHardwareReady", True)


def test_changes_while_driftd_was_down(rack: Rack) -> None:
    """What was told is stored: a node that went, one that came, and one that lost GPUs meanwhile are found at the start."""
    for short in ("goes", "stays", "breaks"):
        rack.node(short)
    with running(rack.source(), rack.desk):
        rack.watched()
    assert rack.told() == []
    rack.delete("goes")
    rack.node("comes")
    rack.gpus("breaks", 8, 6)
    rack.desk.reopen()
    with running(rack.source(), rack.desk):
        rack.waits_for(
            ("node.lost", "goes", "deleted"), ("gpu.capacity_changed", "goes", -8),
            ("node.ready", "comes", ""), ("gpu.capacity_changed", "comes", 8), ("gpu.capacity_changed", "breaks", -2),
        )  # fmt: skip
    told = rack.told()
    with running(source := rack.source(), rack.desk):
        eventually(lambda: source.health().alive_at is not None and not source.health().problem)
        rack.gpus("stays", 8, 5)
        rack.waits_for(*told, ("gpu.capacity_changed", "stays", -3))


def test_a_cluster_that_is_away(rack: Rack, restart: Callable[[], None]) -> None:
    """While the API server is down nothing is told of any node; when it is back, what changed is."""
    rack.node("a")
    with running(source := rack.source(), rack.desk):
        rack.watched()
        restart()
        rack.gpus("a", 8, 4)
        rack.waits_for(("gpu.capacity_changed", "a", -4))
        assert source.health().problem == ""


@pytest.fixture
def restart(cluster: Cluster) -> Callable[[], None]:
    """Kills the API server and starts it again."""

    def again() -> None:
        cluster.api_server.kill()
        cluster.start_api_server()

    return again


def test_who_may_not_watch_nodes_is_told(rack: Rack, cluster: Cluster, namespace: str) -> None:
    """Without the ClusterRole the health says what is missing, and a problem is stored."""
    rack.connection = KubernetesConnection(kubeconfig=cluster.kubeconfig_of(namespace, "default"))
    with running(source := rack.source(), rack.desk):
        eventually(lambda: "nodes" in source.health().problem)
        assert eventually(lambda: rack.desk.problems("kubernetes"))
    assert "forbidden" in rack.desk.problems("kubernetes")[0][1].lower()
