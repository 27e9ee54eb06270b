"""Where a command works: which config.yaml, and the store and the daemon that belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import typer

from daemon.config import Config, load_config
from daemon.control import ask
from daemon.store.base import Session
from daemon.storing import Reader, open_reader


@dataclass(frozen=True, slots=True)
class Workplace:
    """The configuration that a command works under."""

    config: Config

    @property
    def home(self) -> Path:
        """Everything driftd keeps lies here."""
        return self.config.home

    @contextmanager
    def store(self) -> Iterator[Reader]:
        """The store, for reading. NotFound when no daemon has ever run here."""
        reader = open_reader(self.config)
        try:
            yield reader
        finally:
            reader.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view of the store."""
        with self.store() as store, store.read() as session:
            yield session

    def say(self, verb: str, target: str, by: str, reason: str, **more: str) -> Mapping[str, Any]:
        """Say an operator's word to the daemon, and wait until it is durable; its answer (`seq`, `fresh`, `by`)."""
        request = {"op": "event", "id": uuid4().hex, "verb": verb, "target": target, "by": by, "reason": reason, **more}
        return ask(self.home, request)


def workplace(context: typer.Context, with_secrets: bool = False) -> Workplace:
    """The workplace that `--config` names. ConfigError with every mistake in it."""
    return Workplace(load_config(context.obj, with_secrets=with_secrets))
