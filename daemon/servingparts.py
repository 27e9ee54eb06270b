"""The part of config.yaml that is about models served by KServe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

from pydantic import BaseModel, Field

from daemon.parts import Duration, Part

_SCHEME = re.compile(r"\w+://")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _Part(Part, BaseModel):
    """As in parts.py; named here once more, so that the linter sees that defaults are copied."""


class ModelRoute(_Part):
    """Standard mode: how requests come to driftd's HTTPRoute, which splits them. KServe's own routes know no canary."""

    gateway: str
    """The Gateway that the routes belong to."""
    namespace: str = ""
    """Its namespace; default: the one of the InferenceServices."""
    listener: str = ""
    """One of its listeners; default: all."""
    hostname: str
    """The host that clients ask, with `{target}` in it: `{target}.models.example.com`."""


class FirstService(_Part):
    """How the InferenceService of a target is made that has none yet."""

    format: str
    """`modelFormat`, e.g. `mlflow` or `sklearn`."""
    runtime: str = ""
    """A ServingRuntime or ClusterServingRuntime; default: the one that KServe finds for the format."""
    protocol: str = "v2"
    """`v1` or `v2`."""
    service_account: str = ""
    """Whose credentials fetch the model."""


class KserveServing(_Part):
    """KServe, and where it finds models."""

    namespace: str = ""
    """Where the InferenceServices are; default: the platform's namespace. A target `NAMESPACE/NAME` says it itself."""
    route: ModelRoute | None = None
    """Standard mode only, and needed there."""
    first: FirstService | None = None
    """Without it a target's first InferenceService is made by people."""
    roots: dict[str, str] = {}
    """Where the registry keeps artifacts -> where KServe fetches them, by the beginnings of their addresses, e.g.
    `mlflow-artifacts:/: s3://models/mlflow`."""
    patience: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100), le=timedelta(seconds=20))
    """How long one call waits for the cluster to do what was written; then it is looked at again later."""
    drain: Duration = Field(default=timedelta(seconds=10), le=timedelta(minutes=5))
    """How long an InferenceService is left as it is after the route took its traffic away: gateways follow a little later."""


def wrong_with(serving: KserveServing) -> Iterator[tuple[str, str]]:
    """What the fields alone cannot know: field, and what is wrong with it."""
    for root, place in serving.roots.items():
        if not _SCHEME.match(place):
            yield (
                "roots",
                f"{root} is mapped to {place!r}, which KServe cannot fetch: it takes s3://, gs://, pvc:// and the like",
            )
    if serving.route is not None and "{target}" not in serving.route.hostname:
        yield "route", "hostname needs {target} in it: each target has a host of its own"
    if serving.namespace and _NAME.fullmatch(serving.namespace) is None:
        yield "namespace", f"{serving.namespace!r} is no namespace"
    if serving.first is not None and serving.first.protocol not in {"v1", "v2"}:
        yield "first", f"protocol is v1 or v2, not {serving.first.protocol!r}"
