"""Approved programs: `handlers/templates/NAME.yaml` -> Template. All mistakes at once, with their positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from daemon.core.durations import parse_duration
from daemon.core.errors import ConfigError, Mistake
from daemon.core.events import utc
from daemon.core.programs import Parameter, ParameterType, Template
from daemon.documents import Document, load, parse
from daemon.manifestforms import wrong_with

_NAME = r"^[a-z_][a-z0-9_]*$"


class _ParameterForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ParameterType
    required: bool = False
    default: Any = None
    doc: str


class _ClusterForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: dict[str, Any]
    """An object whose controller does the work, with places for values (see core/manifests.py)."""


class _TemplateForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    doc: str
    verb: str
    argv: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None
    kubernetes: _ClusterForm | None = None
    parameters: dict[Annotated[str, Field(pattern=_NAME)], _ParameterForm] = {}
    memory_mb: Annotated[int, Field(ge=16)] = 1024
    seconds: Annotated[float, Field(gt=0)] = 3600.0
    env: dict[str, str] = {}


def load_templates(folder: Path) -> Mapping[str, Template]:
    """The templates of a folder by name; raises ConfigError with every mistake in every file."""
    templates, mistakes = read_templates(folder)
    if mistakes:
        raise ConfigError(mistakes)
    return templates


def read_templates(folder: Path) -> tuple[Mapping[str, Template], tuple[Mistake, ...]]:
    """The templates that can be used, and all mistakes of the others."""
    templates: dict[str, Template] = {}
    mistakes: list[Mistake] = []
    for path in sorted(folder.glob("*.yaml")):
        document = load(path)
        form = parse(document, _TemplateForm)
        if not isinstance(form, _TemplateForm):
            mistakes.extend(form)
            continue
        wrong = [*_wrong_defaults(document, form), *_wrong_work(document, form)]
        mistakes.extend(wrong)
        if not wrong:
            templates[path.stem] = _template(path.stem, form)
    return templates, tuple(mistakes)


def fits(parameter: ParameterType, value: Any) -> bool:
    """Whether a value as written in YAML is of a parameter's type."""
    match parameter:
        case "string":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "time":
            return _reads(utc, value)
        case "duration":
            return _reads(parse_duration, value)


def _reads(reader: Any, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        reader(value)
    except ValueError:
        return False
    return True


def _wrong_defaults(document: Document, form: _TemplateForm) -> list[Mistake]:
    found = []
    for name, parameter in form.parameters.items():
        if parameter.default is None:
            continue
        if parameter.required:
            message = f"parameter {name} is required, so its default is never used"
            found.append(document.mistake(("parameters", name, "default"), message))
        elif not fits(parameter.type, parameter.default):
            message = f"the default of {name} is no {parameter.type}"
            found.append(document.mistake(("parameters", name, "default"), message))
    return found


def _wrong_work(document: Document, form: _TemplateForm) -> list[Mistake]:
    if (form.argv is None) == (form.kubernetes is None):
        return [document.mistake((), "a template is a program (argv) or an object of a cluster (kubernetes)")]
    if form.kubernetes is None:
        return []
    found = wrong_with(form.kubernetes.manifest, form.verb, form.parameters)
    return [document.mistake(("kubernetes", "manifest", *where), message) for where, message in found]


def _template(name: str, form: _TemplateForm) -> Template:
    parameters = {
        key: Parameter(key, parameter.type, parameter.required, parameter.default, parameter.doc)
        for key, parameter in form.parameters.items()
    }
    manifest = form.kubernetes.manifest if form.kubernetes is not None else {}
    return Template(
        name, form.doc, form.verb, form.argv or (), parameters, form.memory_mb, form.seconds, form.env, manifest
    )
