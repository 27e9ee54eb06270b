"""A test double of KServe's and Knative's *controllers*: what they make of an InferenceService, one small step at a time.

It follows KServe 0.16 (ksvc_reconciler.go: the traffic targets; inference_service_status.go: PropagateStatus) and Knative
Serving 0.44 (service.go keeps the old configuration status until the configuration is observed, but passes the route's
status on). Real controllers make these steps whenever they like; a test makes them in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.platforms.kserve import knative
from daemon.platforms.kserve.modes import SOURCE, Installed


@dataclass
class Made:
    """A revision."""

    name: str
    uri: str
    ready: bool = False


@dataclass
class PlayedKnative:
    """One InferenceService, with everything that the controllers make of it."""

    uri: str
    percent: int | None = None
    resource_version: int = 1
    annotations: dict[str, str] = field(default_factory=dict)
    # what KServe has written into the InferenceService's status
    created: str = ""
    ready: str = ""
    rolled_out: str = ""
    previous: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)
    # the Knative Service: spec, and status
    template: str = ""
    generation: int = 0
    """Of the template: every change of it makes a revision, even one back to what it was."""
    targets: list[dict[str, Any]] = field(default_factory=list)
    service_created: str = ""
    service_ready: str = ""
    service_traffic: list[dict[str, Any]] = field(default_factory=list)
    # the Configuration and the Route
    revisions: list[Made] = field(default_factory=list)
    observed: int = 0
    """The generation that the newest revision was made of."""
    newest_ready: str = ""
    route: list[dict[str, Any]] = field(default_factory=list)
    """Where requests really go."""

    # -- steps of the controllers

    def kserve(self) -> None:
        """KServe reconciles: the Knative Service's template and traffic, then the status from the Knative Service."""
        self.generation += self.template != self.uri
        self.template = self.uri
        latest: dict[str, Any] = {"latestRevision": True, "percent": 100}
        self.targets = [latest]
        if self.percent is not None and self.rolled_out:
            latest["percent"] = self.percent
            if self.percent < 100:
                self.targets.append({
                    "revisionName": self.rolled_out, "latestRevision": False, "percent": 100 - self.percent, "tag": "prev",
                })  # fmt: skip
        self._propagate()

    def _propagate(self) -> None:
        self.created = self.service_created
        sums: dict[str, int] = {}
        for one in self.service_traffic:
            sums[one["revisionName"]] = sums.get(one["revisionName"], 0) + one["percent"]
        for one in self.service_traffic:
            if one["revisionName"] != self.service_ready or not one["latestRevision"]:
                continue
            if self.rolled_out != self.service_ready:
                if one["percent"] == 100:
                    self.previous, self.rolled_out = self.rolled_out, self.service_ready
            elif (
                self.service_ready == self.service_created
                and one["percent"] < 100
                and sums[one["revisionName"]] == 100
                and self.previous
            ):
                self.rolled_out = self.previous
        self.ready = self.service_ready
        self.told = [dict(one) for one in self.service_traffic]
        self.resource_version += 1

    def configuration(self) -> None:
        """Knative makes a revision of a template that it has not seen."""
        if self.observed != self.generation:
            self.observed = self.generation
            self.revisions.append(Made(f"r{len(self.revisions) + 1}", self.template))

    def becomes_ready(self, index: int = -1) -> None:
        """A revision's pods answer; `latestRevision` is the newest one that ever did."""
        if not self.revisions:
            return
        self.revisions[index].ready = True
        self.newest_ready = [one.name for one in self.revisions if one.ready][-1]

    def routes(self) -> None:
        """Knative routes requests as the Knative Service says."""
        if not self.newest_ready:
            return
        self.route = [{**one, "revisionName": one.get("revisionName") or self.newest_ready} for one in self.targets]

    def service(self) -> None:
        """The Knative Service's status: of the configuration when that has seen the template, of the route always."""
        if self.revisions and self.observed == self.generation:
            self.service_created, self.service_ready = self.revisions[-1].name, self.newest_ready
        self.service_traffic = [dict(one) for one in self.route]

    def settle(self) -> None:
        """All of it, until nothing changes any more."""
        for _ in range(4):
            self.kserve()
            self.configuration()
            self.becomes_ready()
            self.routes()
            self.service()
            self.kserve()

    # -- what a client sees and does

    def patch(self, predictor: Mapping[str, Any]) -> None:
        """A merge-patch of spec.predictor."""
        if "canaryTrafficPercent" in predictor:
            self.percent = predictor["canaryTrafficPercent"]
        if "model" in predictor:
            self.uri = predictor["model"]["storageUri"]
        self.resource_version += 1

    def seen(self) -> knative.Seen:
        """The InferenceService and its revisions, read as driftd reads them."""
        predictor: dict[str, Any] = {"model": {"modelFormat": {"name": "mlflow"}, "storageUri": self.uri}}
        if self.percent is not None:
            predictor["canaryTrafficPercent"] = self.percent
        status = {
            "latestCreatedRevision": self.created, "latestReadyRevision": self.ready,
            "latestRolledoutRevision": self.rolled_out, "previousRolledoutRevision": self.previous, "traffic": self.told,
        }  # fmt: skip
        service = {
            "metadata": {
                "name": "churn", "resourceVersion": str(self.resource_version), "annotations": dict(self.annotations),
            },
            "spec": {"predictor": predictor},
            "status": {"deploymentMode": "Knative", "components": {"predictor": status}},
        }  # fmt: skip
        revisions = {
            one.name: knative.revision_of({
                "metadata": {"annotations": {SOURCE: one.uri}},
                "status": {"conditions": [{"type": "Ready", "status": "True" if one.ready else "Unknown"}]},
            })
            for one in self.revisions
        }  # fmt: skip
        return knative.seen(service, revisions, Installed())

    def share(self, uri: str) -> int:
        """Percent of the requests that really go to the model."""
        uris = {one.name: one.uri for one in self.revisions}
        return sum(one["percent"] for one in self.route if uris[one["revisionName"]] == uri)


def after_a_promotion() -> PlayedKnative:
    """Version 1 serves everything, and version 0 did before it."""
    played = PlayedKnative("s3://0")
    played.settle()
    played.patch({"model": {"storageUri": "s3://1"}})
    played.settle()
    assert played.share("s3://1") == 100
    assert (played.rolled_out, played.previous) == ("r2", "r1")
    return played
