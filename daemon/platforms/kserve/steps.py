"""What a plan answers: one write, or to wait, or that it cannot be done safely, or that nothing is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from daemon.platforms.kserve.book import Book


class Act(Enum):
    """How an object is written."""

    CREATE = "create"
    PATCH = "patch"
    """A JSON merge-patch with the resourceVersion that was read: anybody's write in between makes it fail."""
    DELETE = "delete"
    """Of the very object that was read."""


class Kind(Enum):
    """What is written."""

    SERVICE = "InferenceService"
    ROUTE = "HTTPRoute"


@dataclass(frozen=True, slots=True)
class Write:
    """The next safe write. `book` is kept before it, so that a crash in between is understood afterwards."""

    act: Act
    kind: Kind
    name: str
    body: Mapping[str, Any]
    """The whole object, or the patch without its resourceVersion, or nothing."""
    resource_version: str
    """Of what was read; for DELETE its uid: what a controller writes into its status meanwhile does not matter then."""
    why: str
    """Told in the object's Kubernetes Event."""
    book: Book


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be written now; look again."""

    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be done safely."""

    why: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """It is as wanted, and read back."""


Step = Write | Wait | Refuse | Settled


@dataclass(frozen=True, slots=True)
class Standing:
    """What the cluster says of a target, with versions by their names."""

    weights: Mapping[str, float]
    """Version -> percent; empty when some traffic goes to a model that is none of the known versions."""
    ready: Mapping[str, bool]
    problems: Mapping[str, str]
    written: str
    """What is written that only driftd should change: tells other writers."""
