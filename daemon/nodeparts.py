"""The part of config.yaml that says which nodes of a cluster are watched for their GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from daemon.documents import Where
from daemon.parts import Duration, Part
from daemon.platformparts import KubernetesConnection, KubernetesPlatform, PlatformConfig


class BadCondition(Part):
    """A condition of a node that a vendor's health check sets."""

    type: str
    bad: Literal["True", "False", "Unknown"] = "True"
    """The status that is bad; of conditions whose name says that all is well it is False."""
    reason: str = ""
    """Only with a reason that this regular expression finds; empty: with any."""


VENDORS = (
    BadCondition(type="AcceleratedHardwareReady", bad="False"),
    BadCondition(type="GPUMissing"),
    BadCondition(type="NVLinkStatusInactive"),
    BadCondition(type="NebiusGPUError"),
)
"""EKS node monitoring agent, AKS node problem detector (twice), Nebius."""


class NodesSource(Part):
    """Nodes of a cluster: `node.lost`, `node.ready`, `gpu.capacity_changed`."""

    kind: Literal["nodes"]
    cluster: KubernetesConnection | None = None
    """Another cluster than the platform's; the same keys. Nodes have no namespace: a ClusterRole must let driftd watch them."""
    labels: str = ""
    """Only nodes with these labels, as kubectl takes a selector."""
    all_nodes: bool = False
    """Also nodes without GPUs; else a node counts from when it has one of `resources`, or the product's label."""
    resources: tuple[str, ...] = Field(default=("nvidia.com/gpu",), min_length=1)
    """What is counted; of MIG and of shared GPUs the resources have other names."""
    product_label: str = "nvidia.com/gpu.product"
    memory_label: str = "nvidia.com/gpu.memory"
    """In MiB."""
    tolerate: tuple[str, ...] = ("nvidia.com/gpu",)
    """Taints (by key) that the workload tolerates: they keep no work away."""
    conditions: tuple[BadCondition, ...] = VENDORS
    settle: Duration = timedelta(seconds=90)
    """A loss must last so long: kubelets and device plugins that start over dip for a minute."""
    ready_after: Duration = timedelta(seconds=30)
    """A gain must last so long."""


def rooted(source: NodesSource, root: Path) -> NodesSource:
    """The same with its paths from the folder of config.yaml."""
    if source.cluster is None or source.cluster.kubeconfig is None:
        return source
    path = root / source.cluster.kubeconfig.expanduser()
    return source.model_copy(update={"cluster": source.cluster.model_copy(update={"kubeconfig": path})})


def contradictions(
    nodes: Mapping[str, NodesSource], platform: PlatformConfig | KubernetesPlatform
) -> Iterator[tuple[Where, str]]:
    """What its fields alone cannot know."""
    for name, source in nodes.items():
        if source.cluster is None and not isinstance(platform, KubernetesPlatform):
            yield (
                ("sources", name),
                f"source {name} watches a cluster: say `cluster:`, or `platform: {{kind: kubernetes}}`",
            )
        if source.settle < timedelta() or source.ready_after < timedelta():
            yield ("sources", name), f"source {name} cannot know before it happens"
        for number, condition in enumerate(source.conditions):
            try:
                re.compile(condition.reason)
            except re.error as error:
                where: Where = ("sources", name, "conditions", number, "reason")
                yield where, f"{condition.reason!r} is no regular expression: {error}"
