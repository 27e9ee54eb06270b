"""Deployment modes of an InferenceService under both of their names, and what keeps driftd from touching one.

KServe 0.16 renamed `Serverless` to `Knative` and `RawDeployment` to `Standard`. Its webhook compares the annotation with
the status as they are written, so an old name beside a new one makes every update fail, even the removal of a finalizer;
and a status with an old name is taken for Knative by a new controller, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

MODE = "serving.kserve.io/deploymentMode"
"""The annotation."""
NO_UPDATES = "serving.kserve.io/disable-auto-update"
STOP = "serving.kserve.io/stop"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
"""The annotation of a pod template that says which model its pods load."""
PER_OBJECT = (MODE, NO_UPDATES, STOP, "kubectl.kubernetes.io/last-applied-configuration")
"""Annotations of an InferenceService that say nothing about a copy of it."""


class Mode(Enum):
    """How an InferenceService is deployed, by KServe's newer names."""

    KNATIVE = "Knative"
    STANDARD = "Standard"


_MODES: Mapping[str, Mode] = MappingProxyType({
    "Knative": Mode.KNATIVE, "Serverless": Mode.KNATIVE, "Standard": Mode.STANDARD, "RawDeployment": Mode.STANDARD,
})  # fmt: skip
_OLD: Mapping[Mode, str] = MappingProxyType({Mode.KNATIVE: "Serverless", Mode.STANDARD: "RawDeployment"})


@dataclass(frozen=True, slots=True)
class Installed:
    """The KServe of the cluster, as far as it matters here."""

    modern: bool = True
    """0.16 or later: writes `Standard` and `Knative`."""
    default: str = ""
    """`defaultDeploymentMode` of its ConfigMap; empty when it could not be read."""

    def name(self, mode: Mode) -> str:
        """The mode as this KServe writes it."""
        return mode.value if self.modern else _OLD[mode]


def mode_named(name: str) -> Mode | None:
    """The mode of either of its names; None for others."""
    return _MODES.get(name)


def default_mode(config: Mapping[str, Any]) -> str:
    """`defaultDeploymentMode` of KServe's ConfigMap; empty when it has none."""
    try:
        deploy = json.loads((config.get("data") or {}).get("deploy") or "{}")
    except ValueError:
        return ""
    return str(deploy.get("defaultDeploymentMode") or "") if isinstance(deploy, dict) else ""


def is_modern(crd: Mapping[str, Any]) -> bool:
    """Whether the CRD of InferenceServices is of 0.16 or later: predictors have `storageUris` since. A CRD without a
    schema (KServe's minimal ones) is taken for a new one.
    """
    for version in crd.get("spec", {}).get("versions", ()):
        schema = version.get("schema", {}).get("openAPIV3Schema", {})
        spec = schema.get("properties", {}).get("spec", {}).get("properties", {})
        predictor = spec.get("predictor", {}).get("properties", {})
        if predictor:
            return "storageUris" in predictor
    return True


def mode_of(service: Mapping[str, Any], installed: Installed) -> Mode | None:
    """How the InferenceService is deployed: by its status, else its annotation, else the cluster's default; None for
    ModelMesh and for what driftd does not know.
    """
    annotations = service["metadata"].get("annotations") or {}
    said = service.get("status", {}).get("deploymentMode") or annotations.get(MODE) or installed.default
    return _MODES.get(str(said))


def renamed(service: Mapping[str, Any]) -> dict[str, str]:
    """What must be put right of the annotations for any write to get through: the mode under the status's name."""
    annotation = (service["metadata"].get("annotations") or {}).get(MODE)
    status = service.get("status", {}).get("deploymentMode")
    if not annotation or not status or annotation == status:
        return {}
    return {MODE: status} if _MODES.get(annotation) == _MODES.get(status) else {}


def objections(service: Mapping[str, Any], installed: Installed) -> Iterator[str]:
    """Why driftd must not change this InferenceService; nothing when it may."""
    name = service["metadata"]["name"]
    annotations = service["metadata"].get("annotations") or {}
    status = str(service.get("status", {}).get("deploymentMode") or "")
    mode = mode_of(service, installed)
    if service["metadata"].get("deletionTimestamp"):
        yield f"InferenceService {name} is being deleted"
    if mode is None:
        yield f"InferenceService {name} is deployed as {status or annotations.get(MODE) or 'unknown'}, which driftd cannot drive"
    if installed.modern and status in _OLD.values():
        yield (
            f"the status of InferenceService {name} says {status}, from before KServe 0.16: this KServe takes that for "
            "Knative whatever it says; delete and create it anew"
        )
    if annotations.get(NO_UPDATES) == "true":
        yield f"InferenceService {name} has the annotation {NO_UPDATES}: KServe would ignore what driftd writes"
    if annotations.get(STOP) == "true":
        yield f"InferenceService {name} is stopped by the annotation {STOP}"
    yield from _shape(name, service.get("spec", {}), mode)


def _shape(name: str, spec: Mapping[str, Any], mode: Mode | None) -> Iterator[str]:
    predictor = spec.get("predictor") or {}
    model = predictor.get("model")
    if model is None:
        yield f"the predictor of InferenceService {name} has no `model`: other forms lose fields when they are patched"
    elif not model.get("storageUri") or model.get("storage") or predictor.get("storageUris"):
        yield f"the model of InferenceService {name} does not come from `storageUri` alone"
    others = [other for other in ("transformer", "explainer") if spec.get(other)]
    if mode is Mode.STANDARD and others:
        yield f"InferenceService {name} has a {others[0]}, which a second predictor beside it would not go through"
