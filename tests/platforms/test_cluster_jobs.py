"""Jobs in a real cluster: one object per call, its status from watches, and each way to end badly with its reason.

The API server, the controller manager and the kinds' definitions are real. There is no kubelet: what becomes of pods is
written into their status as a kubelet would; what becomes of kinds whose controllers do not run here (PyTorchJob, TrainJob,
Workflow, Experiment) into theirs, in the shapes that the real controllers were seen to write.
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_objects import Kind
from daemon.core.errors import Refused, Unavailable
from daemon.platformparts import KubernetesConnection
from daemon.platforms.base import JobSpec, JobState, JobStatus
from daemon.platforms.kubernetes_jobs import KubernetesJobs
from daemon.platforms.kubernetes_objects import KubernetesObjects
from daemon.platforms.kubernetes_states import EXPERIMENT, JOB, PYTORCH_JOB, TRAIN_JOB, WORKFLOW
from tests.cluster import playing
from tests.cluster.admin import Admin, Json
from tests.cluster.cluster import Cluster as Real

LONG = 60.0
PENDING = timedelta(minutes=10)
CONTAINER: Json = {"name": "main", "image": "driftd.test/train:1", "command": ["true"]}
MANIFEST: Json = {
    "apiVersion": "batch/v1", "kind": "Job",
    "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}},
}  # fmt: skip
TORCH: Json = {"template": {"spec": {"containers": [{**CONTAINER, "name": "pytorch"}]}}, "replicas": 1}
OTHERS: dict[str, Json] = {
    "training-operator": {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Master": TORCH}},
    },
    "trainer": {
        "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": {"runtimeRef": {"name": "torch"}},
    },
    "argo": {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
        "spec": {"entrypoint": "main", "templates": [{"name": "main", "container": CONTAINER}]},
    },
    "katib": {
        "apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment",
        "spec": {"maxTrialCount": 3, "parallelTrialCount": 1},
    },
}  # fmt: skip


class Scene:
    """A namespace with driftd's jobs in it, a clock that can be set forward, and whoever plays the kubelet."""

    def __init__(self, client: Cluster, admin: Admin) -> None:
        self.client = client
        self.admin = admin
        self.namespace = client.namespace
        self.ahead = timedelta()
        self.jobs = self.started()

    def now(self) -> datetime:
        """The time, and how far it was set forward."""
        return datetime.now(UTC) + self.ahead

    def started(self, *kinds: Any) -> KubernetesJobs:
        """The jobs as a daemon that has just started sees them."""
        jobs = KubernetesJobs(self.client, kinds or (JOB,), PENDING, self.now)
        jobs.start()
        return jobs

    def spec(self, job: str = "c0ffee-0", manifest: Json = MANIFEST, **more: Any) -> JobSpec:
        """A job to submit."""
        origin = {
            "call": job.rpartition("-")[0],
            "run": "r1",
            "rule": "retrain-on-drift",
            "event": "e 1",
            "model": "churn",
        }
        return JobSpec(job, (), {}, {}, 0, 600.0, manifest, origin, **more)

    def path(self, job: str = "c0ffee-0") -> str:
        """Where a Job lies."""
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs/driftd-{job}"

    def pod(self, job: str = "c0ffee-0") -> str:
        """The pod that the real controller made for a Job."""
        return playing.pods_of(self.admin, self.namespace, f"job-name=driftd-{job}")[0]

    def until(
        self, holds: Callable[[JobStatus], bool], job: str = "c0ffee-0", jobs: KubernetesJobs | None = None
    ) -> JobStatus:
        """The job's status once this holds of it."""
        jobs = jobs or self.jobs
        last: list[JobStatus] = []

        def asked() -> bool:
            try:
                last.append(jobs.status(job))
            except Unavailable:
                return False
            return holds(last[-1])

        assert jobs.watches[0].wait(asked, LONG), last[-1:]
        return last[-1]

    def ended(self, job: str = "c0ffee-0", jobs: KubernetesJobs | None = None) -> JobStatus:
        """The job's status once it has ended."""
        return self.until(lambda status: status.state is not JobState.RUNNING, job, jobs)

    def terminate(self, exit_code: int, message: str = "", reason: str = "") -> None:
        """The pod's container ends, and leaves a termination message."""
        pod = self.pod()
        playing.pod(self.admin, self.namespace, pod, "Running")
        found = playing.pod(self.admin, self.namespace, pod, "Running")
        [container] = found["status"]["containerStatuses"]
        now = found["status"]["startTime"]
        end = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed"), "message": message}
        container |= {"state": {"terminated": end | {"startedAt": now, "finishedAt": now}}, "ready": False}
        phase = "Failed" if exit_code else "Succeeded"
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/status"
        self.admin.merge(path, {"status": {"phase": phase, "containerStatuses": [container]}})

    def eventually_denied(self, manifest: Json) -> None:
        """Ask, without making anything, until such an object would be refused."""
        path = self.admin.path({**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}})
        until = time.monotonic() + LONG
        while self.admin.http.post(path.rpartition("/")[0], json=manifest, params={"dryRun": "All"}).is_success:
            assert time.monotonic() < until, "the quota denies nothing"
            threading.Event().wait(0.05)

    def told(self) -> list[tuple[str, str]]:
        """The Kubernetes Events that driftd wrote: reason and note."""
        found = self.admin.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        return [(one["reason"], one["note"]) for one in found if one["reportingController"] == "driftd.io/driftd"]


@pytest.fixture
def client(account: Path, namespace: str) -> Iterator[Cluster]:
    """The client with the rights that driftd asks for and no others, in a namespace of the test's own."""
    with closing(Cluster(KubernetesConnection(kubeconfig=account, namespace=namespace))) as made:
        yield made


@pytest.fixture
def scene(client: Cluster, admin: Admin) -> Iterator[Scene]:
    """A namespace with driftd's jobs."""
    made = Scene(client, admin)
    yield made
    made.jobs.stop()


def test_a_job_is_made_once_and_its_outputs_come_back(scene: Scene) -> None:
    """Under the call's name, with marks that lead back and an Event; what its container left is its outputs."""
    assert scene.until(lambda status: status.state is JobState.UNKNOWN).state is JobState.UNKNOWN
    first = scene.jobs.submit(scene.spec())
    second = scene.jobs.submit(scene.spec())
    found = scene.admin.get(scene.path())

    assert (first.state, second.state) == (JobState.RUNNING, JobState.RUNNING)
    assert found["metadata"]["labels"]["driftd.io/rule"] == "retrain-on-drift"
    assert found["metadata"]["annotations"]["driftd.io/event"] == "e 1"
    assert found["spec"]["activeDeadlineSeconds"] == 600
    assert [reason for reason, _ in scene.told()] == ["Created"]

    scene.terminate(0, '{"rows": 120}')
    assert scene.ended() == JobStatus(
        JobState.DONE, scene.ended().why, {"rows": 120}, f"Job {scene.namespace}/driftd-c0ffee-0"
    )


def test_a_daemon_that_starts_anew_finds_its_jobs(scene: Scene) -> None:
    """Running or ended, by their names alone; submitted again they are adopted."""
    scene.jobs.submit(scene.spec())
    scene.jobs.submit(scene.spec("beef-0"))
    scene.terminate(0, '{"rows": 1}')
    scene.ended()
    later = scene.started()

    assert scene.ended(jobs=later).outputs == {"rows": 1}
    assert scene.until(lambda status: status.state is JobState.RUNNING, "beef-0", later)
    uid = scene.admin.get(scene.path("beef-0"))["metadata"]["uid"]
    assert later.submit(scene.spec("beef-0")).state is JobState.RUNNING
    assert scene.admin.get(scene.path("beef-0"))["metadata"]["uid"] == uid
    later.stop()


def test_a_foreign_object_of_the_name_is_left_alone(scene: Scene) -> None:
    """Neither adopted nor cancelled nor removed: the run is told whose name it is."""
    path = scene.path()
    scene.admin.create(path.rpartition("/")[0], {**MANIFEST, "metadata": {"name": "driftd-c0ffee-0"}})
    with pytest.raises(Refused, match="is not driftd's for this call"):
        scene.jobs.submit(scene.spec())
    scene.jobs.cancel("c0ffee-0", "its step is over")

    assert scene.jobs.remove("c0ffee-0") is False
    assert scene.admin.exists(path)


def test_exit_status_75_is_not_yet(scene: Scene) -> None:
    """As for a program: too few rows, say; why is what it left behind."""
    scene.jobs.submit(scene.spec())
    scene.terminate(75, '{"why": "12 of 100 rows"}')
    status = scene.ended()

    assert (status.state, status.outputs) == (JobState.AGAIN, {"why": "12 of 100 rows"})


@pytest.mark.parametrize(
    ("exit_code", "reason", "why"), [(137, "OOMKilled", "OOMKilled"), (1, "Error", "exit status 1")]
)
def test_a_job_that_failed_says_what_its_pod_died_of(scene: Scene, exit_code: int, reason: str, why: str) -> None:
    """Beside the controller's own words; and the end of what it wrote."""
    scene.jobs.submit(scene.spec())
    scene.terminate(exit_code, "the learner found no rows", reason)
    status = scene.ended()

    assert status.state is JobState.FAILED
    assert "BackoffLimitExceeded" in status.why
    assert why in status.why
    assert status.tail == "the learner found no rows"


def test_an_evicted_pod_is_told_as_evicted(scene: Scene) -> None:
    """With the node's reason."""
    scene.jobs.submit(scene.spec())
    path = f"/api/v1/namespaces/{scene.namespace}/pods/{scene.pod()}/status"
    scene.admin.merge(
        path, {"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"}}
    )

    assert "Evicted: The node was low on memory" in scene.ended().why


def test_a_death_is_remembered_when_the_pod_is_gone(scene: Scene, definitions: Callable[..., None]) -> None:
    """The training operator deletes a failed pod and makes another; the last death seen is the reason."""
    definitions("training-operator")
    scene.client.forget_kinds()
    jobs = scene.started(PYTORCH_JOB)
    jobs.submit(scene.spec(manifest=OTHERS["training-operator"]))
    pods = f"/api/v1/namespaces/{scene.namespace}/pods"
    about = {"name": "driftd-c0ffee-0-master-0", "labels": {"training.kubeflow.org/job-name": "driftd-c0ffee-0"}}
    scene.admin.create(pods, {"metadata": about, "spec": {"containers": [CONTAINER]}})
    playing.pod(scene.admin, scene.namespace, about["name"], "Failed", 137, "OOMKilled")
    assert scene.until(lambda _status: jobs._deaths.get("driftd-c0ffee-0") is not None, jobs=jobs)
    scene.admin.delete(f"{pods}/{about['name']}", gracePeriodSeconds="0")
    scene.admin.wait(pods, lambda found: not found["items"])
    failed = {"conditions": [{"type": "Failed", "status": "True", "reason": "PyTorchJobFailed"}], "replicaStatuses": {}}
    path = f"/apis/kubeflow.org/v1/namespaces/{scene.namespace}/pytorchjobs/driftd-c0ffee-0"
    scene.admin.merge(f"{path}/status", {"status": failed})

    assert "OOMKilled" in scene.ended(jobs=jobs).why
    jobs.stop()


def test_an_image_that_never_comes_ends_the_job(scene: Scene) -> None:
    """After the time that a job may not start: it is deleted, and the pod's words are the reason."""
    scene.jobs.submit(scene.spec())
    playing.pod(scene.admin, scene.namespace, scene.pod(), "Pending", reason="ImagePullBackOff")
    waiting = scene.until(lambda status: "ImagePullBackOff" in status.why)
    assert waiting.state is JobState.RUNNING
    scene.ahead = PENDING + timedelta(seconds=60)
    status = scene.ended()

    assert status.state is JobState.FAILED
    assert "has not started for 600 s" in status.why
    assert "ImagePullBackOff" in status.why
    assert {reason for reason, _ in scene.told()} == {"Created", "Cancelled"}
    scene.admin.wait(scene.path().rpartition("/")[0], lambda found: not found["items"])


def test_pods_that_a_quota_denies_end_the_job_with_the_quota_s_words(scene: Scene) -> None:
    """The Job is made, its pods are not: only Events say why."""
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    scene.admin.create(f"/api/v1/namespaces/{scene.namespace}/resourcequotas", quota)
    scene.admin.wait(
        f"/api/v1/namespaces/{scene.namespace}/resourcequotas/small", lambda told: told["status"].get("hard")
    )
    scene.jobs.submit(scene.spec())
    path = f"/api/v1/namespaces/{scene.namespace}/events"
    scene.admin.wait(path, lambda found: any(one["reason"] == "FailedCreate" for one in found["items"]))
    scene.ahead = PENDING + timedelta(seconds=60)

    assert "exceeded quota: small" in scene.ended().why


def test_a_quota_of_jobs_is_a_refusal(scene: Scene) -> None:
    """With the server's words; nothing is left behind."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    scene.admin.create(f"/api/v1/namespaces/{scene.namespace}/resourcequotas", quota)
    scene.admin.wait(
        f"/api/v1/namespaces/{scene.namespace}/resourcequotas/none", lambda told: told["status"].get("hard")
    )
    probe = {**MANIFEST, "metadata": {"name": "probe"}}
    # The API server's own view of quotas may be a moment behind what it stores.
    scene.eventually_denied(probe)

    with pytest.raises(Refused, match="exceeded quota: none"):
        scene.jobs.submit(scene.spec())
    assert scene.until(lambda status: status.state is JobState.UNKNOWN)


def test_a_webhook_that_denies_is_a_refusal(scene: Scene, cluster: Real) -> None:
    """A real one over TLS, with its own words."""

    class Denies(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            verdict = {"uid": asked["request"]["uid"], "allowed": False, "status": {"message": "GPUs are for team B"}}
            body = json.dumps({"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": verdict}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    signed = cluster.authority.signed("denies", ("127.0.0.1",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(signed.cert, signed.key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denies)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hook = {
        "name": "gpus.driftd.test",
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_address[1]}/",
            "caBundle": b64encode(cluster.ca.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}},
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
    }  # fmt: skip
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    scene.admin.create(hooks, {"metadata": {"name": scene.namespace}, "webhooks": [hook]})
    try:
        assert _refused_at_last(scene, "GPUs are for team B")
        server.shutdown()
        server.server_close()
        with pytest.raises(Unavailable, match="failed calling webhook"):
            scene.jobs.submit(scene.spec("beef-0"))
    finally:
        scene.admin.delete(f"{hooks}/{scene.namespace}")
        server.shutdown()
        server.server_close()
        thread.join(LONG)


def _refused_at_last(scene: Scene, words: str) -> bool:
    """The API server takes a moment to know of a new webhook: tries of other names until one is refused."""
    for number in range(100):
        try:
            scene.jobs.submit(scene.spec(f"try{number}-0"))
        except Refused as no:
            return words in str(no)
        threading.Event().wait(0.1)
    return False


def test_a_job_that_somebody_deletes_is_not_made_again(scene: Scene) -> None:
    """It has failed, with that reason; asked to be submitted once more, it stays so."""
    scene.jobs.submit(scene.spec())
    scene.pod()
    scene.until(lambda status: "ready" in status.why)
    scene.admin.delete(scene.path())
    status = scene.ended()

    assert "somebody deleted it while it ran" in status.why
    assert scene.jobs.submit(scene.spec()).state is JobState.FAILED
    assert not scene.admin.exists(scene.path())


def test_a_job_that_ended_and_was_cleared_away_still_has_its_end(scene: Scene) -> None:
    """As by its time to live: what it last said counts."""
    scene.jobs.submit(scene.spec())
    scene.terminate(0, '{"rows": 7}')
    scene.admin.wait(scene.path(), lambda told: told["status"].get("completionTime"))
    assert scene.jobs.watches[0].wait(
        lambda: "completionTime" in (scene.jobs.watches[0].get("driftd-c0ffee-0") or {}).get("status", {}), LONG
    )
    scene.admin.delete(scene.path(), propagationPolicy="Orphan")
    assert scene.jobs.watches[0].wait(lambda: scene.jobs.watches[0].get("driftd-c0ffee-0") is None, LONG)

    assert scene.ended().state is JobState.DONE


def test_a_cancelled_job_is_deleted_and_stays_so(scene: Scene) -> None:
    """With an Event that says why; one that was never made is not made later either."""
    scene.jobs.submit(scene.spec())
    scene.jobs.cancel("c0ffee-0", "its step is over")
    scene.jobs.cancel("never-0", "its step is over")

    assert scene.ended().why == "cancelled: its step is over"
    assert scene.jobs.submit(scene.spec("never-0")).why == "cancelled: its step is over"
    assert not scene.admin.exists(scene.path("never-0"))
    assert ("Cancelled", "driftd deletes this: its step is over") in scene.told()
    scene.admin.wait(scene.path().rpartition("/")[0], lambda found: not found["items"])


def test_a_job_over_its_deadline_says_so(scene: Scene) -> None:
    """The controller ends it, also when driftd is down."""
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["spec"]["activeDeadlineSeconds"] = 1
    scene.jobs.submit(scene.spec(manifest=manifest))

    assert "DeadlineExceeded" in scene.ended().why


def test_a_queued_job_may_wait(scene: Scene) -> None:
    """Suspended, as by a queue: that it has not started is no trouble, whatever the time."""
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["spec"]["suspend"] = True
    scene.jobs.submit(scene.spec(manifest=manifest))
    scene.until(lambda status: "suspended" in status.why)
    scene.ahead = 10 * PENDING

    assert scene.jobs.status("c0ffee-0").state is JobState.RUNNING


def test_an_api_server_that_was_killed_costs_nothing_but_time(scene: Scene, cluster: Real) -> None:
    """While it is away jobs run on as last seen and none is made; what ended meanwhile is found, and nothing is made twice."""
    scene.jobs.submit(scene.spec())
    scene.pod()
    scene.until(lambda status: "ready" in status.why)
    cluster.api_server.kill()
    assert scene.jobs.status("c0ffee-0").state is JobState.RUNNING
    with pytest.raises(Unavailable):
        scene.jobs.submit(scene.spec("beef-0"))
    cluster.start_api_server()
    scene.terminate(0, '{"rows": 9}')

    assert scene.ended().outputs == {"rows": 9}
    assert scene.jobs.submit(scene.spec("beef-0")).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("platform", "kind", "good", "outputs"),
    [
        (
            "training-operator", PYTORCH_JOB,
            {"conditions": [{"type": "Succeeded", "status": "True", "reason": "PyTorchJobSucceeded"}], "replicaStatuses": {}},
            {},
        ),
        (
            "trainer", TRAIN_JOB,
            {"conditions": [{"type": "Complete", "status": "True", "reason": "JobsCompleted", "message": "done",
                             "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            {},
        ),
        (
            "argo", WORKFLOW,
            {"phase": "Succeeded", "outputs": {"parameters": [{"name": "rows", "value": "5"}]}},
            {"rows": 5},
        ),
        (
            "katib", EXPERIMENT,
            {"conditions": [{"type": "Succeeded", "status": "True", "reason": "ExperimentMaxTrialsReached"}],
             "currentOptimalTrial": {"bestTrialName": "t", "parameterAssignments": [{"name": "lr", "value": "0.1"}]}},
            {"parameters": {"lr": "0.1"}, "trial": "t", "metrics": {}, "trials": 0, "succeeded": 0},
        ),
    ],
    ids=["PyTorchJob", "TrainJob", "Workflow", "Experiment"],
)  # fmt: skip
def test_every_kind_is_made_followed_and_cancelled(
    scene: Scene, definitions: Callable[..., None], platform: str, kind: Any, good: Json, outputs: Json
) -> None:
    """By the same names and marks, with the strict schema of its real definition."""
    definitions(platform)
    scene.client.forget_kinds()
    jobs = scene.started(kind)
    manifest = OTHERS[platform]
    assert scene.until(lambda status: status.state is JobState.UNKNOWN, jobs=jobs)
    jobs.submit(scene.spec(manifest=manifest))
    jobs.submit(scene.spec("beef-0", manifest=manifest))
    assert scene.until(lambda status: not status.why.startswith("made"), jobs=jobs).state is JobState.RUNNING
    document = {**manifest, "metadata": {"name": "driftd-c0ffee-0", "namespace": scene.namespace}}
    path = scene.admin.path(document)
    scene.admin.merge(path if platform == "argo" else f"{path}/status", {"status": good})

    status = scene.ended(jobs=jobs)
    assert (status.state, dict(status.outputs)) == (JobState.DONE, outputs)
    jobs.cancel("beef-0", "no more")
    assert not scene.admin.exists(path.replace("c0ffee", "beef"))
    jobs.stop()


def test_a_kind_that_is_not_installed_refuses_its_own_jobs_only(scene: Scene) -> None:
    """Others go on."""
    missing = Kind("example.com/v1", "Nonsense")
    jobs = scene.started(JOB, missing)
    with pytest.raises(Refused, match="no Nonsense"):
        jobs.submit(scene.spec(manifest={"apiVersion": "example.com/v1", "kind": "Nonsense"}))
    jobs.submit(scene.spec())

    assert scene.until(lambda status: status.state is JobState.RUNNING, jobs=jobs)
    assert scene.until(lambda status: status.state is JobState.UNKNOWN, "beef-0", jobs)
    jobs.stop()


def test_an_old_job_is_removed_when_it_has_ended(scene: Scene) -> None:
    """Not before; and only driftd's are among its names."""
    scene.jobs.submit(scene.spec())
    scene.pod()
    assert scene.until(lambda status: "ready" in status.why)
    assert (scene.jobs.names(), scene.jobs.remove("c0ffee-0")) == (("c0ffee-0",), False)
    scene.terminate(0)
    scene.ended()

    assert scene.jobs.remove("c0ffee-0") is True


def wanted(**data: str) -> Json:
    """A ConfigMap to apply."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "thresholds"}, "data": data}


def test_an_object_is_applied_read_back_and_told(scene: Scene) -> None:
    """Twice is once: the second changes nothing and tells nothing."""
    objects = KubernetesObjects(scene.client, scene.now)
    first = objects.apply(wanted(psi="0.2"), {"call": "c1", "rule": "r"})
    second = objects.apply(wanted(psi="0.2"), {"call": "c1", "rule": "r"})
    found = scene.admin.get(f"/api/v1/namespaces/{scene.namespace}/configmaps/thresholds")

    assert (first.made, first.changed, second.made, second.changed) == (True, True, False, False)
    assert (found["data"], found["metadata"]["labels"]["driftd.io/rule"]) == ({"psi": "0.2"}, "r")
    assert scene.told() == [("Applied", "driftd applied this for call c1, rule r")]


def test_what_is_not_driftd_s_is_not_applied_to(scene: Scene) -> None:
    """An object that somebody else made, and a field of driftd's own that somebody else has taken since."""
    objects = KubernetesObjects(scene.client, scene.now)
    path = f"/api/v1/namespaces/{scene.namespace}/configmaps"
    scene.admin.create(path, {**wanted(psi="9"), "metadata": {"name": "theirs"}})
    with pytest.raises(Refused, match="is not driftd's: it is left alone"):
        objects.apply({**wanted(psi="0.2"), "metadata": {"name": "theirs"}}, {"call": "c1"})
    objects.apply(wanted(psi="0.2"), {"call": "c1"})
    taken = {**wanted(psi="0.3"), "metadata": {"name": "thresholds", "namespace": scene.namespace}}
    scene.admin.apply(taken, "kubectl")

    with pytest.raises(Refused, match=r"\.data\.psi is owned by kubectl"):
        objects.apply(wanted(psi="0.4"), {"call": "c2"})
    assert scene.admin.get(f"{path}/thresholds")["data"] == {"psi": "0.3"}
