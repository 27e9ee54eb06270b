"""`driftd rbac` on a real API server. The verbs' own tests run as the account that it grants (fixture `account`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from daemon.access import access, plural
from daemon.config import Config
from tests.cluster.access import grant, printed
from tests.cluster.admin import Admin, Json
from tests.cluster.cluster import Cluster

OBSERVING = """
model: loan
rules:
  - name: only-looks
    on: model.registered
    mode: observe
    do:
      - retrain: {template: train}
"""


def allowed(cluster: Cluster, kubeconfig: Path, namespace: str) -> set[tuple[str, str, str]]:
    """What the API server itself says that the account may do in a namespace: group, resource, verb."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    with cluster.http(token=token) as http:
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        told: Json = http.post(path, json=review).raise_for_status().json()
    # Every account may ask who it is and what it may, and read the bundles of trusted certificates.
    own = {"authorization.k8s.io", "authentication.k8s.io", "certificates.k8s.io"}
    return {
        (group, resource, verb)
        for rule in told["status"]["resourceRules"]
        for group in rule["apiGroups"]
        if group not in own
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def granted(documents: list[Json], namespace: str) -> set[tuple[str, str, str]]:
    """What Roles of the namespace, and ClusterRoles, say."""
    return set(_granted(documents, namespace))


def _granted(documents: list[Json], namespace: str) -> Iterator[tuple[str, str, str]]:
    for document in documents:
        if document["kind"].endswith("Role") and document["metadata"].get("namespace", namespace) == namespace:
            for rule in document["rules"]:
                for verb in rule["verbs"]:
                    yield rule["apiGroups"][0], rule["resources"][0], verb


@pytest.mark.slow
def test_the_account_may_do_what_was_printed_and_nothing_else(
    cluster: Cluster, admin: Admin, namespace: str, tmp_path: Path
) -> None:
    """As the API server reckons it: in the namespace of models and jobs, and in another one only what needs none."""
    documents = printed(tmp_path / "all", cluster.kubeconfig, namespace)
    kubeconfig = grant(cluster, admin, documents, namespace)

    assert allowed(cluster, kubeconfig, namespace) == granted(documents, namespace)
    assert {resource for _, resource, _ in allowed(cluster, kubeconfig, "default")} == {
        "customresourcedefinitions",
        "nodes",
    } | {"events"}
    assert ("batch", "jobs", "create") in granted(documents, namespace)
    assert ("serving.kserve.io", "inferenceservices", "patch") in granted(documents, namespace)
    assert "secrets" not in {resource for _, resource, _ in granted(documents, namespace)}


def test_rules_that_change_no_traffic_need_no_right_to(tmp_path: Path) -> None:
    """Models are still looked at, so that it is known what serves; what a rule does not use is not granted."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    told = granted(printed(tmp_path / "home", kubeconfig, "models", OBSERVING), "models")

    assert {verb for _, resource, verb in told if resource == "inferenceservices"} == {"get", "list"}
    assert {verb for _, resource, verb in told if resource == "experiments"} == {"get", "list", "watch"}
    assert "patch" not in {verb for _, _, verb in told}


def test_a_laptop_needs_nothing(tmp_path: Path) -> None:
    """Where neither the platform nor a source is a cluster."""
    found = access(Config(home=tmp_path), (), {}, {})
    assert (found.namespaces, found.cluster) == ({}, ())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Job", "jobs"), ("NetworkPolicy", "networkpolicies"), ("Ingress", "ingresses"), ("ConfigMap", "configmaps"),
        ("ResourceClass", "resourceclasses"), ("CanaryPolicy", "canarypolicies"),
    ],
)  # fmt: skip
def test_kinds_are_called_as_their_paths_call_them(kind: str, expected: str) -> None:
    """As definitions of kinds are named."""
    assert plural(kind) == expected
