"""A Node object as the API server writes it -> what it offers, and what keeps work away from it. Pure.

The truth about GPUs is `status.allocatable`: labels go stale when the device plugin dies, and `status.capacity` keeps the
number that the node had. The truth about the node is its Ready condition: Unknown when its kubelet has not been heard of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from daemon.clients.kubernetes_objects import Object, labels_of
from daemon.core.nodes import Hurdle, Seen
from daemon.nodeparts import NodesSource

_KEEPING_AWAY = frozenset({"NoSchedule", "NoExecute"})
_CORDONED = "node.kubernetes.io/unschedulable"
_OF_READY = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""Taints that repeat what the Ready condition says."""


def project(node: Object) -> Object:
    """What is kept of a node: the rest (images, addresses, annotations) is long and says nothing here."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    return {
        "metadata": {name: metadata.get(name) for name in ("name", "uid", "resourceVersion", "labels")},
        "spec": {name: spec.get(name) for name in ("unschedulable", "taints")},
        "status": {name: status.get(name) for name in ("allocatable", "capacity", "conditions")},
    }


def counts(node: Object, config: NodesSource) -> bool:
    """Whether it is a GPU node, or all nodes are watched."""
    capacity = _amounts((node.get("status") or {}).get("capacity"), config.resources)
    return config.all_nodes or any(capacity.values()) or config.product_label in labels_of(node)


def seen(node: Object, config: NodesSource) -> Seen:
    """How the node stands."""
    status, labels = node.get("status") or {}, labels_of(node)
    memory = labels.get(config.memory_label, "")
    return Seen(
        _hurdle(node, config),
        _amounts(status.get("allocatable"), config.resources),
        _amounts(status.get("capacity"), config.resources),
        labels.get(config.product_label, ""),
        int(memory) if memory.isascii() and memory.isdigit() else None,
    )


def _amounts(found: Mapping[str, Any] | None, resources: tuple[str, ...]) -> dict[str, int]:
    """Devices are counted in whole numbers; what is none is not there."""
    amounts = {resource: str((found or {}).get(resource, "")) for resource in resources}
    return {resource: int(amount) for resource, amount in amounts.items() if amount.isascii() and amount.isdigit()}


def _hurdle(node: Object, config: NodesSource) -> Hurdle | None:
    """What keeps work away, the worst first."""
    spec = node.get("spec") or {}
    conditions = {str(one.get("type")): one for one in (node.get("status") or {}).get("conditions") or ()}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "Unknown":
        return Hurdle("unreachable", _said("its kubelet has not been heard of", ready), "Ready")
    if ready.get("status") != "True":
        return Hurdle("not ready", _said("its kubelet is not ready", ready), "Ready")
    for bad in config.conditions:
        found = conditions.get(bad.type)
        if found is None or found.get("status") != bad.bad:
            continue
        if bad.reason and not re.search(bad.reason, str(found.get("reason", ""))):
            continue
        return Hurdle("condition", _said(f"condition {bad.type} is {bad.bad}", found), bad.type)
    taints = [one for one in spec.get("taints") or () if one.get("effect") in _KEEPING_AWAY]
    if spec.get("unschedulable") or any(one.get("key") == _CORDONED for one in taints):
        return Hurdle("cordoned", "somebody has cordoned it")
    for taint in taints:
        key = str(taint.get("key"))
        if key not in config.tolerate and key not in _OF_READY:
            value = f"={taint['value']}" if taint.get("value") else ""
            return Hurdle("tainted", f"taint {key}{value}:{taint.get('effect')} keeps work away", key)
    return None


def _said(what: str, condition: Mapping[str, Any]) -> str:
    told = ": ".join(str(condition[name]) for name in ("reason", "message") if condition.get(name))
    return f"{what} ({told})" if told else what
