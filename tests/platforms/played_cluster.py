"""What controllers do for InferenceServices on an API server, played by tests. Real are the API server, its definitions of
KServe, Knative and the Gateway API, and Kubernetes' own controllers; played are KServe's, Knative's and the gateway's.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import httpx

from daemon.platforms.kserve.modes import SOURCE
from tests.cluster import playing
from tests.cluster.admin import Admin
from tests.platforms.played_knative import PlayedKnative

SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices"
KNATIVE_SERVICES = "/apis/serving.knative.dev/v1/namespaces/{}/services"
REVISIONS = "/apis/serving.knative.dev/v1/namespaces/{}/revisions"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes"
LOOK_S = 0.05


class Played:
    """Plays in a thread of its own for as long as the block runs; what went wrong there fails the test at its end."""

    mode = ""
    """The mode in which the InferenceServices are."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        self.admin = admin
        self.namespace = namespace
        self.broken: set[str] = set()
        """Addresses of models that never load."""
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="played", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure

    def look(self) -> None:
        """One round of all the controllers."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except (httpx.HTTPError, KeyError, AssertionError) as error:
                told = getattr(error, "response", None)
                if told is not None and told.status_code in {404, 409, 429}:
                    continue  # it was changed between the read and the write, or the server asks for time
                self._failure = error
                return

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        found: list[dict[str, Any]] = self.admin.get(path.format(self.namespace))["items"]
        return found

    def status(self, path: str, name: str, status: dict[str, Any]) -> None:
        """Write an object's status."""
        self.admin.merge(f"{path.format(self.namespace)}/{name}/status", {"status": status})


class PlayedInKnativeMode(Played):
    """KServe's and Knative's controllers, as `PlayedKnative` models them, on real objects."""

    mode = "Knative"

    def __init__(self, admin: Admin, namespace: str) -> None:
        super().__init__(admin, namespace)
        self.models: dict[str, PlayedKnative] = {}
        self._told: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """See Played."""
        for service in self.items(SERVICES):
            name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
            model = self.models.setdefault(name, PlayedKnative(predictor["model"]["storageUri"]))
            model.uri, model.percent = predictor["model"]["storageUri"], predictor.get("canaryTrafficPercent")
            for _ in range(2):
                model.kserve()
                model.configuration()
                if model.revisions[-1].uri not in self.broken:
                    model.becomes_ready()
                model.routes()
                model.service()
                model.kserve()
            self._tell(name, model)

    def _make_revisions(self, name: str, model: PlayedKnative) -> None:
        for one in model.revisions:
            path = f"{REVISIONS.format(self.namespace)}/{name}-{one.name}"
            if not self.admin.exists(path):
                container = {"name": "kserve-container", "image": "none"}
                metadata = {"name": f"{name}-{one.name}", "annotations": {SOURCE: one.uri}}
                body = {
                    "apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": metadata,
                    "spec": {"containers": [container]},
                }  # fmt: skip
                self.admin.create(REVISIONS.format(self.namespace), body)
            wanted = {"type": "Ready", "status": "True" if one.ready else "Unknown"}
            self._status_once(REVISIONS, f"{name}-{one.name}", {"conditions": [wanted]})

    def _tell(self, name: str, model: PlayedKnative) -> None:
        self._make_revisions(name, model)
        full = f"{name}-{{}}".format
        component = {
            "latestCreatedRevision": full(model.created) if model.created else "",
            "latestReadyRevision": full(model.ready) if model.ready else "",
            "latestRolledoutRevision": full(model.rolled_out) if model.rolled_out else "",
            "previousRolledoutRevision": full(model.previous) if model.previous else "",
            "traffic": [{**one, "revisionName": full(one["revisionName"])} for one in model.told],
        }
        self._status_once(SERVICES, name, {"deploymentMode": "Knative", "components": {"predictor": component}})

    def _status_once(self, path: str, name: str, status: dict[str, Any]) -> None:
        if self._told.get(name) != status:
            self.status(path, name, status)
            self._told[name] = status


class PlayedBesideKserve(PlayedInKnativeMode):
    """Knative's controllers alone: a real KServe writes the Knative Services, and reads what is told of them here."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        super().__init__(admin, namespace)
        self._templates: dict[str, Any] = {}

    def look(self) -> None:
        """See Played."""
        for service in self.items(KNATIVE_SERVICES):
            name, template = service["metadata"]["name"], service["spec"]["template"]
            model = self.models.setdefault(name, PlayedKnative(""))
            model.generation += self._templates.get(name) != template
            self._templates[name] = template
            model.template = template["metadata"]["annotations"][SOURCE]
            model.targets = [
                {"latestRevision": False, **one, "revisionName": one.get("revisionName", "").removeprefix(f"{name}-")}
                for one in service["spec"].get("traffic") or ()
            ]
            model.configuration()
            if model.template not in self.broken:
                model.becomes_ready()
            model.routes()
            model.service()
            self._make_revisions(name, model)
            self._tell_kserve(name, service["metadata"]["generation"], model)

    def _tell_kserve(self, name: str, generation: int, model: PlayedKnative) -> None:
        at = "2026-01-01T00:00:00Z"
        kinds = ("Ready", "ConfigurationsReady", "RoutesReady")
        status = {
            "observedGeneration": generation,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": at} for kind in kinds],
            "traffic": [{**one, "revisionName": f"{name}-{one['revisionName']}"} for one in model.service_traffic],
            "url": f"http://{name}.example.com",
        }
        for key, revision in (
            ("latestCreatedRevisionName", model.service_created), ("latestReadyRevisionName", model.service_ready),
        ):  # fmt: skip
            if revision:
                status[key] = f"{name}-{revision}"
        self._status_once(KNATIVE_SERVICES, name, status)


class PlayedInStandardMode(Played):
    """KServe's controller makes a Deployment per InferenceService, a kubelet runs its pods, a gateway takes over routes.

    The Deployments and their pods are Kubernetes' own. With `kserve=False` a real KServe makes the Deployments.
    """

    mode = "Standard"

    def __init__(self, admin: Admin, namespace: str, kserve: bool = True) -> None:
        super().__init__(admin, namespace)
        self._kserve = kserve

    def look(self) -> None:
        """See Played."""
        if self._kserve:
            for service in self.items(SERVICES):
                self._deploy(service)
            names = {f"{one['metadata']['name']}-predictor" for one in self.items(SERVICES)}
            for deployment in self.items(DEPLOYMENTS):
                if deployment["metadata"]["name"] not in names:
                    self.admin.delete(f"{DEPLOYMENTS.format(self.namespace)}/{deployment['metadata']['name']}")
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        for pod in self.items(pods):
            uri = (pod["metadata"].get("annotations") or {}).get(SOURCE)
            if pod["metadata"].get("deletionTimestamp"):
                self.admin.delete(f"{pods}/{pod['metadata']['name']}", gracePeriodSeconds="0")
            elif pod["status"]["phase"] == "Pending" and uri not in self.broken:
                playing.pod(self.admin, self.namespace, pod["metadata"]["name"], "Running")
        for route in self.items(ROUTES):
            self._accept(route)

    def _deploy(self, service: dict[str, Any]) -> None:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        labels = {"app": f"isvc.{name}-predictor"}
        pod = {
            "metadata": {"labels": labels, "annotations": {SOURCE: predictor["model"]["storageUri"]}},
            "spec": {"containers": [{"name": "kserve-container", "image": "none"}]},
        }
        deployment = {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": f"{name}-predictor", "namespace": self.namespace},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        }  # fmt: skip
        self.admin.apply(deployment)
        if service.get("status", {}).get("deploymentMode") != "Standard":
            ready = {"type": "Ready", "status": "True"}
            self.status(SERVICES, name, {"deploymentMode": "Standard", "conditions": [ready]})

    def _accept(self, route: dict[str, Any]) -> None:
        generation, parents = route["metadata"]["generation"], route.get("status", {}).get("parents") or []
        if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
            return
        at = "2026-01-01T00:00:00Z"
        conditions = [
            {
                "type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": at,
                "observedGeneration": generation,
            }
            for kind in ("Accepted", "ResolvedRefs")
        ]  # fmt: skip
        parent = {
            "parentRef": route["spec"]["parentRefs"][0], "controllerName": "tests.driftd.io/played",
            "conditions": conditions,
        }  # fmt: skip
        self.status(ROUTES, route["metadata"]["name"], {"parents": [parent]})
