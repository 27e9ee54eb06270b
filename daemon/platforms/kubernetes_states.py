"""How a job of a cluster stands, read from the objects that its controller and the kubelets write. Pure.

Each kind says it its own way, with its own traps (each seen with the real controllers):

| kind | has ended when | trap |
|---|---|---|
| Job | condition Complete or Failed | SuccessCriteriaMet and FailureTarget come earlier: pods still run |
| PyTorchJob | condition Succeeded or Failed | conditions stay with status False; a failed pod is deleted and made again |
| TrainJob | condition Complete or Failed | its status is empty while it runs, and for ever when its runtime is missing |
| Workflow | phase Succeeded, Failed or Error | no status subresource |
| Experiment | condition Succeeded or Failed | Succeeded counts failed trials too: only a best trial makes it one |

What a pod says decides why: its containers' last states, its own reason, its scheduling.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.clients.kubernetes_objects import Kind, Object
from daemon.platforms.base import JobState

JOB = Kind("batch/v1", "Job")
PYTORCH_JOB = Kind("kubeflow.org/v1", "PyTorchJob")
TRAIN_JOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob")
WORKFLOW = Kind("argoproj.io/v1alpha1", "Workflow")
EXPERIMENT = Kind("kubeflow.org/v1beta1", "Experiment")
POD = Kind("v1", "Pod")

POD_LABELS: Mapping[Kind, str] = {
    JOB: "batch.kubernetes.io/job-name",
    PYTORCH_JOB: "training.kubeflow.org/job-name",
    TRAIN_JOB: "jobset.sigs.k8s.io/jobset-name",
    WORKFLOW: "workflows.argoproj.io/workflow",
}
"""The label by which each kind's pods are found; its value is the job's name."""

_ENDS: Mapping[Kind, tuple[str, str]] = {
    JOB: ("Complete", "Failed"),
    PYTORCH_JOB: ("Succeeded", "Failed"),
    TRAIN_JOB: ("Complete", "Failed"),
    EXPERIMENT: ("Succeeded", "Failed"),
}
"""The conditions that say that it ended, well and badly."""
_CANNOT_START = frozenset({
    "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError",
})  # fmt: skip
"""Why a container waits that will not start by waiting."""
NOT_YET = 75
"""EX_TEMPFAIL: the program could not work yet."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a job, as far as its own object says."""

    state: JobState
    why: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    queued: bool = False
    """It waits to be let in (suspended, as by a queue): that it has not started is no trouble."""


@dataclass(frozen=True, slots=True)
class PodFate:
    """What a pod tells about its job."""

    name: str
    phase: str
    why: str = ""
    """What went wrong with it: `OOMKilled`, `Evicted: …`; empty when nothing did."""
    stuck: str = ""
    """Why it cannot start; it may yet, but not by itself."""
    exit: int | None = None
    """The exit status of the container that failed, or of its main one that ended well."""
    message: str = ""
    """The termination message of that container: at most 4 KiB that the program wrote."""
    started: bool = False
    """Some container of it has run."""


def fate_of(kind: Kind, found: Object) -> Fate:
    """How the job stands by its own object: RUNNING until its controller says that it has ended."""
    status = found.get("status") or {}
    if kind == WORKFLOW:
        return _workflow(status)
    good, bad = _ENDS[kind]
    conditions = {str(one.get("type")): one for one in status.get("conditions") or () if one.get("status") == "True"}
    if bad in conditions:
        return Fate(JobState.FAILED, _said(conditions[bad]))
    if good in conditions:
        return _swept(status, conditions[good]) if kind == EXPERIMENT else Fate(JobState.DONE, _said(conditions[good]))
    if "Suspended" in conditions:
        return Fate(JobState.RUNNING, f"suspended: {_said(conditions['Suspended'])}", queued=True)
    return Fate(JobState.RUNNING, _progress(kind, status, conditions))


def _progress(kind: Kind, status: Mapping[str, Any], conditions: Mapping[str, Any]) -> str:
    if kind == JOB:
        ready, active, failed = (int(status.get(key) or 0) for key in ("ready", "active", "failed"))
        return f"{ready} of {active} pods ready" + (f", {failed} failed before" if failed else "")
    if kind == EXPERIMENT:
        return f"{int(status.get('trialsSucceeded') or 0)} of {int(status.get('trials') or 0)} trials have succeeded"
    for name in ("Restarting", "Running", "Created"):
        if name in conditions:
            return f"{name.lower()}: {_said(conditions[name])}"
    return "its controller has not said anything yet"


def _workflow(status: Mapping[str, Any]) -> Fate:
    phase, message = str(status.get("phase") or ""), str(status.get("message") or "")
    if phase == "Succeeded":
        return Fate(JobState.DONE, phase, _workflow_outputs(status))
    if phase in {"Failed", "Error"}:
        return Fate(JobState.FAILED, f"{phase}: {message}" if message else phase)
    told = f"{phase or 'Pending'}, {status['progress']} done" if status.get("progress") else phase or "Pending"
    return Fate(JobState.RUNNING, f"{told}: {message}" if message else told)


def _workflow_outputs(status: Mapping[str, Any]) -> dict[str, Any]:
    """Output parameters of the workflow itself, else of its nodes, later ones winning; JSON where they are."""
    found: dict[str, Any] = {}
    for node in (status.get("nodes") or {}).values():
        found |= _parameters(node.get("outputs"))
    return found | _parameters(status.get("outputs"))


def _parameters(outputs: Any) -> dict[str, Any]:
    listed = outputs.get("parameters") if isinstance(outputs, Mapping) else None
    return {str(one["name"]): _json(str(one.get("value", ""))) for one in listed or ()}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _swept(status: Mapping[str, Any], condition: Mapping[str, Any]) -> Fate:
    best = status.get("currentOptimalTrial") or {}
    if not best.get("bestTrialName"):
        return Fate(JobState.FAILED, f"no trial has a result, though it says {_said(condition)}")
    metrics = {
        str(one["name"]): {key: one[key] for key in ("latest", "min", "max") if key in one}
        for one in (best.get("observation") or {}).get("metrics") or ()
    }
    outputs = {
        "parameters": {str(one["name"]): str(one["value"]) for one in best.get("parameterAssignments") or ()},
        "trial": str(best["bestTrialName"]),
        "metrics": metrics,
        "trials": int(status.get("trials") or 0),
        "succeeded": int(status.get("trialsSucceeded") or 0),
    }
    return Fate(JobState.DONE, _said(condition), outputs)


def pod_fate(pod: Object) -> PodFate:
    """What the pod tells. Works on a whole pod."""
    status = pod.get("status") or {}
    name, phase = str(pod["metadata"]["name"]), str(status.get("phase") or "Pending")
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    started = any((one.get("state") or {}).get("running") or _ended(one) for one in containers)
    failed = next((one for one in containers if _failed(one)), None)
    reason = str(status.get("reason") or "")
    disrupted = _condition(status, "DisruptionTarget", "True")
    if failed is not None:
        end = _ended(failed) or {}
        code = int(end.get("exitCode") or 0)
        why = str(end.get("reason") or "Error")
        why = f"container {failed.get('name')} ended with {why} (exit status {code})"
        if reason or disrupted:
            why = f"{reason or disrupted}: {status.get('message') or ''}".rstrip(": ") + f"; {why}"
        return PodFate(name, phase, why, exit=code, message=str(end.get("message") or ""), started=True)
    if phase == "Failed" or reason or disrupted:
        why = f"{reason or disrupted or 'Failed'}: {status.get('message') or ''}".rstrip(": ")
        return PodFate(name, phase, why, started=started)
    if stuck := _stuck(status, containers):
        return PodFate(name, phase, stuck=stuck, started=started)
    ended = [one for one in status.get("containerStatuses") or () if _ended(one)]
    message = next((text for one in ended if (text := str((_ended(one) or {}).get("message") or ""))), "")
    return PodFate(name, phase, exit=0 if ended else None, message=message, started=started)


def _stuck(status: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> str:
    for one in containers:
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _CANNOT_START:
            return f"container {one.get('name')}: {waiting['reason']}: {waiting.get('message') or ''}".rstrip(": ")
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return f"{one.get('reason')}: {one.get('message') or ''}".rstrip(": ")
    return ""


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How the container ended: now, or before it was started again."""
    for key in ("state", "lastState"):
        end: Mapping[str, Any] | None = (container.get(key) or {}).get("terminated")
        if end:
            return end
    return None


def _failed(container: Mapping[str, Any]) -> bool:
    end = _ended(container)
    return end is not None and (int(end.get("exitCode") or 0) != 0 or end.get("reason") == "OOMKilled")


def _condition(status: Mapping[str, Any], kind: str, value: str) -> str:
    """The reason of a condition that has this value; empty when it has not."""
    for one in status.get("conditions") or ():
        if one.get("type") == kind and one.get("status") == value:
            return str(one.get("reason") or kind)
    return ""


def _said(condition: Mapping[str, Any]) -> str:
    reason, message = str(condition.get("reason") or condition.get("type")), str(condition.get("message") or "")
    return f"{reason}: {message}" if message else reason


def outputs_in(message: str) -> dict[str, Any]:
    """What a program handed back in its termination message: a JSON object. Empty for anything else, also when it was cut."""
    found = _json(message.strip())
    return found if isinstance(found, dict) else {}


def brief_pod(pod: Object) -> Object:
    """A pod with only what is read here: mirrors hold many of them."""
    metadata = pod["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp")
            if key in metadata}  # fmt: skip
    status = pod.get("status") or {}
    keys = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": kept,
        "status": {key: status[key] for key in keys if key in status},
    }


def brief_job(found: Object) -> Object:
    """A job without its spec: what driftd asked for is known."""
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {key: value for key, value in found.items() if key != "spec"} | {"metadata": metadata}
