"""Models that KServe serves: the Serving protocol over InferenceServices, in Knative and in Standard mode.

What the next safe write is, `daemon.platforms.kserve` says; here it is read, written and read back. Each call looks at the
cluster as it is, makes one write at a time with the resourceVersion that it read, and looks again; what takes longer than
`patience` is gone on with by the next call. What serves is never taken from the bookkeeping (a ConfigMap of the target),
which has only what the cluster cannot say: the epoch, who made it, and which version lies at which address.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from daemon.clients.kubernetes import MANAGER, Cluster
from daemon.clients.kubernetes_errors import Absent, Exists
from daemon.clients.kubernetes_objects import Object, Ref
from daemon.core.canonical import content_id
from daemon.core.errors import Conflict, Refused, Unavailable
from daemon.platforms.base import Served, Traffic
from daemon.platforms.kserve import knative, modes, standard, steps
from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import Mode
from daemon.platforms.kserve.steps import Act, Refuse, Settled, Wait, Write
from daemon.platforms.kserve.uris import storage_uri
from daemon.platforms.kubernetes_looking import (
    BOOK_KEY,
    CONFIG,
    ROUTE,
    SERVICE,
    Looking,
    Places,
    View,
    book_name,
    loaded_in,
)
from daemon.platforms.marks import MANAGED, Teller, Told, is_managed
from daemon.points import OnPoint, Point, no_point
from daemon.servingparts import KserveServing

VERSIONS = 50
"""Most versions of a target whose addresses are remembered."""
_LOOK_S = 0.2

Count = Callable[[str, datetime], Mapping[str, int]]
"""Target and moment -> logged requests by version since; Unavailable when the log cannot say."""


class KubernetesServing:
    """The Serving protocol over KServe. Safe to use from any thread; two driftds may be at work on one target."""

    def __init__(
        self,
        cluster: Cluster,
        config: KserveServing,
        places: Places,
        count: Count,
        clock: Callable[[], datetime],
        on_point: OnPoint = no_point,
    ) -> None:
        self._cluster = cluster
        self._config = config
        self._places = places
        self._count = count
        self._teller = Teller(cluster, clock)
        self._on_point = on_point
        self._stop = threading.Event()
        self._looking = Looking(cluster, config, places)
        self._routed: dict[tuple[str, str], float] = {}
        """When the route of a target was last changed."""

    def close(self) -> None:
        """Whoever waits for the cluster goes on at once; it is gone on with later."""
        self._stop.set()

    # -- the protocol

    def deploy(self, target: str, version: str, model_uri: str) -> None:
        """See Serving: one write towards it, so ask again until `traffic` says that it is ready. Of `models:/…`,
        which only MLflow knows, KServe gets the address where the artifacts lie.

        Refused when what serves is none of the known versions and not this one; Conflict when this version is known to lie
        elsewhere.
        """
        view = self._looking.look(target)
        location = self._places.locate(target, version) if model_uri.startswith("models:") else model_uri
        uri = storage_uri(location, self._config.roots)
        view = self._known(view, version, uri)
        if view.seen is None:
            self._make_first(view, version, uri)
            return
        step = view.load(version)
        if isinstance(step, Refuse):
            raise Refused("kserve", f"deploy {target}", step.why, step.hint)
        if isinstance(step, Write):
            self._try(view, step)

    def traffic(self, target: str) -> Traffic:
        """See Serving."""
        return self._looking.look(target).traffic

    def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> Traffic:
        """See Serving. The change is noted before its first write, so whoever repeats it goes on with it; a split that the
        cluster has not taken over after `patience` is Unavailable so far.
        """
        wanted = _split(target, weights)
        view = self._looking.look(target)
        book = view.book
        if by and by == book.by and not view.is_foreign:
            if book.wanted == wanted:
                return self._go_on(target, wanted, by)
            if book.wanted is None and book.weights == wanted == dict(view.standing.weights):
                return view.traffic
        if epoch != view.traffic.epoch:
            why = f"epoch is {view.traffic.epoch}, not {epoch}: last by {view.traffic.by or 'nobody'}"
            raise Conflict("kserve", f"shift {target}", why)
        step = view.split(wanted)
        if isinstance(step, Refuse):
            raise Refused("kserve", f"shift {target}", step.why, step.hint)
        if isinstance(step, Wait) and dict(view.standing.weights) != wanted:
            raise Unavailable("kserve", f"shift {target}", step.why)
        found = view.standing.written
        noted = replace(book, epoch=epoch + 1, by=by, wanted=wanted, was=found, written=found)
        self._keep(view, noted)
        return self._go_on(target, wanted, by)

    def retire(self, target: str, version: str) -> None:
        """See Serving. In Knative mode the newest model is replaced by the one that serves; see `settle`."""
        view = self._looking.look(target)
        if view.standing.weights.get(version):
            raise Refused("kserve", f"retire {target}", f"version {version} has traffic")
        step = view.retire(version)
        if isinstance(step, Refuse):
            raise Refused("kserve", f"retire {target}", step.why, step.hint)
        if isinstance(step, Write) and (early := self._too_early(view, step)):
            raise Unavailable("kserve", f"retire {target}", early)
        if isinstance(step, Write):
            self._try(view, step)

    def settle(self, target: str) -> str:
        """See Serving. In Knative mode a canary without traffic is replaced by the model that serves; in Standard mode a
        promoted model moves into the target's own InferenceService, and the second one goes.
        """
        until = time.monotonic() + self._config.patience.total_seconds()
        while True:
            view = self._looking.look(target)
            step = view.rest()
            if isinstance(step, Settled):
                return ""
            if isinstance(step, Refuse):
                return step.why
            why = self._too_early(view, step) if isinstance(step, Write) else step.why
            if isinstance(step, Write) and not why:
                self._try(view, step)
            if self._stop.wait(_LOOK_S) or time.monotonic() > until:
                return why or step.why

    def served(self, target: str, since: str) -> Served:
        """See Serving: from the measured prediction log, when that tells versions apart; Unavailable otherwise."""
        moment = datetime.fromisoformat(since)
        if moment.tzinfo is None:
            raise Refused("kserve", "served", f"since={since} names no time zone")
        return Served(self._count(target, moment), since)

    # -- towards a split

    def _go_on(self, target: str, wanted: Mapping[str, float], by: str) -> Traffic:
        """Make the split that is noted, one write after the other, each read back."""
        until = time.monotonic() + self._config.patience.total_seconds()
        while True:
            view = self._looking.look(target)
            if view.is_foreign or view.book.by != by or view.book.wanted != wanted:
                who = view.traffic.by or "somebody else"
                raise Conflict(
                    "kserve", f"shift {target}", f"{who} changed it meanwhile, to {dict(view.traffic.weights)}"
                )
            step = view.split(wanted)
            if isinstance(step, Refuse):
                raise Refused("kserve", f"shift {target}", step.why, step.hint)
            if isinstance(step, Settled):
                found = view.standing.written
                done = replace(view.book, weights=wanted, wanted=None, was=found, written=found)
                made = replace(view, book=done, book_version=self._keep(view, done).book_version).traffic
                self._on_point(Point.SHIFTED)
                return made
            if isinstance(step, Write):
                self._try(view, step)
            if self._stop.wait(_LOOK_S) or time.monotonic() > until:
                told = ", ".join(f"version {version} {share:g} %" for version, share in wanted.items())
                raise Unavailable("kserve", f"shift {target}", f"{told} is under way: {step.why}")

    def _too_early(self, view: View, step: Write) -> str:
        """Why the write has to wait for the gateway's data plane; empty when it has not."""
        since = time.monotonic() - self._routed.get((view.namespace, view.name), -math.inf)
        left = self._config.drain.total_seconds() - since
        if step.kind is steps.Kind.ROUTE or step.act is Act.CREATE or isinstance(view.seen, knative.Seen) or left <= 0:
            return ""
        return f"the route was changed {since:.0f} s ago: requests may still be on their way ({step.why})"

    # -- writing

    def _try(self, view: View, step: Write) -> None:
        """Write; a Conflict with what the controllers wrote meanwhile is looked at again by the caller."""
        try:
            self._write(view, step)
        except Absent:
            raise
        except Conflict:
            return

    def _write(self, view: View, step: Write) -> None:
        """Keep the book, make the write, tell it on the object."""
        if step.book != view.book:
            view = self._keep(view, step.book)
        kind = SERVICE if step.kind is steps.Kind.SERVICE else ROUTE
        ref = Ref(kind, step.name, view.namespace)
        if step.act is Act.DELETE:
            self._cluster.delete(ref, uid=step.resource_version)
            assert view.service is not None
            self._tell(view, view.service, f"{step.name} is removed: {step.why}", step)
            return
        if step.act is Act.PATCH:
            made = self._cluster.patch(ref, step.body, step.resource_version)
        else:
            body = {**step.body, "metadata": {**step.body["metadata"], "namespace": view.namespace}}
            try:
                made = self._cluster.create(body)
            except Exists:
                found = self._cluster.get(ref)
                if found is None or not is_managed(found):
                    raise Refused(
                        "kserve", f"create {ref}", "there is one of this name that driftd did not make", "rename it"
                    ) from None
                return
        if step.kind is steps.Kind.ROUTE:
            self._routed[view.namespace, view.name] = time.monotonic()
        self._tell(view, made, step.why, step)

    def _tell(self, view: View, found: Object, why: str, step: Write) -> None:
        reason = {Act.CREATE: "Created", Act.PATCH: "Changed", Act.DELETE: "Removed"}[step.act]
        by = f", for {view.book.by}" if view.book.by else ""
        mark = content_id(view.namespace, step.name, step.resource_version, str(view.book.epoch), why)
        self._teller.tell(found, Told(reason, f"{why}{by}"), mark)

    def _keep(self, view: View, book: Book) -> View:
        """Write the book where the one of the view was read; Conflict when another driftd has written it since."""
        ref = Ref(CONFIG, book_name(view.name), view.namespace)
        data = {BOOK_KEY: book.text()}
        if view.book_version:
            kept = self._cluster.patch(ref, {"data": data}, view.book_version)
        else:
            owners = [] if view.service is None else [_owner(view.service)]
            labels = {MANAGED: MANAGER, standard.TARGET: view.name}
            metadata = {"name": ref.name, "namespace": view.namespace, "labels": labels, "ownerReferences": owners}
            kept = self._cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
        return replace(view, book=book, book_version=kept["metadata"]["resourceVersion"])

    def _known(self, view: View, version: str, uri: str) -> View:
        """With the version's address in the book."""
        known = view.book.versions.get(version)
        if known == uri:
            return view
        if known is not None and known in loaded_in(view):
            raise Conflict(
                "kserve", f"deploy {view.target}", f"version {version} is loaded from {known}, not from {uri}"
            )
        other = view.book.version_of(uri)
        if other:
            why = f"version {version} is the very model of version {other}, at {uri}"
            raise Refused("kserve", f"deploy {view.target}", why, "register a version with artifacts of its own")
        versions = {name: place for name, place in view.book.versions.items() if name != version}
        serving = set(view.standing.ready)
        old = [name for name in versions if name not in serving][: max(0, len(versions) + 1 - VERSIONS)]
        versions = {name: place for name, place in versions.items() if name not in old} | {version: uri}
        return self._keep(view, replace(view.book, versions=versions))

    def _make_first(self, view: View, version: str, uri: str) -> None:
        first = self._config.first
        if first is None:
            raise Refused(
                "kserve",
                f"deploy {view.target}",
                f"there is no InferenceService {view.name} in {view.namespace}",
                "make it, or say under platform.serving.first how driftd shall",
            )
        model: dict[str, Any] = {
            "modelFormat": {"name": first.format},
            "storageUri": uri,
            "protocolVersion": first.protocol,
        }
        if first.runtime:
            model["runtime"] = first.runtime
        predictor: dict[str, Any] = {"model": model}
        if first.service_account:
            predictor["serviceAccountName"] = first.service_account
        installed = self._looking.installed()
        mode = modes.mode_named(installed.default) or Mode.STANDARD
        body = standard.first(view.name, version, predictor, installed.name(mode))
        why = f"version {version}, the first of {view.name}"
        self._write(view, Write(Act.CREATE, steps.Kind.SERVICE, view.name, body, "", why, view.book))


def _split(target: str, weights: Mapping[str, float]) -> dict[str, float]:
    wanted = {version: float(share) for version, share in weights.items() if share}
    if not math.isclose(sum(wanted.values()), 100, abs_tol=1e-6) or any(share < 0 for share in wanted.values()):
        raise Refused("kserve", f"shift {target}", f"weights are percents that sum to 100, not {dict(weights)}")
    return wanted


def _owner(service: Object) -> dict[str, str]:
    metadata = service["metadata"]
    return {
        "apiVersion": SERVICE.api_version, "kind": SERVICE.kind, "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip
