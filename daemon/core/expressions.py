"""Rule expressions: CEL, type-checked against the event catalogue, evaluated to true, false or unknown.

`compile_condition` and `compile_template` give a compiled expression, or the mistakes with their line and column. An
expression that reads something absent is unknown, wherever it reads it: absent means not there, null, NaN or infinite,
a missing key, an empty map of measurements. `&&` and `||` keep three truth values: a false operand of `&&` decides, and
so does a true one of `||`, whatever the other is. `has(event.x)` asks whether something is there.

How: expressions are checked against typed messages and evaluated over maps of the present fields (celtypes.py), after
`all` over nothing and the division by zero were made errors (celtree.py); every error of an evaluation is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any

from daemon.core import celerrors
from daemon.core.activations import Activation, activation, timestamp
from daemon.core.celtree import REFUSED, Comparison, Read, Tree
from daemon.core.celtypes import has_json, opened, typed
from daemon.core.durations import write_duration
from daemon.core.errors import Mistake

__all__ = [
    "Activation", "Condition", "Operand", "Rendered", "Template", "Truth", "Verdict", "activation", "compile_condition",
    "compile_template", "looks_like_template",
]  # fmt: skip


class Truth(Enum):
    """What a condition can be."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a condition came out."""

    truth: Truth
    reason: str
    """Why it is unknown, naming what is absent; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One thing that an expression read, for explanations."""

    text: str
    value: Any
    """As JSON; None when it is absent."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a template gave."""

    value: Any
    """A JSON value: times and durations as text."""
    unknown: str
    """Why there is none; empty when there is one."""


_TRUE = Verdict(Truth.TRUE, "")
_FALSE = Verdict(Truth.FALSE, "")


@dataclass(frozen=True)
class Condition:
    """A condition over events of one type. Two with the same text and type are equal."""

    kind: str
    """The event type that it was checked against."""
    text: str
    """As written."""
    reads: tuple[Read, ...] = field(compare=False, repr=False)
    comparisons: tuple[Comparison, ...] = field(compare=False, repr=False)
    """Those that must all hold for it to hold."""
    roots: tuple[str, ...] = field(compare=False, repr=False)
    """The event's fields that it reads: only these are handed to CEL."""
    _program: Any = field(compare=False, repr=False)

    def evaluate(self, values: Activation) -> Verdict:
        """True, false, or unknown with its reason."""
        data = values.data
        picked = {name: data[name] for name in self.roots if name in data}
        result = self._program.eval(data={"event": picked}).value()
        if result is True:
            return _TRUE
        if result is False:
            return _FALSE
        return Verdict(Truth.UNKNOWN, _why_unknown(self.reads, values, result))

    def operands(self, values: Activation) -> tuple[Operand, ...]:
        """What it reads, with the values found: a read of every key comes once per key."""
        deepest = [read for read in self.reads if not any(_leads_to(read, other) for other in self.reads)]
        found = (operand for read in deepest for operand in _found(read, values))
        return tuple({operand.text: operand for operand in found}.values())

    @property
    def constant(self) -> bool:
        """It reads nothing of the event."""
        return not self.reads


@dataclass(frozen=True)
class Template:
    """`{{ expression }}`: one typed value computed from the event, never text put into text."""

    kind: str
    text: str
    """The expression, without the braces."""
    type: str
    """What it gives: `string`, `int`, `double`, `bool`, `time`, `duration`, `list`, `map`, or `any` for JSON."""
    reads: tuple[Read, ...] = field(compare=False, repr=False)
    roots: tuple[str, ...] = field(compare=False, repr=False)
    _program: Any = field(compare=False, repr=False)

    def evaluate(self, values: Activation, streak_start: str = "") -> Rendered:
        """Its value for one event; `streak_start` is the ISO time that `streak.start` stands for, empty when unknown."""
        data = values.data
        picked = {name: data[name] for name in self.roots if name in data}
        streak = {"start": timestamp(streak_start)} if streak_start else {}
        result = self._program.eval(data={"event": picked, "streak": streak})
        if result.type().name() == "ERROR":
            return Rendered(None, _why_unknown(self.reads, values, result.value(), streak))
        return Rendered(_plain(result.plain_value()), "")


@lru_cache(maxsize=4096)
def compile_condition(kind: str, text: str) -> Condition | tuple[Mistake, ...]:
    """Check `text` against events of type `kind`; mistakes have the line and column within `text`, and no file."""
    made = _compiled(kind, text, with_streak=False)
    if isinstance(made, tuple):
        return made
    if made.type != "bool":
        return (Mistake("", 1, 1, f"a condition must be true or false; this gives {_a(made.type)}{_hint(made.type)}"),)
    return Condition(kind, text, made.reads, made.comparisons, made.roots, made.program)


@lru_cache(maxsize=4096)
def compile_template(kind: str, text: str) -> Template | tuple[Mistake, ...]:
    """Check `{{ expression }}` against events of type `kind`; it may also read `streak`."""
    found = _WHOLE.fullmatch(text)
    if found is None or "{{" in found["expression"] or "}}" in found["expression"]:
        return (
            Mistake("", 1, 1, "{{ }} must stand alone and hold one expression: it gives a value, not a part of a text"),
        )
    made = _compiled(kind, found["expression"], with_streak=True)
    if isinstance(made, tuple):
        shift = found.start("expression")
        return tuple(
            Mistake("", m.line, m.column + shift if m.line == 1 else m.column, m.message) for m in made
        )  # fmt: skip
    return Template(kind, found["expression"], made.type, made.reads, made.roots, made.program)


def looks_like_template(value: Any) -> bool:
    """Whether a value from a rule file is meant as a template."""
    return isinstance(value, str) and ("{{" in value or "}}" in value)


_WHOLE = re.compile(r"\s*\{\{\s*(?P<expression>.*?)\s*\}\}\s*", re.DOTALL)
_LOOPS = re.compile(r"\b(all|exists|exists_one|map|filter)\b")
_MISSING_KEY = re.compile(r'Key not found in map : "(.*)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Compiled:
    type: str
    reads: tuple[Read, ...]
    comparisons: tuple[Comparison, ...]
    roots: tuple[str, ...]
    program: Any


@dataclass(frozen=True, slots=True)
class _Checked:
    expression: Any
    tree: Tree


def _compiled(kind: str, text: str, with_streak: bool) -> _Compiled | tuple[Mistake, ...]:
    checked = _checked(kind, text, with_streak)
    if isinstance(checked, tuple):
        return checked
    expression, tree = checked.expression, checked.tree
    loops = _LOOPS.search(text) is not None
    shadowed = tree.shadowed() if loops else None
    if shadowed is not None:
        return (Mistake("", *celerrors.place(text, shadowed), "a loop variable cannot be called event or streak"),)
    reads = tree.reads()
    whole = next((read for read in reads if not read.steps), None)
    if whole is not None:
        message = f"name a field of {whole.root}: {whole.root} alone has no value"
        return (Mistake("", *celerrors.place(text, whole.position), message),)
    roots = tuple(dict.fromkeys(read.steps[0] for read in reads if read.root == "event" and read.steps[0]))
    type_name = celerrors.type_name(expression.return_type().name())
    return _Compiled(
        type_name,
        reads,
        tree.comparisons(),
        roots,
        opened().deserialize(tree.hardened() if loops or "/" in text else tree.serialized),
    )


def _checked(kind: str, text: str, with_streak: bool) -> _Checked | tuple[Mistake, ...]:
    """Compile against the types; whole-number literals beside doubles are read as doubles."""
    environment = typed(kind, with_streak)
    source = text
    while True:
        try:
            expression = environment.compile(source)
        except RuntimeError as error:
            widened = celerrors.widened(environment, source, str(error))
            if widened is None:
                return celerrors.mistakes(str(error), kind, text, source)
            source = widened
            continue
        tree = Tree(expression.serialize())
        if not has_json(kind):
            return _Checked(expression, tree)
        beside = [literal.position for literal in tree.literals() if literal.beside_dyn]
        widened = celerrors.as_doubles(source, beside)
        if widened == source:
            return _Checked(expression, tree)
        source = widened


def _why_unknown(
    reads: tuple[Read, ...], values: Activation, error: Any, streak: Mapping[str, Any] | None = None
) -> str:
    absent: dict[str, None] = {}
    for read in reads:
        if read.tested:
            continue
        for missing in _missing(read, values, streak or {}):
            absent[missing] = None
    if absent:
        return "; ".join(list(absent)[:5]) + (f"; and {len(absent) - 5} more" if len(absent) > 5 else "")
    text = str(error)
    found = _MISSING_KEY.search(text)
    if found and found[1].startswith(REFUSED):
        return found[1].removeprefix(REFUSED)
    if found:
        return f'there is no "{found[1]}"'
    return text.split(": ", 1)[-1]


def _missing(read: Read, values: Activation, streak: Mapping[str, Any]) -> list[str]:
    """What of a read is not there, each with its reason where the event gives one."""
    if read.root == "streak":
        return [] if read.steps[0] in streak else ["streak.start is absent: no streak led here"]
    found: list[tuple[str, ...]] = []
    _descend(values.data, read.steps, (), found)
    return [_absence(path, values) for path in found]


def _descend(value: Any, steps: tuple[Any, ...], path: tuple[str, ...], found: list[Any]) -> None:
    if not steps:
        return
    step, rest = steps[0], steps[1:]
    if step is None:
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            _descend(item, rest, (*path, str(key)), found)
    elif isinstance(value, Mapping) and step in value:
        _descend(value[step], rest, (*path, step), found)
    elif isinstance(value, Mapping):
        found.append((*path, step))


def _absence(path: tuple[str, ...], values: Activation) -> str:
    text = _path_text(path)
    unset = values.raw.get("unset")
    reason = ""
    if isinstance(unset, Mapping):
        reason = next((str(unset[name]) for name in (".".join(path), path[0]) if unset.get(name)), "")
    if not reason and values.raw.get(path[0]) == {}:
        return f"{text} is empty: nothing was measured"
    return f"{text} is absent" + (f": {reason}" if reason else "")


def _path_text(path: tuple[str, ...]) -> str:
    """`columns`, `x`, `score` -> `event.columns["x"].score`: the second step of a map is a key."""
    text = f"event.{path[0]}"
    keyed = path[0] in {"columns", "arms", "tags", "unset"}
    for index, step in enumerate(path[1:]):
        text += f'["{step}"]' if (keyed and index == 0) or not step.isidentifier() else f".{step}"
    return text


def _leads_to(read: Read, other: Read) -> bool:
    """`other` goes on where `read` ends, so its values say it all."""
    return (
        other.root == read.root and len(other.steps) > len(read.steps) and other.steps[: len(read.steps)] == read.steps
    )


def _found(read: Read, values: Activation) -> list[Operand]:
    if read.root != "event":
        return []
    found: list[Operand] = []
    _collect(values.data, read.steps, (), found)
    return found


def _collect(value: Any, steps: tuple[Any, ...], path: tuple[str, ...], found: list[Operand]) -> None:
    if not steps:
        found.append(Operand(_path_text(path), _plain(value)))
        return
    step, rest = steps[0], steps[1:]
    if step is None and isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, rest, (*path, key), found)
    elif step is None and isinstance(value, list):
        for index, item in enumerate(value):
            _collect(item, rest, (*path, str(index)), found)
    elif step is not None and isinstance(value, Mapping) and step in value:
        _collect(value[step], rest, (*path, step), found)
    elif step is not None:
        found.append(Operand(_path_text((*path, step)), None))


def _plain(value: Any) -> Any:
    """A value of CEL's, or of an activation, as JSON."""
    if hasattr(value, "ToDatetime"):
        value = value.ToDatetime(UTC)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return write_duration(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _hint(name: str) -> str:
    return "; compare it, for example with == true" if name == "any" else "; compare it with something"
