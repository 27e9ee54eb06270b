"""Manifests of approved templates: YAML with places for values, filled in by type, never as text.

A place is a mapping of one key, and stands where its value goes:

    replicas: {$parameter: workers}      the parameter's value, as what it is
    value: {$text: learning_rate}        the same as text, for environments and arguments
    value: {$call: json}                 a fact of the call as text: json, id, run, rule, event, model, version, model_uri

A parameter that was not given leaves its place out: the key, or the item of the list. Nothing inside of a text is ever
interpreted, so a value cannot become anything but a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from daemon.core.canonical import canonical

PARAMETER, TEXT, CALL = "$parameter", "$text", "$call"
FACTS = ("json", "id", "run", "rule", "event", "model", "version", "model_uri")
"""What `$call` knows."""

Where = tuple[str | int, ...]


class Place(NamedTuple):
    """A place for a value."""

    where: Where
    """Keys and indexes that lead to it."""
    sort: str
    """`$parameter`, `$text` or `$call`; or another key that begins with `$`, which is a mistake."""
    name: Any
    """What goes there."""


class _Nothing:
    """No value: the place is left out."""


_NOTHING = _Nothing()


def places(manifest: Any, where: Where = ()) -> Iterator[Place]:
    """All places for values in a manifest."""
    if isinstance(manifest, Mapping):
        if len(manifest) == 1 and str(next(iter(manifest))).startswith("$"):
            ((sort, name),) = manifest.items()
            yield Place(where, str(sort), name)
            return
        for key, value in manifest.items():
            yield from places(value, (*where, str(key)))
    elif isinstance(manifest, list | tuple):
        for index, value in enumerate(manifest):
            yield from places(value, (*where, index))


def filled(manifest: Mapping[str, Any], parameters: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """The manifest with its values: `parameters` as JSON values by name, `facts` of the call as text.

    KeyError for a fact that is not known; the same manifest and values give the same result.
    """
    found = _filled(manifest, parameters, facts)
    assert isinstance(found, dict)
    return found


def _filled(value: Any, parameters: Mapping[str, Any], facts: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        if len(value) == 1 and (sort := next(iter(value))) in {PARAMETER, TEXT, CALL}:
            return _value(sort, str(value[sort]), parameters, facts)
        pairs = ((str(key), _filled(one, parameters, facts)) for key, one in value.items())
        return {key: one for key, one in pairs if one is not _NOTHING}
    if isinstance(value, list | tuple):
        return [found for one in value if (found := _filled(one, parameters, facts)) is not _NOTHING]
    return value


def _value(sort: str, name: str, parameters: Mapping[str, Any], facts: Mapping[str, str]) -> Any:
    if sort == CALL:
        return facts[name]
    value = parameters.get(name, _NOTHING)
    if value is _NOTHING or sort == PARAMETER:
        return value
    return text_of(value)


def text_of(value: Any) -> str:
    """A JSON value as text: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else canonical(value).decode()
