"""Reading a serving target from the cluster: the InferenceService with all that belongs to it, and driftd's book of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.clients.kubernetes import MANAGER, Cluster
from daemon.clients.kubernetes_errors import UnknownKind
from daemon.clients.kubernetes_objects import Kind, Object, Ref
from daemon.core.errors import ClientError, Refused, Unavailable
from daemon.platforms.base import Traffic
from daemon.platforms.kserve import knative, modes, standard
from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import Installed, Mode
from daemon.platforms.kserve.steps import Refuse, Settled, Standing, Step
from daemon.platforms.kserve.uris import storage_uri
from daemon.platforms.marks import OURS, is_managed
from daemon.servingparts import KserveServing

SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService")
REVISION = Kind("serving.knative.dev/v1", "Revision")
ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute")
DEPLOYMENT = Kind("apps/v1", "Deployment")
CONFIG = Kind("v1", "ConfigMap")
DEFINITION = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
KSERVE_CONFIG = Ref(CONFIG, "inferenceservice-config", "kserve")
BOOK_KEY = "book.json"
_INSTALLED_S = 300.0
"""How long is believed what was found about the cluster's KServe."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the registry says of a target's models."""

    locate: Callable[[str, str], str]
    """Target and version -> where the registry keeps its artifacts."""
    champion: Callable[[str], str]
    """Target -> the version that the champion's alias points to; empty when there is none."""


@dataclass(frozen=True, slots=True)
class View:
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
            return Traffic(stands.weights, book.epoch + 1, stands.ready, writer(self.service), stands.problems)
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

    def retire(self, version: str) -> Step:
        """See the planners. In Knative mode only the newest model can be replaced."""
        if isinstance(self.seen, standard.Seen):
            return standard.retire(self.seen, self.book, version)
        is_newest = self.seen is not None and self.seen.uri == self.book.versions.get(version)
        return self.rest() if is_newest else Settled()

    def rest(self) -> Step:
        """See the planners."""
        if isinstance(self.seen, knative.Seen):
            return knative.rest(self.seen, self.book)
        return Settled() if self.seen is None else standard.rest(self.seen, self.book)


class Looking:
    """Reads targets. Safe to use from any thread."""

    def __init__(self, cluster: Cluster, config: KserveServing, places: Places) -> None:
        self._cluster = cluster
        self._config = config
        self._places = places
        self._lock = threading.Lock()
        self._installed: tuple[float, Installed] | None = None
        self._recognised: dict[tuple[str, str], str] = {}
        """Target and address -> version, of models that were there before driftd."""

    def look(self, target: str) -> View:
        """All that is known of it now."""
        namespace, _, name = target.rpartition("/")
        namespace = namespace or self._config.namespace or self._cluster.namespace
        kept = self._cluster.get(Ref(CONFIG, book_name(name), namespace))
        book, version = Book(), ""
        if kept is not None:
            book, version = _book(kept, target), kept["metadata"]["resourceVersion"]
        service = self._cluster.get(Ref(SERVICE, name, namespace))
        seen = None if service is None else self._seen(service, namespace, book)
        view = View(target, namespace, name, book, version, service, seen)
        return view if seen is None or view.standing.weights else self._with_champion(view)

    def _with_champion(self, view: View) -> View:
        """A model that serves and that driftd has not loaded itself: it may be the champion, which people put there."""
        loaded = loaded_in(view)
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
        installed = self.installed()
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

    def installed(self) -> Installed:
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


def loaded_in(view: View) -> frozenset[str]:
    """The addresses of what is loaded."""
    if isinstance(view.seen, standard.Seen):
        return frozenset(slot.uri for slot in view.seen.slots)
    if view.seen is None:
        return frozenset()
    return frozenset({view.seen.uri, *(one.uri for one in view.seen.revisions.values())})


def writer(service: Object | None) -> str:
    """Who wrote the InferenceService last beside driftd and the controllers' status; for people to read."""
    fields = [] if service is None else service["metadata"].get("managedFields") or []
    others = [one for one in fields if one.get("manager") != MANAGER and not one.get("subresource")]
    newest = max(others, key=lambda one: str(one.get("time") or ""), default=None)
    return "somebody else" if newest is None else f"somebody else (perhaps {newest.get('manager')})"
