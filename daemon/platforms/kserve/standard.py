"""The next safe write in Standard mode: a second InferenceService beside the first, and an HTTPRoute of driftd's own.

KServe ignores `canaryTrafficPercent` here: a new model in the InferenceService would get everything. So a new version gets
an InferenceService of its own, made like the first, and driftd's route splits requests between their Services. KServe's own
routes are left alone: it puts them back. After a promotion the new model moves into the first InferenceService, while the
route holds the traffic on the second; then that one goes.

An InferenceService is ready when its Deployment has rolled out the very model of its spec: its condition `Ready` stays
True over a change, and its `observedGeneration` is the Deployment's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import MODE, PER_OBJECT, SOURCE, Installed, Mode, objections, renamed
from daemon.platforms.kserve.steps import Act, Kind, Refuse, Settled, Standing, Step, Wait, Write

TARGET = "driftd.io/target"
"""The label of what driftd makes for a target; its value is the target's name."""
VERSION = "driftd.io/version"
_LABEL = 63
"""Longest DNS label. KServe makes one of an InferenceService's name, `-predictor-` and its namespace, and deploys nothing
when that is too long.
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """An InferenceService with its Deployment."""

    name: str
    uri: str
    """The model of its spec."""
    ready: bool
    """Its Deployment has rolled out that model, and answers."""
    why: str
    """Why it is not ready."""
    is_broken: bool
    """It does not just load: something is wrong."""
    resource_version: str
    uid: str

    @property
    def service(self) -> str:
        """The Service of its predictor."""
        return f"{self.name}-predictor"


@dataclass(frozen=True, slots=True)
class Route:
    """driftd's HTTPRoute of the target."""

    resource_version: str
    weights: Mapping[str, int]
    """Service -> weight, of its spec; those with none are left out."""
    accepted: bool
    """The gateway has taken over this very spec."""
    why: str
    rule: Mapping[str, Any]
    """Its rule, as it stands."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A target in Standard mode, as it was read."""

    target: str
    primary: Slot
    """The InferenceService that people know."""
    others: tuple[Slot, ...]
    """Those that driftd has made beside it."""
    route: Route | None
    objections: tuple[str, ...]
    annotations: Mapping[str, str]
    """What a write to the primary must put right of them."""
    source: Mapping[str, Any]
    """The primary's object: what others are made like."""
    mode: str
    """The mode as this KServe writes it."""
    frame: Mapping[str, Any]
    """What the route is made with: `parentRefs` and `hostnames`."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All of them."""
        return (self.primary, *self.others)

    @property
    def weights(self) -> Mapping[str, int]:
        """Service -> weight; without a route everything goes to the primary."""
        return self.route.weights if self.route is not None else {self.primary.service: 1}

    @property
    def written(self) -> str:
        """What only driftd should change."""
        return _written(self.weights, self.primary.uri)


def slot_of(service: Mapping[str, Any], deployment: Mapping[str, Any] | None) -> Slot:
    """An InferenceService with its Deployment, when there is one."""
    uri = str((service["spec"]["predictor"].get("model") or {}).get("storageUri") or "")
    told = service.get("status", {}).get("modelStatus") or {}
    info = told.get("lastFailureInfo") or {}
    failed = told.get("transitionStatus") in {"BlockedByFailedLoad", "InvalidSpec"}
    why, is_broken = _rollout(deployment, uri)
    if why and failed:
        why, is_broken = str(info.get("message") or info.get("reason") or told["transitionStatus"]), True
    if service["metadata"].get("deletionTimestamp"):
        why, is_broken = "it is being deleted", True
    metadata = service["metadata"]
    return Slot(metadata["name"], uri, not why, why, is_broken, metadata["resourceVersion"], metadata["uid"])


def _rollout(deployment: Mapping[str, Any] | None, uri: str) -> tuple[str, bool]:
    """Why a Deployment has not rolled out the model, and whether something is wrong; empty when it has."""
    if deployment is None:
        return "it has no Deployment yet", False
    spec, status = deployment["spec"], deployment.get("status") or {}
    template = (spec["template"].get("metadata", {}).get("annotations") or {}).get(SOURCE)
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return str(condition.get("message") or "its Deployment makes no progress"), True
    if template != uri:
        return f"its Deployment is set to {template or 'no model that it names'}", False
    if int(status.get("observedGeneration") or 0) < int(deployment["metadata"].get("generation") or 0):
        return "its Deployment has not been looked at yet", False
    wanted = int(spec.get("replicas", 1))
    total, updated, able = (int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "availableReplicas"))
    if not wanted == total == updated == able or not able:
        return f"{able} of {wanted} pods answer, {updated} with the model, {total} in all", False
    return "", False


def route_of(found: Mapping[str, Any]) -> Route:
    """The HTTPRoute of driftd. A gateway has taken it over when a parent says so of this generation."""
    rules = found["spec"].get("rules") or [{}]
    weights = {
        one["name"]: int(one.get("weight", 1)) for one in rules[0].get("backendRefs") or () if one.get("weight", 1)
    }
    generation = int(found["metadata"].get("generation") or 0)
    accepted, why = False, "no gateway has taken over the route"
    for parent in found.get("status", {}).get("parents") or ():
        told = {one["type"]: one for one in parent.get("conditions") or ()}
        current = [one for one in told.values() if int(one.get("observedGeneration") or 0) >= generation]
        refused = [one for one in current if one["type"] in {"Accepted", "ResolvedRefs"} and one["status"] != "True"]
        if refused:
            return Route(
                found["metadata"]["resourceVersion"], weights, accepted=False, rule=rules[0],
                why=str(refused[0].get("message") or refused[0].get("reason")),
            )  # fmt: skip
        if {"Accepted", "ResolvedRefs"} <= {one["type"] for one in current}:
            accepted, why = True, ""
    return Route(found["metadata"]["resourceVersion"], weights, accepted, why, rules[0])


def seen(
    service: Mapping[str, Any],
    slots: tuple[Slot, ...],
    route: Route | None,
    installed: Installed,
    frame: Mapping[str, Any],
) -> Seen:
    """A target: the primary's object, its slot first and then those beside it, and the route."""
    return Seen(
        target=service["metadata"]["name"],
        primary=slots[0],
        others=slots[1:],
        route=route,
        objections=tuple(objections(service, installed)),
        annotations=renamed(service),
        source=service,
        mode=installed.name(Mode.STANDARD),
        frame=frame,
    )


def standing(view: Seen, book: Book) -> Standing:
    """The split by versions, and which could get traffic now."""
    total = sum(view.weights.values())
    weights: dict[str, float] = {}
    for service, weight in view.weights.items():
        version = next((book.version_of(slot.uri) for slot in view.slots if slot.service == service), "")
        if not version:
            weights = {}
            break
        weights[version] = weights.get(version, 0.0) + 100 * weight / total
    ready: dict[str, bool] = {}
    problems: dict[str, str] = {}
    for slot in view.slots:
        if version := book.version_of(slot.uri):
            ready[version] = ready.get(version, False) or slot.ready
            problems |= {version: slot.why} if slot.is_broken else {}
    problems = {version: why for version, why in problems.items() if not ready.get(version)}
    return Standing(weights, ready, problems, view.written)


def load(view: Seen, book: Book, version: str) -> Step:
    """Towards `version` (one of the book's) being loaded beside what serves, with no traffic."""
    if view.objections:
        return Refuse(view.objections[0])
    uri = book.versions[version]
    if any(slot.uri == uri for slot in view.slots):
        return Settled()
    if not book.version_of(view.primary.uri):
        return Refuse(
            f"InferenceService {view.target} serves {view.primary.uri}, which is none of the versions that driftd knows",
            f"set it to the champion's model; version {version} lies at {uri}",
        )
    if view.route is None:
        return _routed(view, book, {view.primary.service: 1}, "a route of driftd's own, with everything where it is")
    tidying = rest(view, book)
    if not isinstance(tidying, Settled):
        return tidying
    namespace = view.source["metadata"].get("namespace", "")
    name = slot_name(view.target, version, namespace)
    if len(f"{name}-predictor-{namespace}") > _LABEL:
        return Refuse(
            f"no second InferenceService fits beside {view.target}: with `-predictor-{namespace}` its name would be longer "
            f"than {_LABEL} characters, and KServe would not deploy it",
            "serve the model in a namespace with a shorter name",
        )
    why = f"version {version} beside {view.target}, with no traffic"
    return Write(Act.CREATE, Kind.SERVICE, name, _copy(view, name, version, uri), "", why, book)


def split(view: Seen, book: Book, weights: Mapping[str, float]) -> Step:
    """Towards the split. A version with weight has to be ready."""
    if view.objections:
        return Refuse(view.objections[0])
    wanted: dict[str, int] = {}
    scale = 1 if all(share == int(share) for share in weights.values()) else 1000
    for version, share in weights.items():
        slot = _slot(view, book.versions.get(version, ""))
        if slot is None:
            return Refuse(f"version {version} is not loaded")
        if not slot.ready:
            why = f"version {version} is not ready: {slot.why}"
            return Refuse(why) if slot.is_broken else Wait(why)
        wanted[slot.service] = round(share * scale)
    if len(wanted) == 1:
        wanted = dict.fromkeys(wanted, 1)
    if view.route is None or view.route.weights != wanted:
        return _routed(
            view, book, wanted, f"traffic to {', '.join(f'version {v} {s:g} %' for v, s in weights.items())}"
        )
    return Settled() if view.route.accepted else Wait(view.route.why)


def rest(view: Seen, book: Book) -> Step:
    """Towards the primary serving what was promoted: it gets the model while it has no traffic, then the traffic."""
    if view.objections:
        return Refuse(view.objections[0])
    if view.route is None:
        return _routed(view, book, {view.primary.service: 1}, "a route of driftd's own, with everything where it is")
    if len(view.route.weights) != 1:
        return Settled()
    if not view.route.accepted:
        return Wait(view.route.why)
    holder = next((slot for slot in view.slots if {slot.service: 1} == view.route.weights), None)
    if holder is None:
        return Refuse(f"the route of {view.target} goes to {', '.join(view.route.weights)}, which is none of driftd's")
    if holder == view.primary:
        done = next((slot for slot in view.others if slot.uri == holder.uri), None)
        return Settled() if done is None else _gone(done, book, "its model has moved into the first one")
    version = book.version_of(holder.uri)
    if view.primary.uri != holder.uri:
        return _moved(view, book, holder.uri, version)
    if not view.primary.ready:
        return Wait(f"version {version} in {view.target}: {view.primary.why}")
    return _routed(view, book, {view.primary.service: 1}, f"version {version} is in {view.target} itself now")


def retire(view: Seen, book: Book, version: str) -> Step:
    """Towards the version not being loaded beside the primary any more. What the primary has is left to `rest`."""
    uri = book.versions.get(version, "")
    for slot in view.others:
        if slot.uri != uri:
            continue
        if view.weights.get(slot.service):
            return Refuse(f"version {version} has traffic")
        if view.route is not None and not view.route.accepted:
            return Wait(view.route.why)
        return _gone(slot, book, f"version {version} has no traffic any more")
    return Settled()


def slot_name(target: str, version: str, namespace: str) -> str:
    """The InferenceService that holds a version beside the target's own: the same name for the same version. As short as
    KServe needs it in this namespace, but never shorter than 13 characters.
    """
    room = _LABEL - len(f"-predictor-{namespace}")
    plain = "".join(letter if letter.isalnum() else "-" for letter in version.lower()).strip("-")
    name = f"{target}-v{plain}"
    if len(name) <= room and plain == version:
        return name
    digest = hashlib.sha256(f"{target} {version}".encode()).hexdigest()[:10]
    return f"{target[: max(1, room - 12)]}-v{digest}"


def first(target: str, version: str, predictor: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The first InferenceService of a target that has none."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": target,
            "labels": {"app.kubernetes.io/managed-by": "driftd"},
            "annotations": {MODE: mode},
        },
        "spec": {"predictor": {**predictor, "labels": {"endpoint": version}}},
    }


def _slot(view: Seen, uri: str) -> Slot | None:
    """Where the model is loaded; of two places the one with traffic, then a ready one, the primary before others."""
    found = [slot for slot in view.slots if slot.uri == uri]
    return max(found, key=lambda slot: (slot.ready, view.weights.get(slot.service, 0)), default=None)


def _copy(view: Seen, name: str, version: str, uri: str) -> dict[str, Any]:
    """An InferenceService like the primary, with another model, that goes when the primary goes."""
    metadata = view.source["metadata"]
    predictor = dict(view.source["spec"]["predictor"])
    predictor.pop("canaryTrafficPercent", None)
    predictor["model"] = {**predictor["model"], "storageUri": uri}
    predictor["labels"] = {**(predictor.get("labels") or {}), "endpoint": version}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in PER_OBJECT}
    owner = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "labels": {
                **(metadata.get("labels") or {}),
                "app.kubernetes.io/managed-by": "driftd",
                TARGET: view.target,
                VERSION: version,
            },
            "annotations": {**annotations, MODE: view.mode},
            "ownerReferences": [owner],
        },
        "spec": {"predictor": predictor},
    }


def _routed(view: Seen, book: Book, weights: Mapping[str, int], why: str) -> Write:
    rule: dict[str, Any] = dict(view.route.rule) if view.route is not None else {}
    rule["backendRefs"] = [
        {"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight} for name, weight in weights.items()
    ]
    after = book.writing(view.written, _written(weights, view.primary.uri))
    name = route_name(view.target)
    if view.route is not None:
        return Write(Act.PATCH, Kind.ROUTE, name, {"spec": {"rules": [rule]}}, view.route.resource_version, why, after)
    uid = view.source["metadata"]["uid"]
    owner = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": view.target, "uid": uid,
    }  # fmt: skip
    labels = {"app.kubernetes.io/managed-by": "driftd", TARGET: view.target}
    body = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {**view.frame, "rules": [rule]},
    }
    return Write(Act.CREATE, Kind.ROUTE, name, body, "", why, after)


def route_name(target: str) -> str:
    """The name of driftd's route of a target; KServe's own are called like the target and `TARGET-predictor`."""
    return f"{target}-driftd"


def _moved(view: Seen, book: Book, uri: str, version: str) -> Write:
    predictor = {"model": {"storageUri": uri}, "labels": {"endpoint": version}}
    body: dict[str, Any] = {"spec": {"predictor": predictor}}
    if view.annotations:
        body["metadata"] = {"annotations": dict(view.annotations)}
    after = book.writing(view.written, _written(view.weights, uri))
    why = f"version {version} moves in, while the route holds the traffic elsewhere"
    return Write(Act.PATCH, Kind.SERVICE, view.target, body, view.primary.resource_version, why, after)


def _gone(slot: Slot, book: Book, why: str) -> Write:
    return Write(Act.DELETE, Kind.SERVICE, slot.name, {}, slot.uid, why, book)


def _written(weights: Mapping[str, int], uri: str) -> str:
    split = " ".join(f"{name}={weight}" for name, weight in sorted(weights.items()))
    return f"{split} {uri}"
