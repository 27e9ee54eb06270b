"""Which version is champion, and where its reference lies: asked of the registry in a thread of its own.

A registry that does not answer changes nothing: what was known stays. The first look is awaited before a stream is opened,
so that its first rows are not measured against nothing; but a registry that stays away holds no stream up for long.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from daemon.clients.base import Registry
from daemon.config import Config, Model
from daemon.core.errors import ClientError, Refused
from daemon.monitors.plan import Champion

ARTIFACT = "driftd/reference.parquet"
"""Where a version's reference lies among its artifacts."""
RECHECK_S = 60.0
"""A champion that has not changed is looked at this closely: its model may have been deleted and made anew."""
REFERENCES = 10
"""Most references of a model that are kept."""
PATIENCE_S = 60.0
"""How long the first answer of a registry is awaited."""


class Champions:
    """Follows the champions of all models that have a stream; tells `changed(model, champion)` from its own thread."""

    def __init__(self, config: Config, registry: Registry, changed: Callable[[str, Champion], object]) -> None:
        self._config = config
        self._registry = registry
        self._changed = changed
        self._wake = threading.Event()
        self._log = structlog.get_logger("monitors")
        self._known: dict[str, Champion] = {}
        self._checked: dict[str, float] = {}
        self.problem = ""
        """What the registry said last, when it did not answer."""
        self._began = time.monotonic()

    @property
    def given_up(self) -> bool:
        """The registry does not answer, and nobody waits any more for a champion that is not known."""
        return bool(self.problem) and time.monotonic() - self._began > PATIENCE_S

    def look_now(self) -> None:
        """Look at once instead of at the next poll, e.g. because an alias has changed."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Look, tell what changed, wait; until `stop` is set (and `look_now` was called, to return at once)."""
        poll = self._config.registry.poll.total_seconds()
        self._began = time.monotonic()
        while not stop.is_set():
            self._wake.clear()
            problem = ""
            for name, model in sorted(self._config.models.items()):
                if model.stream is None or stop.is_set():
                    continue
                try:
                    champion = self._champion(name, model)
                except (ClientError, OSError) as error:  # OSError: no room for its reference
                    problem = str(error)
                    continue
                if self._known.get(name) != champion:
                    self._known[name] = champion
                    self._changed(name, champion)
            if problem and problem != self.problem:
                self._log.warning("champion_unknown", why=problem)
            self.problem = problem
            self._wake.wait(poll)

    def _champion(self, name: str, model: Model) -> Champion:
        """The champion now; raises ClientError when the registry does not answer."""
        version = self._registry.alias(model.registered, model.alias)
        known, checked = self._known.get(name), self._checked.get(name, 0.0)
        if known is not None and known.version == version and time.monotonic() - checked < RECHECK_S:
            return known
        champion = self._look(name, model, version)
        self._checked[name] = time.monotonic()
        return champion

    def _look(self, name: str, model: Model, version: str) -> Champion:
        if isinstance(model.reference, Path):
            return _of_file(version, model.reference)
        if not version:
            return Champion("", "", "", f"{model.registered} has no version with the alias {model.alias}")
        created = self._registry.version(model.registered, version).created
        folder = self._config.home / "references" / name / f"{created}-{version}"
        path = folder / Path(ARTIFACT).name
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _prune(folder)
            try:
                path = Path(self._registry.fetch(model.registered, version, ARTIFACT, str(folder)))
            except Refused:
                return Champion(version, "", "", f"version {version} logged no {ARTIFACT}")
        return _of_file(version, path)


def _prune(newest: Path) -> None:
    """Remove the references of a model's former champions, all but the latest: they are in the registry."""
    others = sorted((path for path in newest.parent.iterdir() if path != newest), key=lambda path: path.stat().st_mtime)
    for old in others[: -(REFERENCES - 1)]:
        shutil.rmtree(old)


def _of_file(version: str, path: Path) -> Champion:
    try:
        with path.open("rb") as file:
            return Champion(version, str(path), hashlib.file_digest(file, "sha256").hexdigest(), "")
    except OSError as error:
        return Champion(version, "", "", f"the reference {path} cannot be read: {error.strerror or error}")
