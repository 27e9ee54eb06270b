"""KServe's real controller on the test cluster, and the traps of it that driftd has to avoid: each is shown to be there."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.cluster import playing
from tests.cluster.admin import Admin, Json
from tests.cluster.kserve import Kserve

pytestmark = pytest.mark.slow

MODE = "serving.kserve.io/deploymentMode"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"


def service(namespace: str, mode: str = "Standard", model: str = "gs://models/1", **predictor: Any) -> Json:
    """An InferenceService of one model; `predictor`: further fields beside it."""
    of_model = {"modelFormat": {"name": "sklearn"}, "storageUri": model}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "loan", "namespace": namespace, "annotations": {MODE: mode}},
        "spec": {"predictor": {"model": of_model, **predictor}},
    }


def deployment(namespace: str) -> str:
    """Where the Deployment of the InferenceService is."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/loan-predictor"


def source(found: Json) -> str | None:
    """The model that a Deployment's pods load."""
    annotations: Json = found["spec"]["template"]["metadata"].get("annotations", {})
    return annotations.get(SOURCE)


def ready(found: Json) -> bool:
    """An InferenceService says that it is."""
    told = found.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in told)


def test_a_standard_service_is_ready_when_its_pods_are(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """KServe makes a Deployment, Kubernetes its pods; once they are ready, so is the InferenceService."""
    path = admin.path(admin.apply(service(namespace)))
    made = admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/1")
    [pod] = playing.pods_of(admin, namespace, "app=isvc.loan-predictor")
    assert not ready(admin.get(path))
    playing.pod(admin, namespace, pod, "Running")

    admin.wait(path, ready)

    assert made["spec"]["selector"]["matchLabels"] == {"app": "isvc.loan-predictor"}


def test_standard_mode_ignores_a_canary_percent(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """The trap: with 10 % asked for, the one Deployment is changed to the new model, and nobody is told."""
    path = admin.path(admin.apply(service(namespace)))
    admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/1")
    admin.apply(service(namespace, model="gs://models/2", canaryTrafficPercent=10))

    admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/2")

    assert admin.get(path)["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert [one["metadata"]["name"] for one in admin.get(deployment(namespace).rpartition("/")[0])["items"]] == [
        "loan-predictor"
    ]


def test_a_note_on_the_service_rolls_its_pods(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """The trap: an annotation on an InferenceService comes to its pods' template, so writing one restarts them."""
    path = admin.path(admin.apply(service(namespace)))
    before = admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/1")
    admin.merge(path, {"metadata": {"annotations": {"example.com/note": "one"}}})

    after = admin.wait(
        deployment(namespace),
        lambda told: told["spec"]["template"]["metadata"]["annotations"].get("example.com/note") == "one",
    )

    assert after["metadata"]["generation"] > before["metadata"]["generation"]


def test_a_mode_by_its_old_name_locks_the_service(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """The trap: once KServe wrote the mode's new name into the status, every change under the old one is refused."""
    path = admin.path(admin.apply(service(namespace, mode="RawDeployment")))
    admin.wait(path, lambda told: told.get("status", {}).get("deploymentMode") == "Standard")

    with pytest.raises(httpx.HTTPStatusError, match="deploymentMode cannot be changed from 'Standard'"):
        admin.merge(path, {"spec": {"predictor": {"model": {"storageUri": "gs://models/2"}}}})

    admin.merge(path, {"metadata": {"annotations": {MODE: "Standard"}}})
    admin.merge(path, {"spec": {"predictor": {"model": {"storageUri": "gs://models/2"}}}})


def test_a_field_that_this_version_does_not_know_is_refused_when_asked_strictly(
    kserve: Kserve, admin: Admin, namespace: str
) -> None:
    """The canary list of later versions is unknown here: told with strict validation, dropped without it."""
    body = service(namespace)
    body["spec"]["canary"] = [{"trafficPercent": 10}]

    with pytest.raises(httpx.HTTPStatusError, match=r"unknown field .*spec\.canary"):
        admin.create(f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices", body)


def test_knative_mode_makes_a_knative_service(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """With Knative's definitions there, the mode is at hand; all traffic goes to the latest revision at first."""
    admin.apply(service(namespace, mode="Knative", canaryTrafficPercent=10))

    path = f"/apis/serving.knative.dev/v1/namespaces/{namespace}/services/loan-predictor"
    made = admin.wait(path, lambda told: told["spec"].get("traffic"))

    assert [one["percent"] for one in made["spec"]["traffic"]] == [100]


def test_a_controller_that_was_killed_goes_on_when_it_is_started(kserve: Kserve, admin: Admin, namespace: str) -> None:
    """What was changed meanwhile is reconciled; while it is away its webhook refuses changes."""
    admin.apply(service(namespace))
    admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/1")
    kserve.controller.kill()
    with pytest.raises(httpx.HTTPStatusError, match="failed calling webhook"):
        admin.apply(service(namespace, model="gs://models/2"))
    kserve.start()

    admin.apply(service(namespace, model="gs://models/2"))

    admin.wait(deployment(namespace), lambda told: source(told) == "gs://models/2")
