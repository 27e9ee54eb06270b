"""YAML files that people write, as plain Python with the position of everything; all mistakes at once.

Strict where YAML surprises: `on`, `off`, `yes`, `no` are texts, as are `12:30` and `2026-01-01`; only true and false are
booleans, only decimal numbers are numbers; a key twice, a key that is no text, a tag, a merge key and a second document
are mistakes; an alias may not make a file grow beyond what it says.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from daemon.core.errors import Mistake
from daemon.core.spelling import did_you_mean
from daemon.modelfields import known_keys

Where = tuple[str | int, ...]
"""A path into a document: keys and indexes."""

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Composes nodes without guessing types: guessing is done here."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}
_TAG = "tag:yaml.org,2002:"
_TAGS = {yaml.ScalarNode: f"{_TAG}str", yaml.SequenceNode: f"{_TAG}seq", yaml.MappingNode: f"{_TAG}map"}

Model = TypeVar("Model", bound=BaseModel)


class _Place(NamedTuple):
    """Where one value stands. (A tuple: a file has thousands of them.)"""

    key: tuple[int, int]
    """Line and column (from 1) of the key, or of the list item's value."""
    value: tuple[int, int]
    end: tuple[int, int]
    style: str
    """Quote or block sign of a scalar: `'`, `"`, `|`, `>`; empty for plain ones and collections."""


@dataclass(frozen=True)
class Document:
    """A file's content with positions. With mistakes, `data` holds what could be read."""

    file: str
    data: Any
    mistakes: tuple[Mistake, ...]
    source: str = field(repr=False)
    _places: dict[Where, _Place] = field(repr=False)

    def position(self, where: Where = ()) -> tuple[int, int]:
        """Line and column (from 1) of a value; of its nearest parent when it is not there."""
        return self._nearest(where).value

    def key_position(self, where: Where) -> tuple[int, int]:
        """Line and column (from 1) of a value's key."""
        return self._nearest(where).key

    def mistake(self, where: Where, message: str, at_key: bool = False) -> Mistake:
        """A mistake at a value, or at its key."""
        return Mistake(self.file, *(self.key_position(where) if at_key else self.position(where)), message)

    def inside(self, where: Where, line: int, column: int, message: str) -> Mistake:
        """A mistake at a line and column of the text that the scalar at `where` holds."""
        place = self._nearest(where)
        top, left = place.value
        if place.style in {"|", ">"}:
            # A folded text has lost its line breaks, so its lines cannot be told: the block's first line must do.
            first = self._lines[top] if top < len(self._lines) else ""
            indent = len(first) - len(first.lstrip())
            return Mistake(self.file, top + (line if place.style == "|" else 1), indent + column, message)
        quote = 1 if place.style else 0
        if line > 1:
            return Mistake(self.file, top, left, message)
        return Mistake(self.file, top, left + quote + column - 1, message)

    def text(self, where: Where) -> str:
        """A value as written, without the indentation it stands at and the comments after it."""
        place = self._nearest(where)
        (top, left), (bottom, right) = place.value, place.end
        lines = self._lines[top - 1 : bottom]
        if not lines:
            return ""
        if bottom - top < len(lines):
            lines[-1] = lines[-1][: right - 1]
        lines[0] = " " * (left - 1) + lines[0][left - 1 :]
        while lines and (not lines[-1].strip() or _outer_comment(lines[-1], left)):
            lines.pop()
        return textwrap.dedent("\n".join(lines))

    @cached_property
    def _lines(self) -> list[str]:
        return self.source.splitlines()

    def _nearest(self, where: Where) -> _Place:
        while where not in self._places:
            where = where[:-1]
        return self._places[where]


def load(path: Path, name: str | None = None) -> Document:
    """Read a YAML file. Whatever is wrong with it is in `mistakes`; `name` is how they call the file."""
    shown = name or str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        return _broken(shown, "", 0, 0, f"cannot be read: {error.strerror}")
    if len(raw) > MAX_BYTES:
        return _broken(shown, "", 0, 0, f"is {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return _broken(shown, "", raw[: error.start].count(b"\n") + 1, 1, "is not UTF-8")
    return parse_text(text, shown)


def parse_text(text: str, file: str) -> Document:
    """A document from text; see `load`."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        return _broken(file, text, line, column, _syntax(error, text))
    except yaml.YAMLError as error:
        return _broken(file, text, 0, 0, f"is not YAML: {' '.join(str(error).split())}")
    finally:
        loader.dispose()
    reading = _Reading(file)
    data = reading.value(root, (), (1, 1)) if root is not None else None
    reading.places.setdefault((), _Place((1, 1), (1, 1), (1, 1), ""))
    return Document(file, data, tuple(reading.mistakes), text, reading.places)


def parse(document: Document, model: type[Model]) -> Model | tuple[Mistake, ...]:
    """The document as a pydantic model, or all mistakes with their positions."""
    if document.mistakes:
        return document.mistakes
    return parse_part(document, (), document.data if document.data is not None else {}, model)


def parse_part(document: Document, where: Where, data: Any, model: type[Model]) -> Model | tuple[Mistake, ...]:
    """The same for the part of a document at `where`, whose (perhaps changed) value is `data`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = (_mistake(document, where, cast("dict[str, Any]", item), data, model) for item in error.errors())
        return tuple(sorted(dict.fromkeys(found), key=lambda mistake: (mistake.line, mistake.column)))


def _mistake(document: Document, where: Where, item: dict[str, Any], data: Any, model: type[BaseModel]) -> Mistake:
    loc = _real(item["loc"], data)
    name = ".".join(str(part) for part in loc)
    if item["type"] == "extra_forbidden":
        known = known_keys(model, loc[:-1])
        hint = did_you_mean(str(loc[-1]), known) or (f"; known are {', '.join(known)}" if known else "")
        return document.mistake((*where, *loc), f"unknown key {name}{hint}", at_key=True)
    if item["type"] == "missing":
        missing = str(item["loc"][-1])
        inside = f" in {name}" if name else ""
        return document.mistake((*where, *loc), f"{missing} is missing{inside}")
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return document.mistake((*where, *loc), f"{name}: {message}" if name else message)


def _real(loc: tuple[Any, ...], data: Any) -> Where:
    """The part of pydantic's location that is in the data: it also names union members and key validations."""
    found: list[str | int] = []
    for part in loc:
        is_key = isinstance(data, dict) and part in data
        is_index = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_index:
            data = data[part]
            found.append(part)
    return tuple(found)


class _Reading:
    """Turns nodes into values, and notes places and mistakes on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Where, _Place] = {}
        self.mistakes: list[Mistake] = []
        self._open: set[int] = set()
        self._full = False

    def value(self, node: yaml.Node, where: Where, key: tuple[int, int]) -> Any:
        start, end = _mark(node.start_mark), _mark(node.end_mark)
        style = (getattr(node, "style", "") or "") if isinstance(node, yaml.ScalarNode) else ""
        self.places[where] = _Place(key, start, end, style)
        if len(self.places) > MAX_VALUES or len(where) > MAX_DEPTH:
            return self._too_large(start)
        if node.tag != _TAGS[type(node)]:
            self._wrong(start, f"tags such as {node.tag.replace(_TAG, '!!')} are not used here")
        if isinstance(node, yaml.ScalarNode):
            return node.value if style else self._scalar(node.value, start)
        if id(node) in self._open:
            return self._wrong(start, "an alias refers to what it stands in")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [
                    self.value(item, (*where, index), _mark(item.start_mark)) for index, item in enumerate(node.value)
                ]
            return dict(self._pairs(cast("yaml.MappingNode", node), where))
        finally:
            self._open.discard(id(node))

    def _pairs(self, node: yaml.MappingNode, where: Where) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, item in node.value:
            at = _mark(key.start_mark)
            name = self._key(key, at)
            if name is None:
                continue
            if name in seen:
                self._wrong(at, f"{name} is written twice (first in line {seen[name]})")
                continue
            seen[name] = at[0]
            yield name, self.value(item, (*where, name), at)

    def _key(self, node: yaml.Node, at: tuple[int, int]) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._wrong(at, "a key must be a text")
            return None
        if node.style is None or node.style == "":
            if node.value == "<<":
                self._wrong(at, "merge keys (<<) are not used here")
                return None
            if not isinstance(self._scalar(node.value, at), str):
                self._wrong(at, f"a key must be a text; write {node.value!r} in quotes")
                return None
        return str(node.value)

    def _scalar(self, text: str, at: tuple[int, int]) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text) if len(text) <= 20 else self._wrong(at, "a number of at most 20 digits is expected")
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text

    def _too_large(self, at: tuple[int, int]) -> None:
        if not self._full:
            self._full = True
            self._wrong(at, f"the file grows beyond {MAX_VALUES} values or {MAX_DEPTH} levels; use fewer aliases")

    def _wrong(self, at: tuple[int, int], message: str) -> None:
        self.mistakes.append(Mistake(self.file, *at, message))


def _mark(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _outer_comment(line: str, left: int) -> bool:
    """A comment further left than the value belongs to what comes next."""
    return line.lstrip().startswith("#") and len(line) - len(line.lstrip()) < left - 1


def _broken(file: str, text: str, line: int, column: int, message: str) -> Document:
    return Document(file, None, (Mistake(file, line, column, message),), text, {(): _Place((1, 1), (1, 1), (1, 1), "")})


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "tabs cannot indent YAML; use spaces"
    hint = ""
    if error.problem and "mapping values are not allowed" in error.problem:
        hint = "; a text with `: ` in it needs quotes"
    if error.problem and "cannot start any token" in error.problem:
        hint = "; a text that starts with this sign needs quotes"
    return f"is not YAML: {error.problem or error.context}{hint}"
