"""What the parts of config.yaml are made of."""

from __future__ import annotations

from collections.abc import Mapping
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


def value_of(secret: Secret, root: Path, environ: Mapping[str, str]) -> tuple[str, str]:
    """A secret's value from `environ` or its file, which lies in `root` if it is not absolute; and what is wrong with it."""
    if secret.value.get_secret_value():
        return "", "a secret is never written here: name an environment variable (env) or a file (file)"
    if (secret.env is None) == (secret.file is None):
        return "", "a secret needs either env or file"
    if secret.env is not None:
        value = environ.get(secret.env, "")
        return value, "" if value else f"environment variable {secret.env} is not set"
    path = root / (secret.file or "")
    try:
        value = path.read_text().strip()
    except OSError as error:
        return "", f"secret file {path} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return "", f"secret file {path} is not UTF-8"
    return value, "" if value else f"secret file {path} is empty"
