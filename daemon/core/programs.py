"""Approved programs as data: what a template of `handlers/templates/` declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ParameterType = Literal["string", "int", "number", "bool", "time", "duration"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that an approved template declares; rule authors may set it under `with:`."""

    name: str
    type: ParameterType
    required: bool
    default: Any
    doc: str


@dataclass(frozen=True, slots=True)
class Template:
    """An approved program: `handlers/templates/NAME.yaml`."""

    name: str
    doc: str
    verb: str
    """The verb that may use it: `retrain`, `evaluate`, `command`."""
    argv: tuple[str, ...]
    """Program and arguments; `{python}` is the daemon's interpreter, `{templates}` the folder of templates. Empty for a
    manifest."""
    parameters: Mapping[str, Parameter]
    memory_mb: int
    seconds: float
    env: Mapping[str, str]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The object of a cluster that does the work, with places for values (see manifests.py); empty for a program."""
