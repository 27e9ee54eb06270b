"""Nodes as the API server writes them: what they offer, what keeps work away, and many of them followed at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.events import Event
from daemon.core.schema import check_data
from daemon.nodeparts import NodesSource as NodesConfig
from daemon.sources.nodes import Fleet
from daemon.sources.nodestate import counts, project, seen
from tests.builders import at

GPU = "nvidia.com/gpu"
CONFIG = NodesConfig(kind="nodes")


def node(name: str = "n", gpus: int | None = 8, ready: str = "True", **how: Any) -> dict[str, Any]:
    """A Node object; `how`: labels, taints, unschedulable, capacity, conditions (type -> status)."""
    conditions = [{"type": "Ready", "status": ready, "reason": "Because", "message": "told"}]
    conditions += [
        {"type": one, "status": status, "reason": "NvidiaXID79Error"}
        for one, status in how.get("conditions", {}).items()
    ]
    amounts = {} if gpus is None else {GPU: str(gpus)}
    spec = {name: how[name] for name in ("taints", "unschedulable") if name in how}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "managedFields": [],
                     "labels": how.get("labels", {"nvidia.com/gpu.product": "A100", "nvidia.com/gpu.memory": "40960"})},
        "spec": spec,
        "status": {"allocatable": {"cpu": "8", **amounts}, "capacity": {"cpu": "8", GPU: str(how.get("capacity", gpus or 0))},
                   "conditions": conditions, "images": [{"names": ["x"]}]},
    }  # fmt: skip


def taint(key: str, effect: str = "NoSchedule", value: str = "") -> dict[str, str]:
    """A taint of a node."""
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


@pytest.mark.parametrize(
    ("found", "reason", "why"),
    [
        (node(), "", ""),
        (node(ready="Unknown"), "unreachable", "its kubelet has not been heard of (Because: told)"),
        (node(ready="False"), "not ready", "its kubelet is not ready (Because: told)"),
        (node(ready="Unknown", unschedulable=True), "unreachable", "its kubelet has not been heard of (Because: told)"),
        (node(unschedulable=True), "cordoned", "somebody has cordoned it"),
        (node(taints=[taint("node.kubernetes.io/unschedulable")]), "cordoned", "somebody has cordoned it"),
        (node(taints=[taint("nvidia.com/gpu", value="present")]), "", ""),
        (node(taints=[taint("dedicated", "PreferNoSchedule")]), "", ""),
        (node(taints=[taint("ToBeDeletedByClusterAutoscaler", value="1")]), "tainted",
         "taint ToBeDeletedByClusterAutoscaler=1:NoSchedule keeps work away"),
        (node(taints=[taint("node.kubernetes.io/not-ready")]), "", ""),
        (node(conditions={"AcceleratedHardwareReady": "True", "GPUMissing": "False"}), "", ""),
        (node(conditions={"AcceleratedHardwareReady": "False"}), "condition",
         "condition AcceleratedHardwareReady is False (NvidiaXID79Error)"),
        (node(conditions={"NebiusGPUError": "True"}), "condition", "condition NebiusGPUError is True (NvidiaXID79Error)"),
    ],
)  # fmt: skip
def test_what_keeps_work_away(found: dict[str, Any], reason: str, why: str) -> None:
    """The Ready condition first, then vendors' conditions, the cordon, and taints that nothing tolerates."""
    state = seen(project(found), CONFIG)
    assert (state.reason, state.hurdle.why if state.hurdle else "") == (reason, why)
    assert (state.gpus, state.capacity, state.product, state.memory_mb) == ({GPU: 8}, {GPU: 8}, "A100", 40960)


def test_a_vendor_s_condition_counts_with_its_reason_only() -> None:
    """Type, bad status and reason are configurable: of an XID that one may live with nothing is told."""
    condition = {"type": "AcceleratedHardwareReady", "bad": "False", "reason": "XID(48|95)"}
    config = NodesConfig.model_validate({"kind": "nodes", "conditions": [condition]})
    assert seen(node(conditions={"AcceleratedHardwareReady": "False"}), config).hurdle is None
    other = config.model_copy(update={"conditions": (config.conditions[0].model_copy(update={"reason": "XID79"}),)})
    assert seen(node(conditions={"AcceleratedHardwareReady": "False"}), other).reason == "condition"


def test_which_nodes_count() -> None:
    """Those with GPUs, or the label of one; all of them when that is said."""
    assert counts(node(), CONFIG)
    assert counts(node(gpus=None), CONFIG)
    assert not counts(node(gpus=None, labels={}), CONFIG)
    assert counts(node(gpus=None, labels={}), CONFIG.model_copy(update={"all_nodes": True}))
    assert counts(node(gpus=0, capacity=8, labels={}), CONFIG)


def told(events: Sequence[Event]) -> list[tuple[str, str, object]]:
    """Type, node, and reason or change."""
    return [(one.type, one.subject, one.data.get("reason", one.data.get("change"))) for one in events]


def test_where_watching_begins_nothing_is_told() -> None:
    """Without a stored state the first list is how things stand; from then on what differs is told, over restarts too."""
    fleet = Fleet("gpus", CONFIG, None)
    fleet.begin({"a": node("a"), "b": node("b", ready="Unknown"), "cpu": node("cpu", None, labels={})}, at(0))
    assert fleet.settle(at(1000)) == ()
    assert sorted(fleet.cursor["nodes"]) == ["a", "b"]
    again = Fleet("gpus", CONFIG, fleet.cursor)
    again.begin({"b": node("b"), "c": node("c")}, at(2000))
    events = again.settle(at(3000))
    assert told(events) == [
        ("node.ready", "b", None), ("node.ready", "c", None), ("gpu.capacity_changed", "c", 8),
        ("node.lost", "a", "deleted"), ("gpu.capacity_changed", "a", -8),
    ]  # fmt: skip
    assert sorted(again.cursor["nodes"]) == ["b", "c"]
    assert Fleet("gpus", CONFIG, again.cursor).cursor == again.cursor


def test_every_event_is_as_the_catalogue_says() -> None:
    """All fields with their types; each event has a name of its own, also when a node of that name comes again."""
    fleet = Fleet("gpus", CONFIG, None)
    fleet.begin({"a": node("a")}, at(0))
    events: list[Event] = []
    for round_, found in enumerate([node("a", 7), None, node("a"), node("a", conditions={"GPUMissing": "True"})]):
        fleet.look("a", found, at(1000 * round_ + 1000))
        events += fleet.settle(at(1000 * round_ + 1500))
    for event in events:
        assert list(check_data(event.type, event.data)) == []
    assert len({event.id for event in events}) == len(events) == 6


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 50), st.sampled_from(["a", "b", "c"]),
        st.sampled_from([node(), node(gpus=7), node(ready="Unknown"), node(unschedulable=True), None]),
    ),
    max_size=12,
)  # fmt: skip


@given(changes=CHANGES, seed=st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_are_heard_of_does_not_matter(changes: list[tuple[int, str, Any]], seed: Any) -> None:
    """Changes of one moment in any order between nodes, and nodes alone, give each node the same events."""
    moments: list[tuple[int, str, Any]] = []
    now = 0
    for gap, name, found in changes:
        now += gap
        moments.append((now, name, found))

    def lived(course: list[tuple[int, str, Any]], names: str = "abc") -> dict[str, list[tuple[str, Any]]]:
        fleet = Fleet("gpus", CONFIG, None)
        fleet.begin({name: node() for name in names}, at(0))
        found: list[Event] = []
        for when, name, state in course:
            found += fleet.settle(at(when))
            fleet.look(name, state, at(when))
        found += fleet.settle(at(9000))
        return {name: [(one.type, dict(one.data)) for one in found if one.subject == name] for name in names}

    together = lived(moments)
    last = {(when, name): state for when, name, state in moments}
    shuffled = [(when, name, state) for (when, name), state in last.items()]
    seed.shuffle(shuffled)
    shuffled.sort(key=lambda one: one[0])
    ordered = [(when, name, state) for (when, name), state in last.items()]
    assert lived(ordered) == lived(shuffled)
    for name in "abc":
        assert lived([one for one in moments if one[1] == name], name)[name] == together[name]


def test_it_is_known_when_something_counts_next() -> None:
    """The earliest of all nodes' timers; none while nothing differs."""
    fleet = Fleet("gpus", CONFIG, None)
    fleet.begin({"a": node("a"), "b": node("b")}, at(0))
    assert fleet.next_due() is None
    fleet.look("a", node("a", ready="False"), at(10))
    fleet.look("b", node("b", 16), at(20))
    assert fleet.next_due() == at(20) + timedelta(seconds=30)
