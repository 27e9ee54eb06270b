"""What the gateway must not forget: deployed versions, weights and epochs. One file, replaced whole and synced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from daemon.core.errors import BadInput
from daemon.gateway.split import Split


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that is to be loaded."""

    model_uri: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment that it is loaded in, e.g. MLFLOW_TRACKING_URI."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """One target: what is deployed and how its requests are split."""

    split: Split
    versions: Mapping[str, Deployment] = field(default_factory=dict)

    def deployed(self, version: str, deployment: Deployment) -> TargetState:
        """With one version more."""
        return replace(self, versions={**self.versions, version: deployment})

    def retired(self, version: str) -> TargetState:
        """With one version less."""
        return replace(self, versions={name: at for name, at in self.versions.items() if name != version})


def load(path: Path) -> dict[str, TargetState]:
    """The state as it was last saved; empty the first time. BadInput when the file is damaged: nothing is guessed."""
    try:
        saved = json.loads(path.read_bytes())
        return {
            name: TargetState(
                Split(**target["split"] | {"arms": tuple((version, at) for version, at in target["split"]["arms"])}),
                {version: Deployment(**at) for version, at in target["versions"].items()},
            )
            for name, target in saved["targets"].items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is damaged: {error!r}; remove it and deploy the versions again") from error


def save(path: Path, targets: Mapping[str, TargetState]) -> None:
    """Make the state durable; when it returns, a restart finds it. Raises OSError and leaves the old one otherwise."""
    replace_file(path, json.dumps({"targets": {name: asdict(target) for name, target in targets.items()}}).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file (readable by its owner only) so that it holds all of the content, or what it held before."""
    draft = path.with_name(f".{path.name}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
