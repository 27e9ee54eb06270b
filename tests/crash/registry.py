"""A model registry in a file, and the process that serves it as `daemon.clients.registry_process` serves MLflow.

The file is replaced as a whole under a lock, so it holds every change that was answered, whoever is killed.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

CREATED = "1700000000000"
"""When each registered model was made, in ms."""


class RegistryFile:
    """Registered models with their versions and aliases, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def register(self, name: str, version: str, source: str) -> None:
        """Add a version; the first one of a model becomes its champion."""
        with self._changed() as models:
            model = models.setdefault(name, {"aliases": {"champion": version}, "versions": {}})
            model["versions"][version] = {"source": source, "tags": {}}

    def models(self, names: dict[str, int]) -> list[dict[str, Any]]:
        """See Registry.models."""
        known = self._read()
        return [
            {
                "name": name,
                "created": CREATED,
                "aliases": known[name]["aliases"],
                "live": sorted(known[name]["versions"], key=int),
                "versions": [
                    _version(name, number, found)
                    for number, found in sorted(known[name]["versions"].items(), key=lambda item: int(item[0]))
                    if int(number) > above
                ],
            }
            for name, above in names.items()
            if name in known
        ]

    def version(self, name: str, version: str) -> dict[str, Any]:
        """See Registry.version."""
        return _version(name, version, self._read()[name]["versions"][version])

    def alias(self, name: str, alias: str) -> str:
        """See Registry.alias."""
        model = self._read().get(name, {"aliases": {}})
        return str(model["aliases"].get(alias, ""))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See Registry.set_alias."""
        with self._changed() as models:
            models[name]["aliases"][alias] = version

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """See Registry.set_tag."""
        with self._changed() as models:
            models[name]["versions"][version]["tags"][key] = value

    def digest(self, name: str, version: str) -> str:
        """See Registry.digest: each version is other than all others."""
        return f"{name}-{version}"

    def _read(self) -> dict[str, Any]:
        try:
            models: dict[str, Any] = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        return models

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            models = self._read()
            yield models
            draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            draft.write_bytes(orjson.dumps(models))
            draft.replace(self._path)
        finally:
            os.close(lock)


def _version(name: str, number: str, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name, "version": number, "created": CREATED, "run_id": "", "source": found["source"],
        "status": "READY", "tags": found["tags"],
    }  # fmt: skip


def main(path: str) -> None:
    """Answer requests, one line of JSON each, until stdin ends."""
    registry = RegistryFile(Path(path))
    out = sys.stdout.buffer

    def say(answer: dict[str, Any]) -> None:
        out.write(orjson.dumps(answer) + b"\n")
        out.flush()

    say({"id": 0, "is": True})
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        run: Callable[..., Any] | None = getattr(registry, request["do"], None)
        try:
            assert run is not None, f"no {request['do']}"
            say({"id": request["id"], "is": run(*request["with"])})
        except (AssertionError, KeyError) as error:
            say({"id": request["id"], "error": "Refused", "why": repr(error), "hint": ""})


if __name__ == "__main__":
    main(sys.argv[1])
