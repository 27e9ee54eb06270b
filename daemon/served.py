"""Serving by KServe, put together: which model a target is of, where its versions lie, and what the prediction log shows.

KServe counts requests by no version. What the second read-back is made of are the blocks that monitors have measured in the
model's prediction stream, when that says the version of each row (of KServe's payload logger: `version: ce.endpoint`, which
driftd sets with each model). Without that nothing is claimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from daemon.clients.base import Registry
from daemon.clients.kubernetes import Cluster
from daemon.config import Config
from daemon.core.errors import Refused, Unavailable
from daemon.platforms.kubernetes_looking import Places
from daemon.platforms.kubernetes_serving import KubernetesServing
from daemon.points import OnPoint, no_point
from daemon.servingparts import KserveServing
from daemon.store.base import Store
from daemon.store.rows import event_of

LOOK_BACK = 20_000
"""How many events back measured blocks are looked for."""
NAMELESS = frozenset({"unknown", "others"})
"""Arms of rows that no version can be told of (daemon.monitors.traffic): they are evidence of nothing."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class MeasuredTraffic:
    """Requests by version, from `traffic.measured` events."""

    config: Config
    store: Store

    def __call__(self, target: str, since: datetime) -> Mapping[str, int]:
        """Requests of whole blocks since then; a block that began earlier is left out. Unavailable when the stream does not
        tell versions apart.
        """
        name = model_of(self.config, target)
        stream = self.config.models[name].stream
        if stream is None or self.config.streams[stream].fields.version is None:
            what = f"stream {stream} has no fields.version" if stream else f"model {name} has no stream"
            hint = "of KServe's payload logger the version is ce.endpoint"
            raise Unavailable("prediction log", "served", f"nothing tells versions apart: {what}", hint)
        counted: Counter[str] = Counter()
        with self.store.read() as session:
            newest = session.rows("last_event")
            after = max(0, int(newest[0][0]) - LOOK_BACK) if newest else 0
            while rows := session.rows("events_of", "traffic.measured", name, after, _PAGE):
                for row in rows:
                    recorded = event_of(row).recorded
                    after = recorded.seq
                    data = recorded.event.data
                    if datetime.fromisoformat(data["start"]) >= since:
                        arms = {name: arm for name, arm in data["arms"].items() if name not in NAMELESS}
                        counted.update({version: int(arm["requests"]) for version, arm in arms.items()})
        return dict(counted)


def model_of(config: Config, target: str) -> str:
    """The model of a serving target; Refused when there is none."""
    for name, model in config.models.items():
        if (model.serving or name) == target:
            return name
    raise Refused("config.yaml", "models", f"no model has the serving target {target!r}")


def kserve(  # noqa: PLR0913, PLR0917 - a place where parts meet
    config: Config,
    serving: KserveServing,
    cluster: Cluster,
    registry: Registry,
    store: Store,
    clock: Callable[[], datetime],
    on_point: OnPoint = no_point,
) -> KubernetesServing:
    """The Serving protocol over KServe."""

    def locate(target: str, version: str) -> str:
        return registry.location(config.models[model_of(config, target)].registered, version)

    def champion(target: str) -> str:
        model = config.models[model_of(config, target)]
        return registry.alias(model.registered, model.alias)

    places = Places(locate, champion)
    return KubernetesServing(cluster, serving, places, MeasuredTraffic(config, store), clock, on_point)
