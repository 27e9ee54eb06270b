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
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from daemon.clients.kubernetes import MANAGER, Cluster
from daemon.clients.kubernetes_errors import Absent, Exists, UnknownKind
from daemon.clients.kubernetes_objects import Kind, Object, Ref
from daemon.core.canonical import content_id
from daemon.core.errors import ClientError, Conflict, Refused, Unavailable
from daemon.platforms.base import Served, Traffic
from daemon.platforms.kserve import knative, modes, standard, steps
from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import Installed, Mode
from daemon.platforms.kserve.steps import Act, Refuse, Settled, Standing, Step, Wait, Write
from daemon.platforms.kserve.uris import storage_uri
from daemon.platforms.marks import MANAGED, OURS, Teller, Told, is_managed
from daemon.points import OnPoint, Point, no_point
from daemon.servingparts import KserveServing

SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService")
REVISION = Kind("serving.knative.dev/v1", "Revision")
ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute")
DEPLOYMENT = Kind("apps/v1", "Deployment")
CONFIG = Kind("v1", "ConfigMap")
DEFINITION = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
KSERVE_CONFIG = Ref(CONFIG, "inferenceservice-config", "kserve")
BOOK_KEY = "book.json"
VERSIONS = 50
"""Most versions of a target whose addresses are remembered."""
_LOOK_S = 0.2
_INSTALLED_S = 300.0
"""How long is believed what was found about the cluster's KServe."""

Count = Callable[[str, datetime], Mapping[str, int]]
"""Target and moment -> logged requests by version since; Unavailable when the log cannot say."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the registry says of a target's models."""

    locate: Callable[[str, str], str]
    """Target and version -> where the registry keeps its artifacts."""
    champion: Callable[[str], str]
    """Target -> the version that the champion's alias points to; empty when there is none."""


@dataclass(frozen=True, slots=True)
class _View:
    """All that is known of a target at one moment."""

    target: str
    namespace: str
    name: str
    book: Book
    book_version: str
    """The ConfigMap's resourceVersion; empty when there is none yet."""
    service: Object | None
    seen: knative.Seen | standard.Seen | None
    """None: there is no InferenceService yet."""

    @property
    def standing(self) -> Standing:
        """What the cluster says."""
        if isinstance(self.seen, knative.Seen):
            return knative.standing(self.seen, self.book)
        if self.seen is not None:
            return standard.standing(self.seen, self.book)
        return Standing({}, {}, {}, "")

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else has written since."""
        return self.seen is not None and self.book.is_foreign(self.seen.written)

    @property
    def traffic(self) -> Traffic:
        """As the protocol tells it. What somebody else wrote counts as a change."""
        stands, book = self.standing, self.book
        if self.is_foreign:
            return Traffic(stands.weights, book.epoch + 1, stands.ready, _writer(self.service), stands.problems)
        return Traffic(stands.weights, book.epoch, stands.ready, book.by, stands.problems, book.wanted)

    def load(self, version: str) -> Step:
        """See the planners."""
        if isinstance(self.seen, knative.Seen):
            return knative.load(self.seen, self.book, version)
        assert self.seen is not None
        return standard.load(self.seen, self.book, version)

    def split(self, weights: Mapping[str, float]) -> Step:
        """See the planners."""
        if isinstance(self.seen, knative.Seen):
            return knative.split(self.seen, self.book, weights)
        if self.seen is None:
            return Refuse(f"there is no InferenceService {self.name} in {self.namespace}")
        return standard.split(self.seen, self.book, weights)

    def rest(self) -> Step:
        """See the planners."""
        if isinstance(self.seen, knative.Seen):
            return knative.rest(self.seen, self.book)
        return Settled() if self.seen is None else standard.rest(self.seen, self.book)


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
        self._lock = threading.Lock()
        self._installed: tuple[float, Installed] | None = None
        self._recognised: dict[tuple[str, str], str] = {}
        """Target and address -> version, of models that were there before driftd."""
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
        view = self._look(target)
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
            self._write(view, step)

    def traffic(self, target: str) -> Traffic:
        """See Serving."""
        return self._look(target).traffic

    def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> Traffic:
        """See Serving. The change is noted before its first write, so whoever repeats it goes on with it; a split that the
        cluster has not taken over after `patience` is Unavailable so far.
        """
        wanted = _split(target, weights)
        view = self._look(target)
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
        view = self._look(target)
        if view.seen is None:
            return
        if view.standing.weights.get(version):
            raise Refused("kserve", f"retire {target}", f"version {version} has traffic")
        if isinstance(view.seen, standard.Seen):
            step = standard.retire(view.seen, view.book, version)
        else:
            step = view.rest() if view.seen.uri == view.book.versions.get(version) else Settled()
        if isinstance(step, Refuse):
            raise Refused("kserve", f"retire {target}", step.why, step.hint)
        if isinstance(step, Write) and (early := self._too_early(view, step)):
            raise Unavailable("kserve", f"retire {target}", early)
        if isinstance(step, Write):
            self._write(view, step)

    def settle(self, target: str) -> str:
        """See Serving. In Knative mode a canary without traffic is replaced by the model that serves; in Standard mode a
        promoted model moves into the target's own InferenceService, and the second one goes.
        """
        until = time.monotonic() + self._config.patience.total_seconds()
        while True:
            view = self._look(target)
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
            view = self._look(target)
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

    def _too_early(self, view: _View, step: Write) -> str:
        """Why the write has to wait for the gateway's data plane; empty when it has not."""
        since = time.monotonic() - self._routed.get((view.namespace, view.name), -math.inf)
        left = self._config.drain.total_seconds() - since
        if step.kind is steps.Kind.ROUTE or step.act is Act.CREATE or isinstance(view.seen, knative.Seen) or left <= 0:
            return ""
        return f"the route was changed {since:.0f} s ago: requests may still be on their way ({step.why})"

    # -- writing

    def _try(self, view: _View, step: Write) -> None:
        """Write; a Conflict with what the controllers wrote meanwhile is looked at again by the caller."""
        try:
            self._write(view, step)
        except Absent:
            raise
        except Conflict:
            return

    def _write(self, view: _View, step: Write) -> None:
        """Keep the book, make the write, tell it on the object."""
        if step.book != view.book:
            view = self._keep(view, step.book)
        kind = SERVICE if step.kind is steps.Kind.SERVICE else ROUTE
        ref = Ref(kind, step.name, view.namespace)
        if step.act is Act.DELETE:
            self._cluster.delete(ref, version=step.resource_version)
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

    def _tell(self, view: _View, found: Object, why: str, step: Write) -> None:
        reason = {Act.CREATE: "Created", Act.PATCH: "Changed", Act.DELETE: "Removed"}[step.act]
        by = f", for {view.book.by}" if view.book.by else ""
        mark = content_id(view.namespace, step.name, step.resource_version, str(view.book.epoch), why)
        self._teller.tell(found, Told(reason, f"{why}{by}"), mark)

    def _keep(self, view: _View, book: Book) -> _View:
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

    def _known(self, view: _View, version: str, uri: str) -> _View:
        """With the version's address in the book."""
        known = view.book.versions.get(version)
        if known == uri:
            return view
        if known is not None and known in _loaded(view):
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

    def _make_first(self, view: _View, version: str, uri: str) -> None:
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
        installed = self._kserve()
        mode = modes.mode_named(installed.default) or Mode.STANDARD
        body = standard.first(view.name, version, predictor, installed.name(mode))
        why = f"version {version}, the first of {view.name}"
        self._write(view, Write(Act.CREATE, steps.Kind.SERVICE, view.name, body, "", why, view.book))

    # -- reading

    def _look(self, target: str) -> _View:
        namespace, _, name = target.rpartition("/")
        namespace = namespace or self._config.namespace or self._cluster.namespace
        kept = self._cluster.get(Ref(CONFIG, book_name(name), namespace))
        book, version = Book(), ""
        if kept is not None:
            book, version = _book(kept, target), kept["metadata"]["resourceVersion"]
        service = self._cluster.get(Ref(SERVICE, name, namespace))
        seen = None if service is None else self._seen(service, namespace, book)
        view = _View(target, namespace, name, book, version, service, seen)
        return view if seen is None or view.standing.weights else self._with_champion(view)

    def _with_champion(self, view: _View) -> _View:
        """A model that serves and that driftd has not loaded itself: it may be the champion, which people put there."""
        loaded = _loaded(view)
        found = {uri: version for (target, uri), version in self._recognised.items() if target == view.target}
        if not loaded & found.keys() and (champion := self._places.champion(view.target)):
            try:
                uri = storage_uri(self._places.locate(view.target, champion), self._config.roots)
            except Refused:  # it lies where KServe cannot fetch it, so it is not this one
                return view
            self._recognised[view.target, uri] = champion
            found[uri] = champion
        versions = {
            version: uri for uri, version in found.items() if uri in loaded and version not in view.book.versions
        }
        return replace(view, book=replace(view.book, versions={**view.book.versions, **versions}))

    def _seen(self, service: Object, namespace: str, book: Book) -> knative.Seen | standard.Seen:
        installed = self._kserve()
        if modes.mode_of(service, installed) is Mode.KNATIVE:
            return self._seen_knative(service, namespace, book, installed)
        return self._seen_standard(service, namespace, installed)

    def _seen_knative(self, service: Object, namespace: str, book: Book, installed: Installed) -> knative.Seen:
        revisions: dict[str, knative.Revision] = {}
        for name in sorted(knative.revision_names(service) | ({book.base} - {""})):
            found = self._cluster.get(Ref(REVISION, name, namespace))
            if found is not None:
                revisions[name] = knative.revision_of(found)
        return knative.seen(service, revisions, installed)

    def _seen_standard(self, service: Object, namespace: str, installed: Installed) -> standard.Seen:
        name = service["metadata"]["name"]
        selector = f"{OURS},{standard.TARGET}={name}"
        beside = sorted(
            self._cluster.list(SERVICE, namespace, labels=selector).items, key=lambda one: str(one["metadata"]["name"])
        )
        slots = []
        for one in (service, *beside):
            ref = Ref(DEPLOYMENT, f"{one['metadata']['name']}-predictor", namespace)
            slots.append(standard.slot_of(one, self._cluster.get(ref)))
        route, objection = None, ""
        try:
            found = self._cluster.get(Ref(ROUTE, standard.route_name(name), namespace))
        except UnknownKind as unknown:
            found, objection = None, f"requests cannot be split without the Gateway API: {unknown.why}"
        if found is not None:
            route = standard.route_of(found)
            if not is_managed(found):
                objection = f"HTTPRoute {standard.route_name(name)} is not driftd's"
        if self._config.route is None:
            objection = (
                objection or "config.yaml has no platform.serving.route: in Standard mode a route splits the requests"
            )
        seen = standard.seen(service, tuple(slots), route, installed, self._frame(name))
        return replace(seen, objections=(*seen.objections, objection)) if objection else seen

    def _frame(self, target: str) -> Mapping[str, Any]:
        route = self._config.route
        if route is None:
            return {}
        parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": route.gateway}
        parent |= {"namespace": route.namespace} if route.namespace else {}
        parent |= {"sectionName": route.listener} if route.listener else {}
        return {"parentRefs": [parent], "hostnames": [route.hostname.replace("{target}", target)]}

    def _kserve(self) -> Installed:
        """The cluster's KServe; what may not be read is taken for a new one without defaults."""
        with self._lock:
            if self._installed is not None and time.monotonic() - self._installed[0] < _INSTALLED_S:
                return self._installed[1]
        try:
            definition = self._cluster.get(Ref(DEFINITION, "inferenceservices.serving.kserve.io"))
            config = self._cluster.get(KSERVE_CONFIG)
        except Unavailable:
            raise
        except ClientError:
            definition, config = None, None
        found = Installed(
            modern=definition is None or modes.is_modern(definition), default=modes.default_mode(config or {})
        )
        with self._lock:
            self._installed = (time.monotonic(), found)
        return found


def book_name(name: str) -> str:
    """The ConfigMap with driftd's bookkeeping of a target."""
    return f"driftd-serving-{name}"


def _book(kept: Object, target: str) -> Book:
    try:
        return Book.parse(kept["data"][BOOK_KEY])
    except (ValueError, TypeError, KeyError) as error:
        why = f"its bookkeeping in ConfigMap {kept['metadata']['name']} cannot be read: {error!r}"
        raise Refused(
            "kserve", f"look at {target}", why, "put it right, or delete it: then the champion is taken on anew"
        ) from error


def _split(target: str, weights: Mapping[str, float]) -> dict[str, float]:
    wanted = {version: float(share) for version, share in weights.items() if share}
    if not math.isclose(sum(wanted.values()), 100, abs_tol=1e-6) or any(share < 0 for share in wanted.values()):
        raise Refused("kserve", f"shift {target}", f"weights are percents that sum to 100, not {dict(weights)}")
    return wanted


def _loaded(view: _View) -> frozenset[str]:
    """The addresses of what is loaded."""
    if isinstance(view.seen, standard.Seen):
        return frozenset(slot.uri for slot in view.seen.slots)
    if view.seen is None:
        return frozenset()
    return frozenset({view.seen.uri, *(one.uri for one in view.seen.revisions.values())})


def _owner(service: Object) -> dict[str, str]:
    metadata = service["metadata"]
    return {
        "apiVersion": SERVICE.api_version, "kind": SERVICE.kind, "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip


def _writer(service: Object | None) -> str:
    """Who wrote the InferenceService last beside driftd and the controllers' status; for people to read."""
    fields = [] if service is None else service["metadata"].get("managedFields") or []
    others = [one for one in fields if one.get("manager") != MANAGER and not one.get("subresource")]
    newest = max(others, key=lambda one: str(one.get("time") or ""), default=None)
    return "somebody else" if newest is None else f"somebody else (perhaps {newest.get('manager')})"
