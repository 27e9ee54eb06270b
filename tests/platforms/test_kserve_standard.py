"""The sequences of Standard mode, planned from objects as KServe 0.16 and Deployments write them; and names and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from daemon.core.errors import Refused
from daemon.platforms.kserve import modes, standard
from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import SOURCE, Installed, Mode
from daemon.platforms.kserve.steps import Act, Kind, Refuse, Settled, Step, Wait, Write
from daemon.platforms.kserve.uris import storage_uri

BOOK = Book(versions={"1": "s3://1", "2": "s3://2"})
FRAME = {"parentRefs": [{"name": "models"}], "hostnames": ["churn.example.com"]}


def service(name: str = "churn", uri: str = "s3://1", **annotations: str) -> dict[str, Any]:
    """An InferenceService in Standard mode."""
    return {
        "metadata": {
            "name": name, "namespace": "models", "uid": f"uid-{name}", "resourceVersion": "7", "generation": 3, "labels": {"team": "churn"},
            "annotations": {key.replace("__", "/").replace("_", "-"): value for key, value in annotations.items()},
        },
        "spec": {"predictor": {"minReplicas": 1, "model": {"modelFormat": {"name": "mlflow"}, "storageUri": uri}}},
        "status": {"deploymentMode": "Standard", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


def deployment(uri: str = "s3://1", **status: int) -> dict[str, Any]:
    """A Deployment that has rolled the model out, but for what `status` says."""
    told = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, **status}
    template = {"metadata": {"annotations": {SOURCE: uri}}}
    return {"metadata": {"generation": 2}, "spec": {"replicas": 1, "template": template}, "status": told}


def route(weights: Mapping[str, int], observed: int = 4, accepted: str = "True") -> standard.Route:
    """An HTTPRoute of driftd's at generation 4."""
    conditions = [
        {"type": kind, "status": accepted, "observedGeneration": observed, "message": "no such listener"}
        for kind in ("Accepted", "ResolvedRefs")
    ]
    backends = [{"name": name, "port": 80, "weight": weight} for name, weight in weights.items()]
    return standard.route_of(
        {
            "metadata": {"resourceVersion": "9", "generation": 4},
            "spec": {"rules": [{"backendRefs": backends, "timeouts": {"request": "3s"}}]},
            "status": {"parents": [{"conditions": conditions}]},
        }
    )


def seen(
    to: standard.Route | None, primary: standard.Slot | None = None, second: standard.Slot | None = None, **more: str
) -> standard.Seen:
    """The target `churn` with version 1 in its own InferenceService, unless said otherwise."""
    slots = (primary or standard.slot_of(service(), deployment()), *([second] if second else []))
    return standard.seen(service(**more), slots, to, Installed(), FRAME)


SECOND = standard.slot_of(service("churn-v2", "s3://2"), deployment("s3://2"))


def written(step: Step) -> Write:
    """The write of a step."""
    assert isinstance(step, Write), step
    return step


def test_a_new_version_gets_an_inference_service_beside_the_first() -> None:
    """It is made like the first, without a percent, under a name of its own, as driftd's; its pods say their version."""
    step = written(standard.load(seen(route({"churn-predictor": 1})), BOOK, "2"))
    assert (step.act, step.kind, step.name) == (Act.CREATE, Kind.SERVICE, "churn-v2")
    predictor = step.body["spec"]["predictor"]
    assert predictor["model"] == {"modelFormat": {"name": "mlflow"}, "storageUri": "s3://2"}
    assert predictor["labels"] == {"endpoint": "2"}
    assert "canaryTrafficPercent" not in predictor
    metadata = step.body["metadata"]
    assert metadata["labels"] == {
        "team": "churn", "app.kubernetes.io/managed-by": "driftd", "driftd.io/target": "churn", "driftd.io/version": "2",
    }  # fmt: skip
    assert metadata["annotations"][modes.MODE] == "Standard"
    assert metadata["ownerReferences"][0]["uid"] == "uid-churn"


def test_the_route_is_there_before_anything_is_loaded() -> None:
    """First of all a route of driftd's own, with everything where it is; KServe's own routes have other names."""
    step = written(standard.load(seen(None), BOOK, "2"))
    assert (step.act, step.kind, step.name) == (Act.CREATE, Kind.ROUTE, "churn-driftd")
    backend = {"group": "", "kind": "Service", "name": "churn-predictor", "port": 80, "weight": 1}
    assert step.body["spec"] == {**FRAME, "rules": [{"backendRefs": [backend]}]}


def test_a_split_is_a_change_of_weights_and_of_nothing_else() -> None:
    """Weights on the predictors' Services; what people have put into the route's rule stays; InferenceServices do too."""
    view = seen(route({"churn-predictor": 1}), second=SECOND)
    step = written(standard.split(view, BOOK, {"2": 5, "1": 95}))
    assert (step.act, step.kind, step.resource_version) == (Act.PATCH, Kind.ROUTE, "9")
    rule = step.body["spec"]["rules"][0]
    assert {one["name"]: one["weight"] for one in rule["backendRefs"]} == {
        "churn-v2-predictor": 5,
        "churn-predictor": 95,
    }
    assert rule["timeouts"] == {"request": "3s"}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "no Deployment"),
        (deployment("s3://1"), "set to s3://1"),
        (deployment("s3://2", observedGeneration=1), "not been looked at"),
        (deployment("s3://2", updatedReplicas=0), "0 with the model"),
        (deployment("s3://2", replicas=2), "2 in all"),
        (deployment("s3://2", availableReplicas=0), "0 of 1 pods answer"),
    ],
)
def test_a_version_gets_traffic_only_when_its_deployment_has_rolled_it_out(found: Any, why: str) -> None:
    """`Ready` of the InferenceService is True all the while: it is from before the change, and is not looked at."""
    slot = standard.slot_of(service("churn-v2", "s3://2"), found)
    view = seen(route({"churn-predictor": 1}), second=slot)
    assert standard.standing(view, BOOK).ready == {"1": True, "2": False}
    step = standard.split(view, BOOK, {"2": 5, "1": 95})
    assert isinstance(step, Wait)
    assert why in step.why


def test_a_model_that_fails_to_load_is_refused_in_kserves_words() -> None:
    """KServe says what is wrong: it is told, and no traffic goes there."""
    failed = service("churn-v2", "s3://2")
    failed["status"]["modelStatus"] = {
        "transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no such key"},
    }  # fmt: skip
    view = seen(
        route({"churn-predictor": 1}), second=standard.slot_of(failed, deployment("s3://2", availableReplicas=0))
    )
    assert standard.standing(view, BOOK).problems == {"2": "no such key"}
    assert isinstance(standard.split(view, BOOK, {"2": 5, "1": 95}), Refuse)


def test_a_split_is_done_when_a_gateway_has_taken_over_this_very_route() -> None:
    """Conditions of an earlier generation say nothing; a route that is refused says why."""
    weights = {"churn-v2-predictor": 5, "churn-predictor": 95}
    wanted = {"2": 5.0, "1": 95.0}
    assert isinstance(standard.split(seen(route(weights), second=SECOND), BOOK, wanted), Settled)
    assert isinstance(standard.split(seen(route(weights, observed=3), second=SECOND), BOOK, wanted), Wait)
    refused = standard.split(seen(route(weights, accepted="False"), second=SECOND), BOOK, wanted)
    assert isinstance(refused, Wait)
    assert refused.why == "no such listener"


def test_after_a_promotion_the_model_moves_in_while_the_route_holds_the_traffic_elsewhere() -> None:
    """Model into the first InferenceService; when that has rolled it out the traffic; then the second one goes."""
    held = route({"churn-v2-predictor": 1})
    step = written(standard.rest(seen(held, second=SECOND), BOOK))
    assert (step.act, step.kind, step.name) == (Act.PATCH, Kind.SERVICE, "churn")
    assert step.body == {"spec": {"predictor": {"model": {"storageUri": "s3://2"}, "labels": {"endpoint": "2"}}}}

    rolling = standard.slot_of(service(uri="s3://2"), deployment("s3://1"))
    assert isinstance(standard.rest(seen(held, rolling, SECOND), BOOK), Wait)

    there = standard.slot_of(service(uri="s3://2"), deployment("s3://2"))
    step = written(standard.rest(seen(held, there, SECOND), BOOK))
    assert step.kind is Kind.ROUTE
    assert [one["name"] for one in step.body["spec"]["rules"][0]["backendRefs"]] == ["churn-predictor"]

    back = route({"churn-predictor": 1})
    assert isinstance(standard.rest(seen(route({"churn-predictor": 1}, observed=3), there, SECOND), BOOK), Wait)
    step = written(standard.rest(seen(back, there, SECOND), BOOK))
    assert (step.act, step.name) == (Act.DELETE, "churn-v2")
    assert isinstance(standard.rest(seen(back, there), BOOK), Settled)


def test_nothing_moves_while_the_traffic_is_split() -> None:
    """During a canary there is nothing to tidy."""
    view = seen(route({"churn-v2-predictor": 5, "churn-predictor": 95}), second=SECOND)
    assert isinstance(standard.rest(view, BOOK), Settled)
    assert isinstance(standard.retire(view, BOOK, "2"), Refuse)


def test_a_model_that_people_put_into_the_inference_service_is_never_overwritten() -> None:
    """What serves is read from the cluster: when it is none of the known versions, nothing is done."""
    strange = standard.slot_of(service(uri="s3://by-hand"), deployment("s3://by-hand"))
    view = seen(route({"churn-predictor": 1}), strange)
    assert standard.standing(view, BOOK).weights == {}
    step = standard.load(view, BOOK, "2")
    assert isinstance(step, Refuse)
    assert "s3://by-hand" in step.why


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"transformer": {"containers": []}}, "transformer"),
        ({"predictor": {"sklearn": {"storageUri": "s3://1"}}}, "model"),
        ({"predictor": {"model": {"storageUri": "s3://1", "storage": {"key": "k"}}}}, "storageUri"),
    ],
)
def test_forms_that_cannot_be_driven_safely_are_refused(change: dict[str, Any], word: str) -> None:
    """With the reason."""
    odd = service()
    odd["spec"] |= change
    found = list(modes.objections(odd, Installed()))
    assert found
    assert word in found[0]


def test_modes_have_two_names() -> None:
    """Old and new names are the same mode; each KServe gets its own; a status with an old name confuses a new KServe."""
    new, old = Installed(modern=True), Installed(modern=False)
    assert (new.name(Mode.STANDARD), old.name(Mode.STANDARD)) == ("Standard", "RawDeployment")
    assert (new.name(Mode.KNATIVE), old.name(Mode.KNATIVE)) == ("Knative", "Serverless")
    annotated = service(serving_kserve_io__deploymentMode="x")
    annotated["metadata"]["annotations"] = {modes.MODE: "RawDeployment"}
    assert modes.renamed(annotated) == {modes.MODE: "Standard"}
    annotated["status"]["deploymentMode"] = "RawDeployment"
    assert modes.renamed(annotated) == {}
    assert list(modes.objections(annotated, old)) == []
    assert "create it anew" in next(modes.objections(annotated, new))
    assert modes.mode_of({"metadata": {}, "status": {}}, Installed(default="Serverless")) is Mode.KNATIVE


def test_a_move_puts_an_old_name_of_the_mode_right() -> None:
    """Else KServe's webhook refuses every update of the InferenceService."""
    annotated = service()
    annotated["metadata"]["annotations"] = {modes.MODE: "RawDeployment"}
    slots = (standard.slot_of(annotated, deployment()), SECOND)
    view = standard.seen(annotated, slots, route({"churn-v2-predictor": 1}), Installed(), FRAME)
    step = written(standard.rest(view, BOOK))
    assert step.body["metadata"] == {"annotations": {modes.MODE: "Standard"}}


def test_names_of_second_inference_services_are_valid_and_the_same_each_time() -> None:
    """With `-predictor-` and the namespace they are one label of a host's name: KServe deploys nothing that is longer than 63."""
    assert standard.slot_name("churn", "2", "models") == "churn-v2"
    target, namespace = "car-loan-of-the-north", "a-team-with-a-rather-long-name"
    long = standard.slot_name(target, "12", namespace)
    assert len(f"{long}-predictor-{namespace}") <= 63
    assert long == standard.slot_name(target, "12", namespace)
    assert long != standard.slot_name(target, "13", namespace)


def test_where_no_name_fits_nothing_is_made() -> None:
    """KServe would take such an InferenceService and never deploy it: it is refused, with the reason."""
    view = seen(route({"churn-predictor": 1}))
    far = {**view.source, "metadata": {**view.source["metadata"], "namespace": "n" * 45}}
    step = standard.load(replace(view, source=far), BOOK, "2")
    assert isinstance(step, Refuse)
    assert "KServe would not deploy it" in step.why


@pytest.mark.parametrize(
    ("location", "wanted"),
    [
        ("s3://models/1/abc/artifacts", "s3://models/1/abc/artifacts"),
        ("mlflow-artifacts:/1/models/m-5/artifacts", "s3://bucket/mlflow/1/models/m-5/artifacts"),
        ("/srv/mlflow/1/abc", "pvc://models/1/abc"),
    ],
)
def test_addresses_of_the_registry_become_addresses_for_kserve(location: str, wanted: str) -> None:
    """By their beginnings, as config.yaml maps them."""
    roots = {"mlflow-artifacts:/": "s3://bucket/mlflow", "/srv/mlflow": "pvc://models/", "/srv": "pvc://other"}
    assert storage_uri(location, roots) == wanted


@pytest.mark.parametrize(
    "location", ["models:/m-5", "mlflow-artifacts:/1/m-5", "mlflow-artifacts://host:5000/1", "/srv/x", "runs:/1/m"]
)
def test_addresses_that_kserve_would_take_for_a_path_are_refused(location: str) -> None:
    """KServe accepts them, and fails only when it loads."""
    with pytest.raises(Refused, match="cannot fetch"):
        storage_uri(location, {})


def test_which_names_a_kserve_writes_is_read_off_its_definition() -> None:
    """Predictors have `storageUris` since 0.16, when the modes were renamed; a definition without a schema is taken for new."""

    def definition(**fields: Any) -> dict[str, Any]:
        spec = {"properties": {"predictor": {"properties": fields}}}
        return {"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {"spec": spec}}}}]}}

    assert modes.is_modern(definition(model={}, storageUris={}))
    assert not modes.is_modern(definition(model={}))
    assert modes.is_modern({"spec": {"versions": [{"schema": {}}]}})
    assert modes.default_mode({"data": {"deploy": '{"defaultDeploymentMode": "Serverless"}'}}) == "Serverless"
    assert modes.default_mode({"data": {"deploy": "no JSON"}}) == ""
