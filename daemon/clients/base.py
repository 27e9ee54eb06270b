"""The model registry, as the rest of driftd sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    """The name in the registry."""
    version: str
    created: str
    """Creation time of the registered model (epoch ms): tells a deleted and re-created model apart."""
    run_id: str
    source: str
    """Where its artifacts lie, as a URI that `mlflow.pyfunc.load_model` takes."""
    status: str
    """`READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`."""
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model with its aliases and all the versions above a number."""

    name: str
    created: str
    aliases: Mapping[str, str]
    versions: tuple[ModelVersion, ...]
    """Ascending by number; only those above what was asked for."""
    live: frozenset[str]
    """The numbers of all versions that exist now."""


class Registry(Protocol):
    """The registry. Every call has a timeout and raises Unavailable, Conflict or Refused."""

    def models(self, names: Mapping[str, int]) -> tuple[RegisteredModel, ...]:
        """Of each name that exists: aliases, live versions, and the versions above the given number."""
        ...

    def version(self, name: str, version: str) -> ModelVersion:
        """One version; Refused when there is none."""
        ...

    def alias(self, name: str, alias: str) -> str:
        """The version that the alias points to; empty when there is no such alias or model."""
        ...

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point the alias at the version. There is no compare-and-set: read it back."""
        ...

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Tag a version."""
        ...

    def find(self, name: str, tag: str, value: str) -> ModelVersion | None:
        """The newest version with this tag value, or None: adopting what a repeated call made before."""
        ...

    def location(self, name: str, version: str) -> str:
        """Where the version's artifacts lie, as the registry keeps them: `s3://…`, a folder, or `mlflow-artifacts:/…` when
        only the registry's own server knows.
        """
        ...

    def digest(self, name: str, version: str) -> str:
        """SHA-256 over the version's artifact files (names and contents), without MLflow's run-specific metadata."""
        ...

    def fetch(self, name: str, version: str, artifact: str, folder: str) -> str:
        """Download one artifact of the version (e.g. `driftd/reference.parquet`) into `folder`; its local path.
        Refused when there is none.
        """
        ...
