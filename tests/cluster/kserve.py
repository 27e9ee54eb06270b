"""KServe's real controller beside a test cluster, as a plain process: what it makes of InferenceServices is the real thing.

Deployments, Services and Knative Services are its work; that their pods become ready, and what Knative makes of a
Service, is told by the test. Its webhooks are on, called at a port of loopback. Its settings are those in its own
module, but for the mode (Standard by default) and for ingress, which is off: nobody serves it here.

The controller offers no way to bind its webhook port to loopback alone; it is TLS, and answers reviews only.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import httpx
import yaml

from tests.cluster import binaries, definitions, golang
from tests.cluster.admin import Admin, Json
from tests.cluster.cluster import Cluster
from tests.cluster.process import HOST, Part, free_ports

NAMESPACE = "kserve"
KNATIVE = "knative-serving"
MODULE = "github.com/kserve/kserve"
RUNTIME = "kserve-sklearnserver"
"""The serving runtime that is there: it takes models of format `sklearn`."""
START_S = 120.0
_CHANGED = {
    "deploy": {"defaultDeploymentMode": "Standard"},
    "ingress": {
        "ingressGateway": "none/none",
        "ingressDomain": "example.com",
        "disableIstioVirtualHost": True,
        "disableIngressCreation": True,
    },
}


class Kserve:
    """The controller. A context manager: it reconciles when entry returns, and has ended when it is left."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        folder = cluster.folder / "kserve"
        certs = folder / "k8s-webhook-server" / "serving-certs"
        certs.mkdir(parents=True, exist_ok=True)
        pair = cluster.authority.signed("kserve-webhooks")
        shutil.copy(pair.cert, certs / "tls.crt")
        shutil.copy(pair.key, certs / "tls.key")
        self._webhooks, self._probes = free_ports(2)
        self.controller = Part(
            [
                str(binaries.find("kserve-manager")),
                f"--kubeconfig={cluster.kubeconfig}",
                f"--webhook-port={self._webhooks}",
                f"--health-probe-addr={HOST}:{self._probes}",
                "--metrics-addr=0",
            ],
            folder,
            {"POD_NAMESPACE": NAMESPACE, "TMPDIR": str(folder)},
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Applies what it needs and starts it, or starts it again; its webhooks answer when this returns. NoCluster."""
        with Admin(self._cluster.http()) as admin:
            definitions.apply(admin, "kserve", "knative")
            for name in (NAMESPACE, KNATIVE):
                admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            admin.apply(_settings())
            # In Knative mode it asks this of Knative's settings, and errs when they are not there; empty are defaults.
            about = {"name": "config-autoscaler", "namespace": KNATIVE}
            admin.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about})
            # It asks once which kinds are served, and ends when its own are not told yet: they are some time after the
            # definitions are established.
            for kind in ("serving.kserve.io/v1beta1", "serving.kserve.io/v1alpha1", "serving.knative.dev/v1"):
                admin.wait(f"/apis/{kind}", lambda told: told["resources"])
            admin.wait("/apis", lambda told: {"serving.kserve.io"} <= {one["name"] for one in told["groups"]})
            self.controller.start()
            self.controller.wait(self._ready, START_S)
            for webhook in self._webhook_configurations():
                admin.apply(webhook)
            admin.apply(_runtime())

    def stop(self) -> None:
        """Ends it and takes its webhooks away, so that changes of its kinds are not refused for want of them."""
        self.controller.stop()
        if self._cluster.api_server.running:
            with Admin(self._cluster.http()) as admin:
                for one in self._webhook_configurations():
                    admin.delete(admin.path(one))

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self._probes}/readyz", timeout=5.0, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _webhook_configurations(self) -> Iterator[Json]:
        """Its own, with addresses on loopback in place of an in-cluster Service."""
        authority = base64.b64encode(self._cluster.ca.read_bytes()).decode()
        for document in _documents("config/webhook/manifests.yaml"):
            for webhook in document["webhooks"]:
                path = webhook["clientConfig"]["service"]["path"]
                webhook["clientConfig"] = {"url": f"https://{HOST}:{self._webhooks}{path}", "caBundle": authority}
            document["metadata"].pop("creationTimestamp", None)
            yield document


def _settings() -> Json:
    [document] = _documents("config/configmap/inferenceservice.yaml")
    data = {key: value for key, value in document["data"].items() if key != "_example"}
    about = {"name": document["metadata"]["name"], "namespace": NAMESPACE}
    return {**document, "metadata": about, "data": data | {key: json.dumps(value) for key, value in _CHANGED.items()}}


def _runtime() -> Json:
    [document] = _documents("config/runtimes/kserve-sklearnserver.yaml")
    return document


def _documents(path: str) -> Iterator[Json]:
    place = golang.fetched(definitions.MODULE, MODULE)
    yield from filter(None, yaml.load_all((place / path).read_bytes(), Loader=yaml.CSafeLoader))
