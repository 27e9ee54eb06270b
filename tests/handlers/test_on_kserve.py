"""The real verbs over KServe on a real API server, in both deployment modes, with controllers that tests play.

Real are the API server, its definitions of KServe 0.16, Knative and the Gateway API, and the controllers of Deployments;
played are KServe's, Knative's and the gateway's (tests/platforms/played_cluster.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.kubernetes import Cluster as Client
from daemon.core.calls import Done, Failed
from daemon.core.errors import Conflict, Refused, Unavailable
from daemon.core.runs import UNDO_STEP
from daemon.platformparts import KubernetesConnection
from daemon.platforms.kserve.modes import MODE
from daemon.platforms.kubernetes_looking import Places
from daemon.platforms.kubernetes_serving import KubernetesServing
from daemon.servingparts import KserveServing
from handlers import canary, promote, rollback
from tests.cluster.admin import Admin
from tests.platforms.played_cluster import ROUTES, SERVICES, Played, PlayedInKnativeMode, PlayedInStandardMode

TARGET = "car-loan"
CANARY = {"steps": [10, 50], "each": "2m", "look": "1m", "guards": ["error_rate"], "min_requests": 500}
MODES = {"knative": PlayedInKnativeMode, "standard": PlayedInStandardMode}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Stage:
    """The world of the handlers, with a cluster for its serving."""

    def __init__(self, world: Any, admin: Admin, played: Played, client: Client, make_block: Any) -> None:
        self.world, self.admin, self.played, self.client = world, admin, played, client
        self.make_block = make_block
        self.of: dict[str, Any] = {}
        self.most = 0.0
        """The largest share that version 2 was seen with."""
        self.settings = KserveServing.model_validate(
            {"route": {"gateway": "models", "hostname": "{target}.example.com"}, "drain": "200ms", "patience": "3s"}
        )
        self.serving = self.platform(lambda _target, _since: dict(world.served_by))
        world.real_serving = self.serving

    def platform(self, count: Callable[[str, datetime], Mapping[str, int]]) -> KubernetesServing:
        """The platform, with requests counted so."""
        now = lambda: datetime.fromisoformat("2026-01-01T00:00:00+00:00")  # noqa: E731
        places = Places(
            lambda _target, version: f"s3://models/{version}", lambda _target: self.world.aliases["champion"]
        )
        return KubernetesServing(self.client, self.settings, places, count, now)

    def serve(self, version: str = "1", **annotations: str) -> None:
        """People have made the InferenceService of the champion, and it serves."""
        mode = self.played.mode
        body = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": TARGET, "annotations": {MODE: mode, **annotations}},
            "spec": {
                "predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": f"s3://models/{version}"}}
            },
        }
        self.admin.create(SERVICES.format(self.played.namespace), body)
        self.admin.wait(self.path, lambda found: found.get("status", {}).get("deploymentMode"))

    @property
    def path(self) -> str:
        """The InferenceService."""
        return f"{SERVICES.format(self.played.namespace)}/{TARGET}"

    @property
    def predictor(self) -> dict[str, Any]:
        """Its predictor, as it is in the cluster."""
        found: dict[str, Any] = self.admin.get(self.path)["spec"]["predictor"]
        return found

    def feed(self) -> None:
        """A minute of traffic, measured as it is split; the cluster goes on in real time."""
        shares = self.serving.traffic(TARGET).weights
        self.most = max(self.most, shares.get("2", 0.0))
        arms = {
            f"v{version}": self.make_block(round(4 * share), **(self.of if version == "2" else {}))
            for version, share in shares.items()
        }
        if arms:
            self.world.measured(**arms)
        threading.Event().wait(0.05)

    def drive(self, verb: Any, call: Any) -> Any:
        """The call to its end."""
        return self.world.drive(verb.run, call, self.feed, most=3000)


@pytest.fixture(params=list(MODES))
def stage(
    request: pytest.FixtureRequest, world: Any, make_block: Any, account: Path, admin: Admin, namespace: str,
    definitions: Callable[..., None],
) -> Iterator[Stage]:  # fmt: skip
    """A cluster in one of the modes; the champion, version 1, serves. driftd has the rights that it asks for, no others."""
    definitions("kserve", "knative", "gateway")
    client = Client(KubernetesConnection(kubeconfig=account, namespace=namespace))
    with MODES[request.param](admin, namespace) as played:
        made = Stage(world, admin, played, client, make_block)
        made.serve()
        yield made
    client.close()


def later(call: Any, stage: Stage, verb: str, given: dict[str, Any], inputs: Any = None, **more: Any) -> Any:
    """A call of a later step of the same run."""
    return call(verb, inputs or {}, given, deadline=stage.world.now + timedelta(hours=1), **more)


def test_a_good_version_is_promoted(stage: Stage, call: Any) -> None:
    """It gets its steps' shares, then everything; in the end the InferenceService that people know has its model."""
    outcome = stage.drive(canary, call("canary", CANARY, {"version": "2"}))
    assert isinstance(outcome, Done), outcome
    assert stage.serving.traffic(TARGET).weights == {"2": 50.0, "1": 50.0}
    given = {"version": "2", **outcome.outputs}
    outcome = stage.drive(promote, later(call, stage, "promote", given))
    assert isinstance(outcome, Done), outcome
    traffic = stage.serving.traffic(TARGET)
    assert traffic.weights == {"2": 100.0}
    assert traffic.wanted is None
    assert stage.predictor["model"]["storageUri"] == "s3://models/2"
    assert "canaryTrafficPercent" not in stage.predictor
    names = [one["metadata"]["name"] for one in stage.admin.get(SERVICES.format(stage.played.namespace))["items"]]
    assert names == [TARGET]
    assert stage.world.aliases["champion"] == "2"


def test_a_bad_version_is_taken_back(stage: Stage, call: Any) -> None:
    """It never has more than the step that it failed at; then the champion has everything, and nothing is left over."""
    stage.of = {"failed": 30}
    outcome = stage.drive(canary, call("canary", {**CANARY, "each": "15m"}, {"version": "2"}))
    assert isinstance(outcome, Failed), outcome
    assert outcome.quarantine
    stage.world.served_by = {"1": 500}
    outcome = stage.drive(rollback, later(call, stage, "rollback", {"version": "2"}, step=UNDO_STEP))
    assert isinstance(outcome, Done), outcome
    assert outcome.outputs["verified"] == "proven"
    assert stage.most == 10.0
    traffic = stage.serving.traffic(TARGET)
    assert traffic.weights == {"1": 100.0}
    assert traffic.ready == {"1": True}
    assert stage.predictor["model"]["storageUri"] == "s3://models/1"
    assert "canaryTrafficPercent" not in stage.predictor


def test_a_promotion_is_taken_back(stage: Stage, call: Any) -> None:
    """Also after 100 percent, when the old model is loaded nowhere any more or only as the revision before."""
    outcome = stage.drive(promote, call("promote", {}, {"version": "2"}))
    assert isinstance(outcome, Done), outcome
    stage.world.served_by = {"1": 500}
    undo = later(call, stage, "rollback", {"version": "2"}, step=UNDO_STEP)
    outcome = stage.drive(rollback, undo)
    assert isinstance(outcome, Done), outcome
    assert stage.serving.traffic(TARGET).weights == {"1": 100.0}
    assert stage.predictor["model"]["storageUri"] == "s3://models/1"
    assert stage.world.aliases["champion"] == "1"


def test_without_a_log_by_version_a_rollback_is_unverified(stage: Stage, call: Any) -> None:
    """The cluster says that all traffic is back; that requests go there is shown by nothing, and not claimed."""

    def unknown(_target: str, _since: datetime) -> dict[str, int]:
        raise Unavailable("prediction log", "served", "nothing tells versions apart")

    stage.world.real_serving = stage.platform(unknown)
    outcome = stage.drive(promote, call("promote", {}, {"version": "2"}))
    assert isinstance(outcome, Done), outcome
    outcome = stage.drive(rollback, later(call, stage, "rollback", {"version": "2"}, step=UNDO_STEP))
    assert isinstance(outcome, Done), outcome
    assert outcome.outputs["verified"] == "unverified"


def test_a_version_that_does_not_load_gets_no_traffic(stage: Stage, call: Any) -> None:
    """The canary fails when its time is up, with the reason, and the champion has everything all the while."""
    stage.played.broken.add("s3://models/2")
    outcome = stage.drive(canary, call("canary", CANARY, {"version": "2"}))
    assert isinstance(outcome, Failed), outcome
    assert "did not become ready" in outcome.why
    assert stage.most == 0.0


def test_what_a_person_changes_meanwhile_is_left(stage: Stage, call: Any) -> None:
    """A split that somebody else has written counts as a change: driftd's next one is a Conflict, and says whose it may be."""
    stage.world.drive(lambda one, context: _until_loaded(one, context, stage), call("canary", CANARY, {"version": "2"}))
    before = stage.serving.traffic(TARGET)
    if stage.played.mode == "Knative":
        stage.admin.merge(stage.path, {"spec": {"predictor": {"canaryTrafficPercent": 30}}})
    else:
        path = f"{ROUTES.format(stage.played.namespace)}/{TARGET}-driftd"
        backends = [
            {"name": name, "port": 80, "weight": weight}
            for name, weight in ((f"{TARGET}-predictor", 70), (f"{TARGET}-v2-predictor", 30))
        ]
        stage.admin.merge(path, {"spec": {"rules": [{"backendRefs": backends}]}})
    with pytest.raises(Conflict, match="somebody else"):
        stage.serving.shift(TARGET, {"2": 10, "1": 90}, before.epoch, "run1/call-canary")
    assert stage.serving.traffic(TARGET).epoch == before.epoch + 1


def _until_loaded(one: Any, context: Any, stage: Stage) -> Any:
    traffic = stage.serving.traffic(TARGET)
    if traffic.ready.get("2"):
        return Done({})
    stage.feed()
    return canary.run(one, context)


def test_a_second_driftd_cannot_split_by_an_old_epoch(stage: Stage, call: Any) -> None:
    """Of two that saw the same epoch one wins; the same change again is the same change."""
    stage.world.drive(lambda one, context: _until_loaded(one, context, stage), call("canary", CANARY, {"version": "2"}))
    epoch = stage.serving.traffic(TARGET).epoch
    made = stage.serving.shift(TARGET, {"2": 10, "1": 90}, epoch, "run1/a")
    assert (made.weights, made.epoch, made.by) == ({"2": 10.0, "1": 90.0}, epoch + 1, "run1/a")
    assert stage.serving.shift(TARGET, {"2": 10, "1": 90}, epoch, "run1/a").epoch == epoch + 1
    with pytest.raises(Conflict, match="epoch is"):
        stage.platform(lambda _t, _s: {}).shift(TARGET, {"2": 50, "1": 50}, epoch, "run2/b")


def test_every_change_is_told_and_nothing_is_noted_on_the_inference_service(stage: Stage, call: Any) -> None:
    """Kubernetes Events say what driftd did; annotations and labels of the InferenceService stay as people made them."""
    before = stage.admin.get(stage.path)["metadata"]
    outcome = stage.drive(promote, call("promote", {}, {"version": "2"}))
    assert isinstance(outcome, Done), outcome
    after = stage.admin.get(stage.path)["metadata"]
    assert after.get("annotations") == before.get("annotations")
    assert after.get("labels") == before.get("labels")
    events = stage.admin.get(f"/apis/events.k8s.io/v1/namespaces/{stage.played.namespace}/events")["items"]
    told = [one["note"] for one in events if one.get("reportingController") == "driftd.io/driftd"]
    assert any("version 2" in note for note in told)
    kept = stage.admin.get(f"/api/v1/namespaces/{stage.played.namespace}/configmaps/driftd-serving-{TARGET}")
    assert kept["metadata"]["ownerReferences"][0]["name"] == TARGET


def test_a_champion_that_people_replaced_is_not_overwritten(stage: Stage, call: Any) -> None:
    """What serves is read from the cluster: a model that is no known version stops the canary before it changes anything."""
    stage.admin.merge(stage.path, {"spec": {"predictor": {"model": {"storageUri": "s3://elsewhere/x"}}}})
    outcome = stage.drive(canary, call("canary", CANARY, {"version": "2"}))
    assert isinstance(outcome, Failed), outcome
    assert "s3://elsewhere/x" in outcome.why
    assert stage.predictor["model"]["storageUri"] == "s3://elsewhere/x"


def test_a_target_without_an_inference_service_is_refused_or_made(stage: Stage) -> None:
    """As config.yaml says."""
    with pytest.raises(Refused, match=r"platform\.serving\.first"):
        stage.serving.deploy("other", "1", "models:/other/1")
    stage.settings = stage.settings.model_copy(
        update={"first": KserveServing.model_validate({"first": {"format": "mlflow"}}).first}
    )
    stage.platform(lambda _t, _s: {}).deploy("other", "1", "models:/other/1")
    made = stage.admin.get(f"{SERVICES.format(stage.played.namespace)}/other")
    assert made["spec"]["predictor"]["model"]["storageUri"] == "s3://models/1"
