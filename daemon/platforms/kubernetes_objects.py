"""Objects that an approved template describes, made so by server-side apply with driftd's field manager.

Who applies says all the fields it cares for and owns them; a field that another manager owns is left to it, and the apply
is refused (Kubernetes documentation, "Server-Side Apply"). So two who want different things never take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_objects import ref_of, uid_of, version_of
from daemon.core.errors import Conflict, Refused
from daemon.platforms.base import Applied
from daemon.platforms.marks import MANAGED, Teller, Told, is_managed, marked


class KubernetesObjects:
    """The Objects protocol in a cluster. Safe to use from any thread."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._teller = Teller(cluster, clock)

    def apply(self, wanted: Mapping[str, Any], origin: Mapping[str, str]) -> Applied:
        """See Objects. Conflict when what is read back is not what was applied: somebody changed it at once."""
        named = marked(wanted, str(wanted["metadata"]["name"]), origin)
        ref = ref_of(named)
        before = self._cluster.get(ref)
        if before is not None and not is_managed(before):
            hint = f"to let driftd have it, label it {MANAGED}=driftd"
            raise Refused("objects", "apply", f"{ref} is there, and is not driftd's: it is left alone", hint)
        applied = self._cluster.apply(named)
        read = self._cluster.get(ref)
        if read is None or uid_of(read) != uid_of(applied):
            raise Conflict("objects", "read_back", f"{ref} was applied, and somebody removed it at once")
        missing = sorted(differences(named, read))
        if missing:
            raise Conflict(
                "objects", "read_back", f"{ref} was applied, and reads otherwise at {', '.join(missing[:5])}"
            )
        changed = before is None or version_of(before) != version_of(read)
        if changed:
            why = ", ".join(f"{key} {value}" for key, value in origin.items() if value)
            self._teller.tell(read, Told("Applied", f"driftd applied this for {why}"), origin.get("call", ""))
        return Applied(str(ref_of(read)), uid_of(read), version_of(read), before is None, changed)


def differences(wanted: Any, read: Any, where: str = "") -> set[str]:
    """Where an object that was read lacks what was wanted. It may have more; quantities and lists of objects that the
    server completes are compared by what was said of them, item by item.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(read, Mapping):
            return {where}
        return {found for key, one in wanted.items() for found in differences(one, read.get(key), f"{where}.{key}")}
    if isinstance(wanted, list):
        if not isinstance(read, list) or len(read) < len(wanted):
            return {where}
        return {
            found for index, one in enumerate(wanted) for found in differences(one, read[index], f"{where}[{index}]")
        }
    if wanted is None or wanted == read or str(wanted) == str(read):
        return set()
    return {where}
