"""How objects of a cluster are named and read: they are plain JSON mappings of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Object = Mapping[str, Any]
"""An object as the API server writes it: `apiVersion`, `kind`, `metadata`, and what its kind has."""


class Kind(NamedTuple):
    """A kind of object, as manifests name it."""

    api_version: str
    """`batch/v1`, or `v1` for the core group."""
    kind: str

    def __str__(self) -> str:
        """`Job of batch/v1`."""
        return f"{self.kind} of {self.api_version}"


class Ref(NamedTuple):
    """An object by its name."""

    kind: Kind
    name: str
    namespace: str = ""
    """Empty: the one that driftd works in (or none, for kinds that are the whole cluster's)."""

    def __str__(self) -> str:
        """`Job churn/train-1`."""
        return f"{self.kind.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.kind} {self.name}"


class Resource(NamedTuple):
    """A kind as the API server serves it."""

    kind: Kind
    plural: str
    namespaced: bool
    has_status: bool
    """Whether its status is a subresource, written apart from the rest."""


def kind_of(found: Object) -> Kind:
    """The object's kind."""
    return Kind(str(found.get("apiVersion", "")), str(found.get("kind", "")))


def ref_of(found: Object) -> Ref:
    """The object's name."""
    metadata = found.get("metadata") or {}
    return Ref(kind_of(found), str(metadata.get("name", "")), str(metadata.get("namespace", "")))


def uid_of(found: Object) -> str:
    """What tells the object from a later one of the same name."""
    return str(found["metadata"]["uid"])


def version_of(found: Object) -> str:
    """Its resourceVersion: the precondition of the next write."""
    return str(found["metadata"]["resourceVersion"])


def labels_of(found: Object) -> Mapping[str, str]:
    """Its labels."""
    return (found.get("metadata") or {}).get("labels") or {}


def annotations_of(found: Object) -> Mapping[str, str]:
    """Its annotations."""
    return (found.get("metadata") or {}).get("annotations") or {}
