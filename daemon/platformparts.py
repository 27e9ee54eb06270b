"""The part of config.yaml that says where jobs run and models are served: this machine, or a Kubernetes cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from daemon import servingparts
from daemon.documents import Where
from daemon.parts import Duration, Part
from daemon.servingparts import KserveServing

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class GatewayConfig(Part):
    """The local model gateway."""

    host: str = "127.0.0.1"
    port: int = 8801
    segment: Duration = timedelta(seconds=1)
    """How long a prediction-log file is written to before it is closed and renamed in."""
    timeout: Duration = timedelta(seconds=10)
    """A request that takes longer counts as failed."""


class PlatformConfig(Part):
    """Where jobs run and models are served: on this machine."""

    kind: Literal["local"] = "local"
    memory_mb: int = 4096
    """Most memory that a job may have unless its template says less."""
    seconds: Duration = timedelta(hours=1)
    """Longest a job may run unless its template says less."""
    gateway: GatewayConfig = GatewayConfig()


class KubernetesConnection(Part):
    """A cluster's API server, and how it is reached."""

    kubeconfig: Path | None = None
    """The kubeconfig file, relative to config.yaml; without it the service account of the pod that driftd runs in."""
    context: str = ""
    """One of the kubeconfig's contexts; default: its current one."""
    namespace: str = "default"
    """Where everything that driftd makes is made, unless a manifest to apply names another."""
    timeout: Duration = timedelta(seconds=10)
    """How long one request may take, waiting for its turn included."""
    requests_per_second: float = Field(default=50.0, gt=0)
    """Most requests in the long run: the cluster's other users have their share."""
    burst: int = Field(default=100, ge=1)
    """Most requests at once after a pause."""


class KubernetesPlatform(KubernetesConnection):
    """Where jobs run and models are served: in a cluster. Templates that are programs still run beside the daemon."""

    kind: Literal["kubernetes"]
    pending: Duration = timedelta(minutes=10)
    """How long a job may not start (no image, no room, no quota) until it is given up. One that is queued may wait."""
    serving: KserveServing | Literal["gateway"] = KserveServing()
    """Who serves models: KServe in the cluster (`serving: {...}`), or the local gateway beside the daemon."""
    gateway: GatewayConfig = GatewayConfig()


def _kind(platform: Any) -> str:
    """The kind of a platform, as written or as it was made."""
    return str(platform.get("kind", "local") if isinstance(platform, dict) else getattr(platform, "kind", ""))


AnyPlatform = Annotated[
    Annotated[PlatformConfig, Tag("local")] | Annotated[KubernetesPlatform, Tag("kubernetes")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="kind must be local or kubernetes"),
]


def rooted(platform: PlatformConfig | KubernetesPlatform, root: Path) -> PlatformConfig | KubernetesPlatform:
    """The same with its paths from the folder of config.yaml."""
    if not isinstance(platform, KubernetesPlatform) or platform.kubeconfig is None:
        return platform
    return platform.model_copy(update={"kubeconfig": root / platform.kubeconfig.expanduser()})


def contradictions(platform: PlatformConfig | KubernetesPlatform, serves: bool) -> Iterator[tuple[Where, str]]:
    """What its fields alone cannot know; `serves`: there are models to serve."""
    if not isinstance(platform, KubernetesPlatform):
        return
    if _NAMESPACE.fullmatch(platform.namespace) is None:
        told = f"{platform.namespace!r} is no namespace: lower-case letters, digits and hyphens"
        yield ("platform", "namespace"), told
    if platform.context and platform.kubeconfig is None:
        yield ("platform", "context"), "a context is one of a kubeconfig, and there is none"
    if platform.kubeconfig is not None and not platform.kubeconfig.is_file():
        yield ("platform", "kubeconfig"), f"there is no kubeconfig {platform.kubeconfig}"
    if serves and isinstance(platform.serving, KserveServing):
        for field, told in servingparts.wrong_with(platform.serving):
            yield ("platform", "serving", field), told
