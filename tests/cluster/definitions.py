"""The custom resource definitions of the platforms, read out of their own Go modules and applied to a test cluster.

Nothing of them lies in this repository: modules/definitions/go.mod pins the versions and go.sum what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster import golang
from tests.cluster.admin import Admin, Json
from tests.cluster.places import NoCluster

MODULE = "definitions"

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
    "training-operator": ("github.com/kubeflow/training-operator", "manifests/base/crds", ()),
    "trainer": (
        "github.com/kubeflow/trainer/v2",
        "manifests/base/crds",
        ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
    ),
    "jobset": ("sigs.k8s.io/jobset", "config/components/crd/bases", ()),
    "argo": ("github.com/argoproj/argo-workflows/v3", "manifests/base/crds/full", ()),
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
    names = [admin.apply(document)["metadata"]["name"] for platform in platforms for document in documents(platform)]
    for name in names:
        admin.wait(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", _established)
    return names


def _established(definition: Json) -> bool:
    told = definition.get("status", {}).get("conditions", [])
    return any(one["type"] == "Established" and one["status"] == "True" for one in told)


def _kind(path: Path) -> str:
    return path.stem.rsplit("_", 1)[-1]
