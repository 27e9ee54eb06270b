"""The same runs with KServe's real controller: 0.16, with its webhooks on.

In Standard mode it makes the Deployments, Kubernetes makes their pods, and a test says that they run and that a gateway
takes over the route. In Knative mode it writes the real Knative Services and reads their status; what Knative would make of
them is played (tests/platforms/played_cluster.py), for its controllers are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.kubernetes import Cluster as Client
from daemon.core.calls import Done
from daemon.core.errors import Refused
from daemon.platformparts import KubernetesConnection
from daemon.platforms.kserve.modes import MODE, NO_UPDATES
from handlers import canary, promote
from tests.cluster.admin import Admin
from tests.cluster.kserve import Kserve
from tests.handlers.test_on_kserve import (
    CANARY,
    TARGET,
    Stage,
    later,
    test_a_bad_version_is_taken_back,
    test_a_good_version_is_promoted,
    test_a_promotion_is_taken_back,
    test_what_a_person_changes_meanwhile_is_left,
)
from tests.platforms.played_cluster import PlayedBesideKserve, PlayedInStandardMode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

__all__ = [
    "test_a_bad_version_is_taken_back", "test_a_good_version_is_promoted", "test_a_promotion_is_taken_back",
    "test_what_a_person_changes_meanwhile_is_left",
]  # fmt: skip
"""These run here too, on this module's `stage`."""


@pytest.fixture(params=["knative", "standard"])
def stage(
    request: pytest.FixtureRequest, world: Any, make_block: Any, account: Path, admin: Admin, kserve: Kserve,
    namespace: str, definitions: Callable[..., None],
) -> Iterator[Stage]:  # fmt: skip
    """A cluster with a real KServe; the champion, version 1, serves."""
    definitions("knative", "gateway")
    # KServe reads Knative's settings before it makes a Knative Service.
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "knative-serving"}})
    about = {"name": "config-autoscaler", "namespace": "knative-serving"}
    admin.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {}})
    client = Client(KubernetesConnection(kubeconfig=account, namespace=namespace))
    played = (
        PlayedBesideKserve(admin, namespace)
        if request.param == "knative"
        else PlayedInStandardMode(admin, namespace, kserve=False)
    )
    with played:
        made = Stage(world, admin, played, client, make_block)
        made.serve()
        yield made
    client.close()


def test_an_old_name_of_the_mode_is_put_right_with_the_model(stage: Stage, call: Any) -> None:
    """An InferenceService under the mode's old name, which the webhook locks, is promoted like any other."""
    stage.admin.delete(stage.path)
    stage.admin.wait(stage.path.rpartition("/")[0], lambda found: not found["items"])
    old = {"Knative": "Serverless", "Standard": "RawDeployment"}[stage.played.mode]
    stage.serve(**{MODE: old})
    outcome = stage.drive(promote, call("promote", {}, {"version": "2"}))
    assert isinstance(outcome, Done), outcome
    assert stage.predictor["model"]["storageUri"] == "s3://models/2"
    assert stage.admin.get(stage.path)["metadata"]["annotations"][MODE] == stage.played.mode


def test_with_updates_switched_off_nothing_is_written(stage: Stage, call: Any) -> None:
    """KServe ignores what is written then: driftd refuses, with the reason."""
    stage.admin.merge(stage.path, {"metadata": {"annotations": {NO_UPDATES: "true"}}})
    with pytest.raises(Refused, match="ignore"):
        stage.serving.deploy(TARGET, "2", "models:/car-loan/2")
    assert stage.predictor["model"]["storageUri"] == "s3://models/1"


def test_the_canary_after_a_rejected_one_starts_from_the_champion(stage: Stage, call: Any) -> None:
    """Nothing of the rejected version is in the way, and none of its traffic goes to it."""
    test_a_bad_version_is_taken_back(stage, call)
    stage.of, stage.most = {}, 0.0
    stage.world.register("3")
    outcome = stage.drive(canary, later(call, stage, "canary", {"version": "3"}, CANARY, id="c3", run="run3"))
    assert isinstance(outcome, Done), outcome
    assert stage.serving.traffic(TARGET).weights == {"3": 50.0, "1": 50.0}
    assert stage.most == 0.0
