"""The custom resource definitions of the platforms, read out of their own Go modules and applied to a test cluster.

Nothing of them lies in this repository: modules/definitions/go.mod pins the versions and go.sum what they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster import golang
from tests.cluster.admin import Admin, Json
from tests.cluster.places import NoCluster

MODULE = "definitions"
SERVED_S = 120.0
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

PLACES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "kserve": (
        "github.com/kserve/kserve",
        "config/crd/full",
        ("inferenceservices", "inferencegraphs", "trainedmodels", "servingruntimes", "clusterservingruntimes",
         "clusterstoragecontainers"),
    ),
    "knative": ("knative.dev/serving", "config/core/300-resources", ("configuration", "revision", "route", "service")),
    "gateway": ("sigs.k8s.io/gateway-api", "config/crd/standard", ()),
    "katib": ("github.com/kubeflow/katib", "manifests/v1beta1/components/crd", ("experiment", "suggestion", "trial")),
    "training-operator": ("github.com/kubeflow/training-operator", "manifests/base/crds", ("pytorchjobs",)),
    "trainer": (
        "github.com/kubeflow/trainer/v2",
        "manifests/base/crds",
        ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
    ),
    "jobset": ("sigs.k8s.io/jobset", "config/components/crd/bases", ()),
    "argo": ("github.com/argoproj/argo-workflows/v3", "manifests/base/crds/minimal", ()),
}  # fmt: skip
"""By platform: the module, the folder in it, and which files' definitions (the end of their names; none: all of them)."""


def documents(platform: str) -> Iterator[Json]:
    """The definitions of a platform; NoCluster when its module cannot be had."""
    module, folder, wanted = PLACES[platform]
    place = golang.fetched(MODULE, module) / folder
    paths = [path for path in sorted(place.glob("*.yaml")) if not wanted or _kind(path) in wanted]
    if len(paths) < len(wanted) or not paths:
        raise NoCluster(f"{place} has not the definitions of {platform} ({', '.join(wanted) or 'any'})")
    for path in paths:
        for document in yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader):
            if document and document.get("kind") == "CustomResourceDefinition":
                yield document


def apply(admin: Admin, *platforms: str) -> list[str]:
    """Applies platforms' definitions and waits until the API server serves them; their names. Twice is as good as once."""
    applied = [admin.apply(document) for platform in platforms for document in documents(platform)]
    for one in applied:
        for version in one["spec"]["versions"]:
            if version["served"]:
                _wait(admin, one["spec"]["group"], version["name"], one["spec"]["names"]["plural"])
    return [one["metadata"]["name"] for one in applied]


def _wait(admin: Admin, group: str, version: str, plural: str) -> None:
    """Until a kind is listed, and who asks what kinds there are (discovery, in both its ways) is told of it.

    For a moment after its definition it is not known, then not ready (429); discovery comes to know it last.
    """
    until = time.monotonic() + SERVED_S
    pause = threading.Event()
    while not _is_served(admin, group, version, plural):
        if time.monotonic() > until:
            raise NoCluster(f"{group}/{version} {plural} are not served {SERVED_S:g} s after they were defined")
        pause.wait(0.05)


def _is_served(admin: Admin, group: str, version: str, plural: str) -> bool:
    path = f"/apis/{group}/{version}"
    if not admin.http.get(f"{path}/{plural}", params={"limit": "1"}).is_success:
        return False
    told = admin.http.get(path)
    if not told.is_success or plural not in {one["name"] for one in told.json()["resources"]}:
        return False
    known = admin.http.get("/apis", headers={"Accept": DISCOVERY}).json()["items"]
    return any(
        plural == kind["resource"]
        for one in known
        if one["metadata"]["name"] == group
        for kept in one["versions"]
        if kept["version"] == version
        for kind in kept.get("resources", [])
    )


def _kind(path: Path) -> str:
    return path.stem.rsplit("_", 1)[-1]
