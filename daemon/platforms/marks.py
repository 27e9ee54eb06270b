"""How what driftd makes in a cluster says whose it is and why it is there: labels, annotations, Kubernetes Events.

Labels are for selectors: `kubectl get jobs -l app.kubernetes.io/managed-by=driftd,driftd.io/rule=churn-retrain`. What does
not fit into a label (63 characters of a small alphabet) is in the annotations only, which have all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from daemon.clients.kubernetes import MANAGER, Cluster
from daemon.clients.kubernetes_errors import Exists
from daemon.clients.kubernetes_objects import Object, annotations_of, labels_of
from daemon.core.canonical import content_id
from daemon.core.errors import ClientError

MANAGED = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED}={MANAGER}"
"""The selector of what driftd made."""
PREFIX = "driftd.io/"
CALL = f"{PREFIX}call"
"""The annotation and label that name what an object was made for: it is adopted by nothing else."""
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NOTE = 1000
"""Most bytes of an Event's note, of the 1024 that the API takes."""


def marked(manifest: Mapping[str, Any], name: str, origin: Mapping[str, str]) -> dict[str, Any]:
    """The manifest under its name, as driftd's: `origin` (call, run, rule, event, model) as labels and annotations."""
    metadata = manifest.get("metadata") or {}
    traced = {f"{PREFIX}{key}": value for key, value in origin.items() if value}
    labels = {key: value for key, value in traced.items() if _LABEL.fullmatch(value)}
    return {
        **manifest,
        "metadata": {
            **metadata,
            "name": name,
            "labels": {**(metadata.get("labels") or {}), **labels, MANAGED: MANAGER},
            "annotations": {**(metadata.get("annotations") or {}), **traced},
        },
    }


def is_managed(found: Object) -> bool:
    """Whether driftd made the object, or was given it: all others are left alone."""
    return labels_of(found).get(MANAGED) == MANAGER


def is_for(found: Object, call: str) -> bool:
    """Whether it is driftd's and was made for this very call."""
    return is_managed(found) and annotations_of(found).get(CALL) == call


@dataclass(frozen=True, slots=True)
class Told:
    """What is told on an object."""

    reason: str
    """`Created`: one word in camel case."""
    note: str
    """For people: what was done, and for which rule and run."""
    warning: bool = False


class Teller:
    """Writes Kubernetes Events on the objects that driftd changed, where `kubectl describe` shows them."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._log = structlog.get_logger("kubernetes")

    def tell(self, found: Object, told: Told, mark: str) -> None:
        """Tell it on the object, once per `mark` (the call) and reason. An Event that cannot be written undoes nothing: it is
        logged.
        """
        metadata = found["metadata"]
        name = f"{str(metadata['name'])[:200]}.{content_id('told', mark, told.reason)[:16]}"
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata.get("namespace") or "default"},
            "eventTime": self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": f"{PREFIX}{MANAGER}",
            "reportingInstance": MANAGER,
            "action": told.reason,
            "reason": told.reason,
            "type": "Warning" if told.warning else "Normal",
            "note": told.note.encode()[:_NOTE].decode(errors="ignore"),
            "regarding": {
                "apiVersion": found["apiVersion"],
                "kind": found["kind"],
                **{key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in metadata},
            },
        }
        try:
            self._cluster.create(event)
        except Exists:
            return
        except ClientError as error:
            self._log.warning("event.not_written", object=str(metadata["name"]), reason=told.reason, why=str(error))
