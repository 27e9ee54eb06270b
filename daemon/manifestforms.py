"""What a template's manifest must be, checked at load: the API server would say it only when a rule fires.

Each kind that does a verb's work has its own traps: what its controller does not check, or mends only with its webhook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from daemon.core.manifests import CALL, FACTS, PARAMETER, TEXT, Place, places
from daemon.core.spelling import did_you_mean
from daemon.documents import Where

JOBS = ("Job of batch/v1", "PyTorchJob of kubeflow.org/v1", "TrainJob of trainer.kubeflow.org/v1alpha1",
        "Workflow of argoproj.io/v1alpha1")  # fmt: skip
"""Kinds that run to an end."""
SWEEPS = ("Experiment of kubeflow.org/v1beta1",)
"""Kinds that look for the best parameters."""
_EXPERIMENT = (
    ("maxTrialCount",), ("parallelTrialCount",), ("objective", "objectiveMetricName"), ("objective", "type"),
    ("trialTemplate", "primaryContainerName"), ("trialTemplate", "trialParameters"), ("trialTemplate", "trialSpec"),
)  # fmt: skip
"""Katib's CRD checks nothing: without these its controller panics, or starts a finished experiment again."""


class Wrong(NamedTuple):
    """A mistake, and where in the manifest it is."""

    where: Where
    message: str


def wrong_with(manifest: Mapping[str, Any], verb: str, parameters: Mapping[str, Any]) -> Iterator[Wrong]:
    """What is wrong with the manifest of a template for `verb`, which declares `parameters`."""
    for place in places(manifest):
        yield from _wrong_place(place, parameters)
    missing = [name for name in ("apiVersion", "kind") if not isinstance(manifest.get(name), str)]
    if missing:
        yield Wrong((), f"a manifest says its {' and '.join(missing)}")
        return
    kind = f"{manifest['kind']} of {manifest['apiVersion']}"
    if verb != "apply":
        fitting = SWEEPS if verb == "tune" else JOBS
        if kind not in fitting:
            yield Wrong(("kind",), f"{verb} is done by {' or '.join(fitting)}, not by {kind}")
            return
    yield from _metadata(manifest.get("metadata", {}), verb)
    spec = manifest.get("spec", {})
    if kind in {*JOBS, *SWEEPS} and not isinstance(spec, dict):
        yield Wrong(("spec",), "spec is a mapping")
        return
    yield from _spec(kind, spec)


def _metadata(metadata: Any, verb: str) -> Iterator[Wrong]:
    if not isinstance(metadata, dict):
        yield Wrong(("metadata",), "metadata is a mapping")
        return
    name = metadata.get("name")
    if verb == "apply" and not isinstance(name, str):
        yield Wrong(("metadata",), "apply works on one object: say metadata.name")
    if verb != "apply":
        for key in ("name", "generateName"):
            if key in metadata:
                yield Wrong(("metadata", key), f"driftd names what it makes after the call: leave {key} out")
        if "namespace" in metadata:
            yield Wrong(("metadata", "namespace"), "jobs run in platform.namespace: leave namespace out")
    elif "namespace" in metadata and not isinstance(metadata["namespace"], str):
        yield Wrong(("metadata", "namespace"), "a namespace is named, never computed")


def _spec(kind: str, spec: Mapping[str, Any]) -> Iterator[Wrong]:
    if kind.startswith("Experiment"):
        for path in _EXPERIMENT:
            found: Any = spec
            for key in path:
                found = found.get(key) if isinstance(found, dict) else None
            if found is None:
                yield Wrong(("spec",), f"an Experiment needs spec.{'.'.join(path)}")
    if kind.startswith("PyTorchJob"):
        replicas = spec.get("pytorchReplicaSpecs")
        for role, one in replicas.items() if isinstance(replicas, dict) else ():
            containers = _at(one, "template", "spec", "containers")
            if isinstance(containers, list) and not any(_at(item, "name") == "pytorch" for item in containers):
                yield Wrong(("spec", "pytorchReplicaSpecs", role), "the operator looks for a container named pytorch")


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _wrong_place(place: Place, parameters: Mapping[str, Any]) -> Iterator[Wrong]:
    if place.sort not in {PARAMETER, TEXT, CALL}:
        hint = did_you_mean(place.sort, (PARAMETER, TEXT, CALL))
        yield Wrong(place.where, f"there is no place {place.sort}{hint}; known are {PARAMETER}, {TEXT}, {CALL}")
        return
    known = FACTS if place.sort == CALL else tuple(parameters)
    if not isinstance(place.name, str) or place.name not in known:
        what = "fact of a call" if place.sort == CALL else "parameter"
        hint = did_you_mean(str(place.name), known) or f"; known are {', '.join(known) or 'none'}"
        yield Wrong(place.where, f"there is no {what} {place.name}{hint}")
