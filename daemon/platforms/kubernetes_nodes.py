"""Nodes taken out of service and given back: `spec.unschedulable`, with a mark of who did it.

A cordon that somebody else has made is left to them: driftd takes away its own only, which it knows by its annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_objects import Kind, Object, Ref, annotations_of, uid_of, version_of
from daemon.core.errors import Conflict, Refused
from daemon.platforms.base import Applied
from daemon.platforms.marks import PREFIX, Teller, Told

CORDONED = f"{PREFIX}cordoned"
"""The annotation of a node that driftd has cordoned: the call that did it."""
TRIES = 5
"""How often a write is tried again that somebody else's came before: a kubelet writes its node now and then."""
_NODE = Kind("v1", "Node")


class KubernetesNodes:
    """Cordons. Safe to use from any thread."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._teller = Teller(cluster, clock)

    def cordon(self, node: str, origin: Mapping[str, str]) -> Applied:
        """Keep new pods away from a node, and read it back; what runs there goes on. The same again changes nothing.

        A node that is cordoned already stays whose it is. Refused when there is no such node.
        """
        for _ in range(TRIES):
            found = self._found(node)
            if _cordoned(found):
                return _told(found, changed=False)
            mark = {CORDONED: origin.get("call", "")}
            change = {"metadata": {"annotations": mark}, "spec": {"unschedulable": True}}
            if self._written(found, change):
                return self._read_back(node, origin, wanted=True)
        raise Conflict("nodes", "cordon", f"node {node} was written by others {TRIES} times in a row")

    def uncordon(self, node: str, origin: Mapping[str, str]) -> Applied:
        """Take driftd's own cordon away, and read it back; one that is gone is gone. Refused when it is somebody else's."""
        for _ in range(TRIES):
            found = self._found(node)
            if not _cordoned(found) and CORDONED not in annotations_of(found):
                return _told(found, changed=False)
            if CORDONED not in annotations_of(found):
                raise Refused("nodes", "uncordon", f"node {node} was cordoned by somebody else: it is left alone")
            change = {"metadata": {"annotations": {CORDONED: None}}, "spec": {"unschedulable": None}}
            if self._written(found, change):
                return self._read_back(node, origin, wanted=False)
        raise Conflict("nodes", "uncordon", f"node {node} was written by others {TRIES} times in a row")

    def _found(self, node: str) -> Object:
        found = self._cluster.get(Ref(_NODE, node))
        if found is None:
            raise Refused("nodes", "get", f"there is no node {node!r}")
        return found

    def _written(self, found: Object, change: Mapping[str, object]) -> bool:
        """Whether the change was made to the node as it was found; False when somebody has written it meanwhile."""
        try:
            self._cluster.patch(Ref(_NODE, str(found["metadata"]["name"])), change, version_of(found))
        except Conflict:
            return False
        return True

    def _read_back(self, node: str, origin: Mapping[str, str], *, wanted: bool) -> Applied:
        read = self._found(node)
        if _cordoned(read) != wanted:
            raise Conflict("nodes", "read_back", f"node {node} was written, and somebody undid it at once")
        why = ", ".join(f"{key} {value}" for key, value in origin.items() if value)
        word = "Cordoned" if wanted else "Uncordoned"
        self._teller.tell(read, Told(word, f"driftd has {word.lower()} this node for {why}"), origin.get("call", ""))
        return _told(read, changed=True)


def _cordoned(found: Object) -> bool:
    return bool((found.get("spec") or {}).get("unschedulable"))


def _told(found: Object, *, changed: bool) -> Applied:
    name = str(found["metadata"]["name"])
    return Applied(str(Ref(_NODE, name)), uid_of(found), version_of(found), made=False, changed=changed)
