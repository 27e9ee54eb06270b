"""What a watch knows of a cluster's objects, and what to make of what it is told. No I/O: the watch does that.

The protocol (API concepts, "Efficient detection of changes"): a list names the resourceVersion of its moment, a watch from
there tells every later change, in order; bookmarks only say how far it is. Versions that are compacted away are answered
with 410, as a status or as an event in the stream: then only a new list helps, and what was deleted meanwhile is found by
its absence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from daemon.clients.kubernetes_errors import SERVICE, error_of
from daemon.clients.kubernetes_objects import Object
from daemon.core.errors import Unavailable

Project = Callable[[Object], Object]
"""What is kept of an object."""


class Change(NamedTuple):
    """An object before and after; None where there is none: made, changed or gone."""

    before: Object | None
    now: Object | None


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait before the next attempt: it doubles, up to a most, until something went well."""

    least: float = 0.5
    most: float = 30.0
    failures: int = 0

    def failed(self) -> Pause:
        """After one more attempt that failed."""
        return Pause(self.least, self.most, self.failures + 1)

    def went_well(self) -> Pause:
        """After one that did not."""
        return Pause(self.least, self.most)

    def seconds(self, luck: float) -> float:
        """How long; `luck` in [0, 1) spreads many clients that lost the same server, by half."""
        if not self.failures:
            return 0.0
        longest = min(self.most, self.least * 2.0 ** min(self.failures - 1, 30))
        return longest * (0.5 + luck / 2)


def without_managers(found: Object) -> Object:
    """All but the record of field managers, which is often the longest part."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": metadata}


class Mirror:
    """A copy of the objects of a kind, bounded. Not safe to use from several threads: the watch holds a lock."""

    def __init__(
        self, limit: int, project: Project = without_managers, group: Callable[[Object], str] | None = None
    ) -> None:
        self._limit = limit
        self._project = project
        self._group_of = group
        self._groups: dict[str, dict[tuple[str, str], Object]] = {}
        self._objects: dict[tuple[str, str], Object] = {}
        self._left_out: set[tuple[str, str]] = set()
        self.version = ""
        """The resourceVersion up to which it is complete; empty: list anew."""

    @property
    def left_out(self) -> int:
        """How many objects there were no room for (counted up to as many as there is room for)."""
        return len(self._left_out)

    def get(self, namespace: str, name: str) -> Object | None:
        """The object as it was last told."""
        return self._objects.get((namespace, name))

    def group(self, value: str) -> tuple[Object, ...]:
        """Those of one group."""
        return tuple(self._groups.get(value, {}).values())

    def objects(self) -> tuple[Object, ...]:
        """All of them."""
        return tuple(self._objects.values())

    def replaced(self, items: Iterable[Object], version: str) -> tuple[Change, ...]:
        """A new list is the truth: what changed by it, what is missing in it is gone."""
        before, self._objects, self._left_out, self._groups = self._objects, {}, set(), {}
        changes = []
        for item in items:
            key = _key(item)
            known = before.pop(key, None)
            kept = self._kept(key, item)
            if kept is not None and (known is None or _version(known) != _version(kept)):
                changes.append(Change(known, kept))
        changes.extend(Change(gone, None) for gone in before.values())
        self.version = version
        return tuple(changes)

    def told(self, event: Mapping[str, Any]) -> Change | None:
        """One event of the stream: what changed by it. Raises Expired or another ClientError when the event is an error."""
        kind, found = event.get("type"), event.get("object")
        if not isinstance(found, Mapping):
            raise Unavailable(SERVICE, "watch", f"an event without an object: {str(event)[:200]}")
        if kind == "ERROR":
            raise error_of("watch", int(found.get("code") or 500), found)
        version = _version(found)
        if kind == "BOOKMARK":
            self.version = version
            return None
        key = _key(found)
        before = self._objects.get(key)
        if before is not None and kind != "DELETED" and _version(before) == version:
            self.version = version  # a server that still remembers tells again what was known before
            return None
        self._ungroup(key, before)
        now = None
        if kind == "DELETED":
            self._objects.pop(key, None)
            self._left_out.discard(key)
        elif kind in {"ADDED", "MODIFIED"}:
            now = self._kept(key, found)
        else:
            raise Unavailable(SERVICE, "watch", f"an event of an unknown type {kind!r}")
        self.version = version
        return Change(before, now) if before is not None or now is not None else None

    def _kept(self, key: tuple[str, str], found: Object) -> Object | None:
        """Keep it if there is room for it: what is known already stays known."""
        if key not in self._objects and len(self._objects) >= self._limit:
            if len(self._left_out) < self._limit:
                self._left_out.add(key)
            return None
        self._left_out.discard(key)
        kept = self._project(found)
        self._objects[key] = kept
        if self._group_of is not None:
            self._groups.setdefault(self._group_of(kept), {})[key] = kept
        return kept

    def _ungroup(self, key: tuple[str, str], known: Object | None) -> None:
        if known is None or self._group_of is None:
            return
        value = self._group_of(known)
        members = self._groups.get(value, {})
        members.pop(key, None)
        if not members:
            self._groups.pop(value, None)


def _key(found: Object) -> tuple[str, str]:
    metadata = found["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])


def _version(found: Object) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion", ""))
