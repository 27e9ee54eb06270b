"""The registry in MLflow, in whatever process this runs: importing it imports MLflow (200 MB, seconds).

The daemon itself must not import this: it reaches it through `registry.RegistryProcess`.

Facts that shape it (MLflow 3.17): setting an alias or a tag moves no time stamp, so aliases are read whole; a search
over versions answers without aliases; pages of a search are offsets, which deletions shift, so all is read as one page;
version numbers go up and are never used again, unless the registered model is deleted and made anew.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from daemon.clients.artifacts import artifacts_digest
from daemon.clients.base import ModelVersion, RegisteredModel
from daemon.core.errors import ClientError, Conflict, Refused, Unavailable

ONE_PAGE = 200_000
"""The most versions that MLflow answers with at once."""
_PASSING = frozenset({
    "ABORTED", "DEADLINE_EXCEEDED", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "TEMPORARILY_UNAVAILABLE", "UNAVAILABLE",
})  # fmt: skip
_LOCKED = ("database is locked", "database table is locked", "disk is full", "readonly database", "unable to open")
_READS = 3


class MlflowRegistry:
    """The `Registry` protocol over an MLflow tracking and registry URI (a SQL database or a server).

    Raises MLflow's own errors: `as_client_error` says what they mean.
    """

    def __init__(self, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def models(self, names: Mapping[str, int]) -> tuple[RegisteredModel, ...]:
        """See Registry.models. Aliases are read before versions: an alias never points to a version that is not there."""
        found = (self._model(name, above) for name, above in names.items())
        return tuple(model for model in found if model is not None)

    def _model(self, name: str, above: int) -> RegisteredModel | None:
        for _ in range(_READS):
            model = self._registered(name)
            if model is None:
                return None
            versions = self._versions(name)
            again = self._registered(name)
            if again is not None and again.creation_timestamp == model.creation_timestamp:
                break  # else it was deleted, or made anew, between the two reads
        else:
            raise Unavailable("registry", "models", f"{name} is being deleted and made anew", "look again later")
        created = str(model.creation_timestamp)
        return RegisteredModel(
            name=name,
            created=created,
            aliases={alias: str(version) for alias, version in sorted(model.aliases.items())},
            versions=tuple(_version(item, created) for item in versions if int(item.version) > above),
            live=frozenset(str(item.version) for item in versions),
        )

    def version(self, name: str, version: str) -> ModelVersion:
        """See Registry.version."""
        model = self._client.get_registered_model(name)
        return _version(self._client.get_model_version(name, version), str(model.creation_timestamp))

    def alias(self, name: str, alias: str) -> str:
        """See Registry.alias."""
        model = self._registered(name)
        return "" if model is None else str(model.aliases.get(alias, ""))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See Registry.set_alias."""
        self._client.set_registered_model_alias(name, alias, version)

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """See Registry.set_tag."""
        self._client.set_model_version_tag(name, version, key, value)

    def find(self, name: str, tag: str, value: str) -> ModelVersion | None:
        """See Registry.find. Compared here: MLflow's filter language has no way to quote a quote."""
        model = self._registered(name)
        if model is None:
            return None
        tagged = [item for item in self._versions(name) if item.tags.get(tag) == value]
        return _version(tagged[-1], str(model.creation_timestamp)) if tagged else None

    def location(self, name: str, version: str) -> str:
        """See Registry.location. A version's `source` may be `models:/m-ID`, which says nothing."""
        return str(self._client.get_model_version_download_uri(name, version))

    def digest(self, name: str, version: str) -> str:
        """See Registry.digest."""
        with tempfile.TemporaryDirectory(prefix="driftd-digest-") as folder:
            local = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=folder)
            return artifacts_digest(Path(local))

    def fetch(self, name: str, version: str, artifact: str, folder: str) -> str:
        """See Registry.fetch: looked for among the artifacts of the version's run, then in the model's own folder.

        The file appears in `folder` under its own name, whole or not at all.
        """
        run = self._client.get_model_version(name, version).run_id
        model = f"models:/{name}/{version}"
        if run and self._run_has(run, PurePosixPath(artifact)):
            return _download(f"runs:/{run}/{artifact}", Path(folder))
        if any(item.path == artifact for item in _listed(model, PurePosixPath(artifact))):
            return _download(f"{model}/{artifact}", Path(folder))
        raise Refused("registry", "fetch", f"version {version} of {name} has no artifact {artifact}")

    def _run_has(self, run: str, artifact: PurePosixPath) -> bool:
        parent = artifact.parent.as_posix()
        try:
            listed = self._client.list_artifacts(run, None if parent == "." else parent)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False  # the run was deleted for good
            raise
        return any(item.path == artifact.as_posix() and not item.is_dir for item in listed)

    def _registered(self, name: str) -> Any:
        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _versions(self, name: str) -> list[Any]:
        """All versions of `name`, ascending. A name with a quote in it cannot be searched for."""
        if "'" in name:
            raise Refused("registry", "models", f"the name {name!r} has a quote in it", "rename the registered model")
        found = self._client.search_model_versions(f"name='{name}'", max_results=ONE_PAGE)
        if found.token:
            raise Refused("registry", "models", f"{name} has more than {ONE_PAGE} versions", "delete old ones")
        return sorted(found, key=lambda item: int(item.version))


def as_client_error(operation: str, error: BaseException) -> ClientError:
    """What an error of MLflow, or of what lies below it, means to a caller."""
    if isinstance(error, ClientError):
        return error
    why = _sentence(error)
    if isinstance(error, MlflowException):
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return Conflict("registry", operation, why)
        passing = error.error_code in _PASSING or any(word in why for word in _LOCKED)
        return (Unavailable if passing else Refused)("registry", operation, why)
    if isinstance(error, RequestException | SQLAlchemyError | OSError):
        return Unavailable("registry", operation, why)
    return Refused("registry", operation, f"{type(error).__name__}: {why}", "this is a fault of driftd or of MLflow")


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _version(item: Any, created: str) -> ModelVersion:
    return ModelVersion(
        name=item.name,
        version=str(item.version),
        created=created,
        run_id=item.run_id or "",
        source=f"models:/{item.name}/{item.version}",
        status=item.status,
        tags=dict(item.tags),
    )


def _listed(source: str, artifact: PurePosixPath) -> list[Any]:
    parent = artifact.parent.as_posix()
    return list(mlflow.artifacts.list_artifacts(artifact_uri=source if parent == "." else f"{source}/{parent}") or ())


def _download(uri: str, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=temporary))
        target = folder / local.name
        shutil.move(local, target)
        return str(target)
