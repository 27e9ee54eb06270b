"""pytest fixtures of the test cluster, for the tests of any folder (tests/conftest.py loads this as a plugin).

`cluster`      the api-level cluster of this session (one per xdist worker: tests that ask for it run in one of them)
`admin`        its administrator, plain REST
`account`      a kubeconfig of a service account in `namespace` that may do exactly what `driftd rbac` prints for all verbs
`namespace`    the name of a fresh namespace, with its default service account; deleted after the test
`kserve`       KServe's real controller, beside the cluster as long as the module's tests: others play it themselves
`definitions`  applies platforms' custom resource definitions: `definitions("kserve", "katib")`
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import definitions as platform_definitions
from tests.cluster.admin import Admin
from tests.cluster.cluster import Cluster
from tests.cluster.kserve import Kserve
from tests.cluster.places import NoCluster

GROUP = "cluster"
START_S = 400
"""What a test that asks for the cluster may take at most: the first one waits for its start, on a busy machine too."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that ask for the cluster into one group of xdist, so that one cluster is started for all."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(GROUP))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_S))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without nodes; who kills one of its programs starts it again."""
    try:
        one = Cluster(tmp_path_factory.mktemp("cluster"))
    except NoCluster as error:
        pytest.fail(str(error), pytrace=False)
    with one:
        yield one


@pytest.fixture(scope="session")
def admin(cluster: Cluster) -> Iterator[Admin]:
    """The cluster's administrator."""
    with Admin(cluster.http()) as one:
        yield one


@pytest.fixture
def namespace(request: pytest.FixtureRequest, admin: Admin) -> Iterator[str]:
    """A namespace of the test's own. It is deleted, not waited for: without nodes that can take long."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    # Short: KServe makes one DNS label of it and a Service's name.
    name = f"{words[:24].strip('-')}-{uuid.uuid4().hex[:6]}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    admin.wait(f"/api/v1/namespaces/{name}/serviceaccounts/default", bool)
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def account(cluster: Cluster, admin: Admin, namespace: str, tmp_path: Path) -> Path:
    """Whom the verbs' tests run as: nothing that they do needs more than what is printed."""
    from tests.cluster.access import grant, printed  # noqa: PLC0415 - the whole command line, and each pytest reads this

    return grant(cluster, admin, printed(tmp_path / "rbac", cluster.kubeconfig, namespace), namespace)


@pytest.fixture(scope="session")
def definitions(admin: Admin) -> Callable[..., None]:
    """Applies the definitions of platforms once a session; they stay."""
    there: set[str] = set()

    def apply(*platforms: str) -> None:
        platform_definitions.apply(admin, *(one for one in platforms if one not in there))
        there.update(platforms)

    return apply


@pytest.fixture(scope="module")
def kserve(cluster: Cluster) -> Iterator[Kserve]:
    """KServe's controller in the mode that it ships for Kubernetes alone (Standard); Knative is there for who asks."""
    try:
        one = Kserve(cluster)
    except NoCluster as error:
        pytest.fail(str(error), pytrace=False)
    with one:
        yield one
