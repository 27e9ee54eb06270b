"""What the parts of config.yaml are made of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

from daemon.core.durations import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
"""`10s`, `5m`, `2h`, `1d` or a sum of them (`1h30m`)."""


class Part(BaseModel):
    """Frozen, and strict about keys: a misspelt key is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(Part):
    """A secret by reference, never by value: from an environment variable or a file."""

    env: str | None = None
    file: Path | None = None
    value: SecretStr = SecretStr("")
    """Filled in at load; cannot be written in the file."""
