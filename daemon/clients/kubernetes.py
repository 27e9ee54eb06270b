"""A cluster's API server: objects of any kind, as plain dicts, by kind and name.

Every request has its time (`platform.timeout`), its turn (a token bucket) and a defined outcome: what was asked for, or one
of the ClientError tree with the server's own words:

| the server says | it becomes |
|---|---|
| 404 for an object | `get` gives None, `delete` False; a patch raises Absent (a Conflict) |
| 404 for a kind | UnknownKind (a Refused) |
| 409 AlreadyExists; Conflict | Exists; Conflict |
| 409 of server-side apply | FieldsOwned (a Refused), with who owns what |
| 410 | Expired (a Conflict): list anew |
| 400, 403, 413, 422: RBAC, quota, webhooks, schema | Refused |
| 401, 429, 5xx, no answer, no answer in time | Unavailable |

A 429 or 503 that says when to come again holds all requests until then; the same request is made again when its time
allows. Nothing else is tried again here: who asked knows whether it makes sense.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from daemon.clients.kubernetes_connection import Reply, Request, Wire
from daemon.clients.kubernetes_errors import SERVICE, Absent, UnknownKind, error_of, retry_after
from daemon.clients.kubernetes_objects import Kind, Object, Ref, Resource, ref_of
from daemon.clients.kubernetes_throttle import Throttle
from daemon.core.errors import Unavailable
from daemon.platformparts import KubernetesConnection

MANAGER = "driftd"
"""The field manager of everything driftd writes."""
PAGE = 500
"""Objects per page of a list."""
_MERGE, _APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


class Listing(NamedTuple):
    """Objects of a kind, at one moment."""

    items: tuple[Object, ...]
    version: str
    """The resourceVersion of that moment: a watch goes on from it."""


class Cluster:
    """An API server. Safe to use from any thread."""

    def __init__(self, connection: KubernetesConnection) -> None:
        """Reads the credentials, asks nothing yet; Refused when they cannot be used."""
        self.namespace = connection.namespace
        self._wire = Wire(connection)
        self._seconds = connection.timeout.total_seconds()
        self._throttle = Throttle(connection.requests_per_second, connection.burst)
        self._stop = threading.Event()
        self._served: dict[str, dict[str, Resource]] = {}
        self._lock = threading.Lock()
        self._requests = 0

    @property
    def requests(self) -> int:
        """How many requests were made, watches included."""
        return self._requests

    def close(self) -> None:
        """Whoever waits for its turn is told Unavailable, and so is everybody from now on."""
        self._stop.set()
        self._wire.close()

    # -- kinds

    def resource(self, kind: Kind) -> Resource | None:
        """How the kind is served; None when it is not: what defines it is not installed."""
        known = self._served.get(kind.api_version, {}).get(kind.kind)
        if known is not None:
            return known
        group = "/apis/" if "/" in kind.api_version else "/api/"
        try:
            found = self._ask(Request("GET", group + kind.api_version, {}))
        except (UnknownKind, Absent):
            return None
        served = _resources(kind.api_version, found)
        with self._lock:
            self._served[kind.api_version] = served
        return served.get(kind.kind)

    def forget_kinds(self) -> None:
        """Ask anew how kinds are served: definitions may have come or gone."""
        with self._lock:
            self._served.clear()

    def version(self) -> str:
        """The API server's version, e.g. `v1.37.2`."""
        return str(self._ask(Request("GET", "/version", {})).get("gitVersion", ""))

    # -- reading

    def get(self, ref: Ref) -> Object | None:
        """The object, or None when there is none of that name; UnknownKind when there is no such kind."""
        try:
            return self._ask(Request("GET", self._path(ref), {}))
        except Absent:
            return None

    def list(self, kind: Kind, namespace: str = "", labels: str = "", fields: str = "") -> Listing:
        """All objects of the kind in a namespace (`*`: in all), by selectors as kubectl takes them; page by page."""
        items: list[Object] = []
        version = ""
        for page in self.pages(kind, namespace, labels, fields):
            items.extend(page.items)
            version = page.version
        return Listing(tuple(items), version)

    def pages(self, kind: Kind, namespace: str = "", labels: str = "", fields: str = "") -> Iterator[Listing]:
        """The same, a page at a time; the version of each is the list's. Expired when it takes too long."""
        query = {"limit": str(PAGE)} | _selected(labels, fields)
        path = self._path(Ref(kind, "", namespace))
        while True:
            found = self._ask(Request("GET", path, query))
            metadata = found.get("metadata") or {}
            # Items of a list do not say what they are.
            items = ({"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in found.get("items") or ())
            yield Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            if not metadata.get("continue"):
                return
            query = {**query, "continue": str(metadata["continue"])}

    def text(self, ref: Ref, subresource: str, query: Mapping[str, str]) -> str:
        """A subresource that is text, e.g. a pod's `log`."""
        reply = self._reply(Request("GET", f"{self._path(ref)}/{subresource}", query))
        return reply.body.decode(errors="replace")

    def watching(self, kind: Kind, namespace: str, query: Mapping[str, str], quiet: float) -> Any:
        """A context manager: the stream of changes, or the Reply that refuses it. For watches; see kubernetes_watch."""
        request = Request("GET", self._path(Ref(kind, "", namespace)), {"watch": "true", **query})
        self._wait_for_turn(request, time.monotonic() + self._seconds)
        return self._wire.stream(request, self._seconds, quiet)

    # -- writing

    def create(self, wanted: Object) -> Object:
        """Make it; unknown fields are mistakes. Exists when there is one of that name, whoever's it is."""
        path = self._path(ref_of(wanted)._replace(name=""))
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return self._ask(Request("POST", path, query, orjson.dumps(wanted)))

    def patch(self, ref: Ref, change: Mapping[str, Any], version: str = "", subresource: str = "") -> Object:
        """Merge `change` (RFC 7386: null removes) into it; Conflict when it is not at resourceVersion `version` any more.

        Absent when there is none. `subresource`: `status` or `scale`.
        """
        if version:
            change = {**change, "metadata": {**(change.get("metadata") or {}), "resourceVersion": version}}
        path = self._path(ref) + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return self._ask(Request("PATCH", path, query, orjson.dumps(change), _MERGE))

    def apply(self, wanted: Object, force: bool = False) -> Object:
        """Server-side apply: the fields of `wanted` become driftd's, and what it had applied before and is not in it goes.

        FieldsOwned when another manager has some of them; with `force` they are taken.
        """
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        return self._ask(Request("PATCH", self._path(ref_of(wanted)), query, orjson.dumps(wanted), _APPLY))

    def delete(self, ref: Ref, uid: str = "", version: str = "", propagation: str = "Background") -> bool:
        """Remove it, and what it owns; whether there was one.

        Conflict when it is another object than `uid`, or not at resourceVersion `version` any more.
        """
        preconditions = {"uid": uid} if uid else {}
        if version:
            preconditions["resourceVersion"] = version
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        body = orjson.dumps(options | ({"preconditions": preconditions} if preconditions else {}))
        try:
            self._ask(Request("DELETE", self._path(ref), {}, body))
        except Absent:
            return False
        return True

    # -- the requests themselves

    def _path(self, ref: Ref) -> str:
        resource = self.resource(ref.kind)
        if resource is None:
            raise UnknownKind(SERVICE, str(ref), f"the cluster has no {ref.kind}", "install what defines it")
        parts = ["/apis" if "/" in ref.kind.api_version else "/api", ref.kind.api_version]
        namespace = ref.namespace or self.namespace
        if resource.namespaced and namespace != "*":
            parts += ["namespaces", namespace]
        parts.append(resource.plural)
        return "/".join([*parts, ref.name] if ref.name else parts)

    def _ask(self, request: Request) -> dict[str, Any]:
        reply = self._reply(request)
        try:
            found = orjson.loads(reply.body)
        except orjson.JSONDecodeError as error:
            raise Unavailable(SERVICE, str(request), f"what came is no JSON: {reply.body[:200]!r}") from error
        if not isinstance(found, dict):
            raise Unavailable(SERVICE, str(request), f"what came is no object: {reply.body[:200]!r}")
        return found

    def _reply(self, request: Request) -> Reply:
        until = time.monotonic() + self._seconds
        while True:
            self._wait_for_turn(request, until)
            reply = self._wire.send(request, max(until - time.monotonic(), 0.1))
            if reply.code < 300:
                return reply
            wait = retry_after(reply.headers.get("retry-after")) if reply.code in {429, 503} else 0.0
            if wait:
                self._throttle.pause(wait)
            if not wait or time.monotonic() + wait >= until:
                raise refusal(str(request), reply)

    def _wait_for_turn(self, request: Request, until: float) -> None:
        wait = self._throttle.turn(max(until - time.monotonic(), 0.0))
        if wait is None:
            raise Unavailable(SERVICE, str(request), "too many requests wait for their turn")
        if self._stop.wait(wait) if wait else self._stop.is_set():
            raise Unavailable(SERVICE, str(request), "driftd is stopping")
        with self._lock:
            self._requests += 1


def refusal(operation: str, reply: Reply) -> Exception:
    """The error that an answer stands for."""
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        body = {}
    status = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
    return error_of(operation, reply.code, status, reply.body[:500].decode(errors="replace"))


def _selected(labels: str, fields: str) -> dict[str, str]:
    return ({"labelSelector": labels} if labels else {}) | ({"fieldSelector": fields} if fields else {})


def _resources(api_version: str, found: Mapping[str, Any]) -> dict[str, Resource]:
    """Kind -> how it is served, from an APIResourceList."""
    listed = [one for one in found.get("resources") or () if isinstance(one, dict)]
    statuses = {str(one["name"]).partition("/")[0] for one in listed if str(one["name"]).endswith("/status")}
    plain = [one for one in listed if "/" not in str(one["name"])]
    return {
        one["kind"]: Resource(
            Kind(api_version, one["kind"]), one["name"], bool(one["namespaced"]), one["name"] in statuses
        )
        for one in plain
    }
