"""The test cluster itself: it serves, its controllers work, it comes back after a kill, and it leaves nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from kubernetes import client

from tests.cluster import binaries, golang, places, playing
from tests.cluster.admin import Admin, Json
from tests.cluster.cluster import Cluster
from tests.cluster.places import NoCluster
from tests.cluster.process import Part

pytestmark = pytest.mark.slow


def job(namespace: str, name: str = "one") -> Json:
    """A Job of one pod."""
    container = {"name": "main", "image": "driftd.test/none", "command": ["true"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


def test_it_serves_the_version_that_is_pinned(cluster: Cluster) -> None:
    """A client of the usual library, from the kubeconfig, is told the version that go.mod pins."""
    told = client.VersionApi(cluster.api_client()).get_code(_request_timeout=30)

    assert told.git_version == binaries.KUBERNETES
    assert f"k8s.io/kubernetes {binaries.KUBERNETES}\n" in (places.MODULES / "kubernetes" / "go.mod").read_text()


def test_its_secrets_are_the_owners_alone(cluster: Cluster) -> None:
    """Nobody else on the machine can read the administrator's kubeconfig, or any key."""
    secret = [cluster.kubeconfig, *cluster.folder.rglob("*.key"), *cluster.folder.rglob("*.csv")]

    assert len(secret) > 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_who_has_no_token_gets_nothing(cluster: Cluster) -> None:
    """RBAC is on: a stranger lists no pods, neither does a service account without a role."""
    with cluster.http(token="guessed") as stranger:
        assert stranger.get("/api/v1/pods").status_code == httpx.codes.UNAUTHORIZED

    account = client.CoreV1Api(cluster.api_client(cluster.kubeconfig_of("default", "default")))
    with pytest.raises(client.ApiException, match="Forbidden"):
        account.list_namespaced_pod("default", _request_timeout=30)


def test_a_job_becomes_a_pod_and_ends_with_it(admin: Admin, namespace: str) -> None:
    """The controller manager makes a Job's pod, and takes what is told of the pod as the Job's end."""
    admin.apply(job(namespace))
    [pod] = playing.pods_of(admin, namespace, "job-name=one")
    playing.pod(admin, namespace, pod, "Running")
    playing.pod(admin, namespace, pod, "Succeeded")

    ended = admin.wait(f"/apis/batch/v1/namespaces/{namespace}/jobs/one", lambda told: told["status"].get("succeeded"))

    assert ended["status"]["succeeded"] == 1


def test_a_played_nodes_gpus_can_be_asked_for(admin: Admin) -> None:
    """A Node object with GPUs needs no device, and the control plane keeps what is told of it."""
    playing.node(admin, "gpu-1", gpus=8, labels={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"})
    playing.node_status(admin, "gpu-1", capacity=8, allocatable=7)

    found = admin.get("/api/v1/nodes/gpu-1")
    admin.delete("/api/v1/nodes/gpu-1")

    assert found["status"]["capacity"][playing.GPU] == "8"
    assert found["status"]["allocatable"][playing.GPU] == "7"


def test_an_api_server_that_was_killed_comes_back_as_it_was(cluster: Cluster, admin: Admin, namespace: str) -> None:
    """After SIGKILL and a start the objects are there, at the same address, and the controllers work on."""
    admin.apply(job(namespace, "before"))
    cluster.api_server.kill()
    with pytest.raises(httpx.TransportError):
        admin.get("/readyz")
    cluster.start_api_server()

    admin.apply(job(namespace, "after"))

    assert playing.pods_of(admin, namespace, "job-name=before")
    assert playing.pods_of(admin, namespace, "job-name=after")


def test_an_etcd_that_stands_still_keeps_writes_waiting(cluster: Cluster, admin: Admin, namespace: str) -> None:
    """While etcd is stopped a write gets no answer; once it goes on, so do writes."""
    cluster.etcd.freeze()
    try:
        with cluster.http() as http, pytest.raises(httpx.ReadTimeout):
            http.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", json=job(namespace), timeout=2.0)
    finally:
        cluster.etcd.thaw()

    assert admin.apply(job(namespace, "later"))["metadata"]["uid"]


def test_at_its_end_nothing_is_left(tmp_path: Path) -> None:
    """A cluster that is stopped has ended its three processes, and its port is free."""
    with Cluster(tmp_path / "second") as one:
        pids = [one.etcd.pid, one.api_server.pid, one.controllers.pid]

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with one.http() as http, pytest.raises(httpx.ConnectError):
        http.get("/readyz")


def test_a_part_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    """What does not start is told with what it said, not after a long wait."""
    part = Part(["/bin/sh", "-c", "echo the port is taken; exit 3"], tmp_path)
    part.start()

    with pytest.raises(NoCluster, match="the port is taken"):
        part.wait(lambda: False, 60)


@pytest.mark.parametrize(
    ("platforms", "kind"),
    [
        (["kserve"], "/apis/serving.kserve.io/v1beta1/inferenceservices"),
        (["knative"], "/apis/serving.knative.dev/v1/services"),
        (["gateway"], "/apis/gateway.networking.k8s.io/v1/httproutes"),
        (["katib"], "/apis/kubeflow.org/v1beta1/experiments"),
        (["training-operator"], "/apis/kubeflow.org/v1/pytorchjobs"),
        (["trainer", "jobset"], "/apis/trainer.kubeflow.org/v1alpha1/trainjobs"),
        (["argo"], "/apis/argoproj.io/v1alpha1/workflows"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_platforms_definitions_come_from_their_modules(
    admin: Admin, definitions: Callable[..., None], platforms: list[str], kind: str
) -> None:
    """The definitions in the module that is pinned make the API server serve the platform's kinds."""
    definitions(*platforms)

    assert admin.get(kind)["kind"].endswith("List")


def test_binaries_that_were_brought_along_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KUBEBUILDER_ASSETS comes before what is built; what it lacks is looked for where it is built."""
    brought = tmp_path / "etcd"
    brought.write_text("#!/bin/sh\n")
    brought.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("DRIFTD_CLUSTER_CACHE", str(tmp_path / "empty"))

    assert binaries.find("etcd") == brought
    with pytest.raises(NoCluster, match=r"kube-apiserver .* run `make cluster-binaries`"):
        binaries.find("kube-apiserver")


def test_another_pin_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program is kept follows from the content of its module, so nothing built from other pins is used."""
    monkeypatch.setattr(places, "MODULES", tmp_path)
    (tmp_path / "etcd").mkdir()
    pins = tmp_path / "etcd" / "go.sum"
    found = []
    for content in ("one", "two", "one"):
        pins.write_text(content)
        binaries._digest.cache_clear()
        found.append(binaries._program("etcd").path())
    binaries._digest.cache_clear()

    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_module_that_is_not_what_was_pinned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A go.sum that says otherwise makes Go refuse the module."""
    place = tmp_path / "definitions"
    place.mkdir()
    pinned = places.MODULES / "definitions"
    (place / "go.mod").write_bytes((pinned / "go.mod").read_bytes())
    right = next(line for line in (pinned / "go.sum").read_text().splitlines() if "jobset v0.8.2 h1" in line)
    (place / "go.sum").write_text(right[:-6] + "AAAAA=\n")
    monkeypatch.setattr(places, "MODULES", tmp_path)

    with pytest.raises(NoCluster, match=r"jobset .* does NOT match"):
        golang.fetched("definitions", "sigs.k8s.io/jobset")
