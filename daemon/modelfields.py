"""What keys a pydantic model takes at some depth: for suggestions when a key is unknown."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that may stand at `path` of a value of `model`; none when any may."""
    found: Any = model
    for part in path:
        found = _inside(found, part)
    keys = (field.alias or name for inner in _models(found) for name, field in inner.model_fields.items())
    return list(dict.fromkeys(keys))


def _inside(kind: Any, part: str | int) -> Any:
    models = _models(kind)
    if models:
        fields = [
            {field.alias or name: field.annotation for name, field in model.model_fields.items()} for model in models
        ]
        return next((named[str(part)] for named in fields if str(part) in named), None)
    for option in _options(kind):
        origin, args = get_origin(option), get_args(option)
        if origin in {dict, Mapping} and len(args) == 2:
            return args[1]
        if origin in {list, tuple} and args:
            return args[0]
    return None


def _models(kind: Any) -> list[type[BaseModel]]:
    """The models that it may be: several where their `kind` tells them apart."""
    return [option for option in _options(kind) if isinstance(option, type) and issubclass(option, BaseModel)]


def _options(kind: Any) -> list[Any]:
    """The kinds that a Union or Annotated stands for."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _options(get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [option for arg in get_args(kind) for option in _options(arg)]
    return [kind]
