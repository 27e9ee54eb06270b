"""The part of config.yaml that is about a Kubernetes cluster as the platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from daemon.parts import Duration, Part

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class KubernetesConnection(Part):
    """A cluster's API server, and how it is reached."""

    kubeconfig: Path | None = None
    """The kubeconfig file, relative to config.yaml; without it the service account of the pod that driftd runs in."""
    context: str = ""
    """One of the kubeconfig's contexts; default: its current one."""
    namespace: str = "default"
    """Where everything that driftd makes is made, unless a manifest names another."""
    timeout: Duration = timedelta(seconds=10)
    """How long one request may take, waiting for its turn included."""
    requests_per_second: float = Field(default=50.0, gt=0)
    """Most requests in the long run: the cluster's other users have their share."""
    burst: int = Field(default=100, ge=1)
    """Most requests at once after a pause."""


def wrong_with(connection: KubernetesConnection) -> Iterator[tuple[str, str]]:
    """What the fields alone cannot know: field, and what is wrong with it."""
    if _NAMESPACE.fullmatch(connection.namespace) is None:
        yield "namespace", f"{connection.namespace!r} is no namespace: lower-case letters, digits and hyphens"
    if connection.context and connection.kubeconfig is None:
        yield "context", "a context is one of a kubeconfig, and there is none"
