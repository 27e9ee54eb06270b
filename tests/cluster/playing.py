"""What a kubelet and a device plugin would tell the API server, told by a test: nodes with GPUs, pods that run and end.

No device and no container is needed for what the control plane makes of them.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from tests.cluster.admin import Admin, Json

GPU = "nvidia.com/gpu"

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


def node(admin: Admin, name: str, gpus: int = 0, labels: dict[str, str] | None = None, ready: bool = True) -> Json:
    """A node that is there (again): its GPUs are its capacity and can be asked for, and it is ready or not."""
    about = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
    admin.apply({"apiVersion": "v1", "kind": "Node", "metadata": about})
    return node_status(admin, name, gpus, gpus, ready)


def node_status(admin: Admin, name: str, capacity: int, allocatable: int, ready: bool = True) -> Json:
    """A node's GPUs, those that it has and those that can be asked for, and whether it is ready."""
    plain = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    now = _now()
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "told by a test",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    status = {
        "capacity": {**plain, GPU: str(capacity)},
        "allocatable": {**plain, GPU: str(allocatable)},
        "conditions": [condition],
    }
    return admin.merge(f"/api/v1/nodes/{name}/status", {"status": status})


def pod(admin: Admin, namespace: str, name: str, phase: Phase, exit_code: int | None = None, reason: str = "") -> Json:
    """A pod's phase, and how its containers stand: `exit_code` and `reason` (OOMKilled, Error) of those that ended.

    A reason with phase Pending is what its containers wait for (ImagePullBackOff).
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    found = admin.get(path)
    now = _now()
    state: Json
    if phase in {"Succeeded", "Failed"}:
        code = exit_code if exit_code is not None else int(phase == "Failed")
        ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed")}
        state = {"terminated": ended | {"startedAt": now, "finishedAt": now}}
    elif phase == "Running":
        state = {"running": {"startedAt": now}}
    else:
        state = {"waiting": {"reason": reason or "ContainerCreating"}}
    containers = [
        {"name": one["name"], "image": one["image"], "imageID": "", "ready": phase == "Running",
         "restartCount": 0, "started": phase == "Running", "state": state}
        for one in found["spec"]["containers"]
    ]  # fmt: skip
    is_ready = {"type": "Ready", "status": "True" if phase == "Running" else "False", "lastTransitionTime": now}
    status = {"phase": phase, "startTime": now, "containerStatuses": containers, "conditions": [is_ready]}
    return admin.merge(f"{path}/status", {"status": status})


def pods_of(admin: Admin, namespace: str, selector: str, count: int = 1) -> list[str]:
    """The names of the pods that a controller made, once there are `count` of them."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    found = admin.wait(path, lambda told: len(told["items"]) >= count, labelSelector=selector)
    return sorted(one["metadata"]["name"] for one in found["items"])


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
