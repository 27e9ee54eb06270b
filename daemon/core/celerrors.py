"""What CEL's compiler says, as mistakes that a rule author can act on.

The compiler reports `ERROR: <input>:LINE:COLUMN: text`, several at once. Here each becomes a Mistake in the words of the
catalogue, with a suggestion; what follows from another mistake is left out.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from daemon.core.celtree import Tree
from daemon.core.celtypes import labels
from daemon.core.errors import Mistake
from daemon.core.spelling import did_you_mean

_REPORT = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*?)(?=\n \||\nERROR:|\s*\[[A-Z_]+\]\s*$|$)", re.DOTALL)
_FIELD = re.compile(r"undefined field '(.+?)' not found in struct '(.+?)'")
_OVERLOAD = re.compile(r"found no matching overload for '(.+?)' applied to '(.*)'", re.DOTALL)
_UNDECLARED = re.compile(r"undeclared reference to '(.+?)'")
_WHOLE_NUMBER = re.compile(r"-?\s*\d+(?![\w.])")
_OPERATOR = re.compile(r"^(?:_(?P<infix>[^_]+)_|@(?P<in>in)|(?P<prefix>[-!])_|_(?P<index>\[_\]))$")
_WORDS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!"}
_FUNCTIONS = (
    "size", "has", "all", "exists", "exists_one", "filter", "map", "contains", "startsWith", "endsWith", "matches",
    "timestamp", "duration", "int", "double", "string", "bool", "dyn", "type", "getFullYear", "getMonth", "getDate",
    "getDayOfWeek", "getDayOfMonth", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "event",
)  # fmt: skip


def mistakes(report: str, kind: str, text: str, source: str) -> tuple[Mistake, ...]:
    """The compiler's report on `source` as mistakes in `text` (as written, before literals were widened)."""
    found: list[Mistake] = []
    for line, column, message in _REPORT.findall(report):
        if "yntax error" in message and found:
            continue
        said = _said(message.strip(), kind, source, (int(line), int(column)))
        if said is not None:
            shift, words = said
            found.append(Mistake("", *_unwidened(text, source, int(line), int(column) + shift), words))
    if "recursion" in report:
        return (Mistake("", 1, 1, "is nested too deep: at most 32 levels; `in [...]` and && need none"),)
    if not found:
        return (Mistake("", 1, 1, report.split("\n", 1)[0]),)
    return tuple(dict.fromkeys(found))


def widened(environment: Any, source: str, report: str) -> str | None:
    """`source` with the whole-number literals that stand beside doubles written as doubles; None when that is not it."""
    places = {
        (int(line), int(column))
        for line, column, message in _REPORT.findall(report)
        if (found := _OVERLOAD.search(message)) and "double" in found[2] and re.search(r"\bint\b", found[2])
    }
    if not places:
        return None
    try:
        tree = Tree(environment.compile(source, disable_check=True).serialize())
    except RuntimeError:
        return None
    beside = [literal.position for literal in tree.literals() if place(source, literal.call) in places]
    changed = as_doubles(source, beside)
    return None if changed == source else changed


def as_doubles(source: str, positions: list[int]) -> str:
    """`source` with the whole-number literals at these offsets written as doubles."""
    for position in sorted(positions, reverse=True):
        found = _WHOLE_NUMBER.match(source, position)
        if found:
            source = source[: found.end()] + ".0" + source[found.end() :]
    return source


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column (from 1) of an offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def type_name(name: str) -> str:
    """The name of a CEL type as rule authors and templates know it."""
    lowered = name.lower()
    plain = {"timestamp": "time", "dyn": "any", "null_type": "null"}
    for outer in ("list", "map"):
        if lowered.startswith(outer):
            return outer
    return plain.get(lowered, "record" if "." in name else lowered)


def _said(message: str, kind: str, source: str, at: tuple[int, int]) -> tuple[int, str] | None:
    """How far right of the reported column the mistake is, and what to say; None for what follows from another."""
    if "*error*" in message:
        return None
    if found := _FIELD.search(message):
        return 1, _unknown_field(found[1], found[2], kind)
    if found := _OVERLOAD.search(message):
        return 0, _mismatch(found[1], found[2])
    if found := _UNDECLARED.search(message):
        return _undeclared(found[1].split(".")[0], source, at)
    if "yntax error" in message:
        return 0, _syntax(message, source, at)
    return 0, _FULL.sub(lambda match: labels()[match[0]][0] if match[0] in labels() else match[0], message)


def _undeclared(name: str, source: str, at: tuple[int, int]) -> tuple[int, str]:
    """The compiler reports the dot or bracket behind the name; the mistake is the name."""
    line = source.split("\n")[at[0] - 1]
    start = line.rfind(name, 0, at[1] + len(name) - 1)
    shift = start + 1 - at[1] if start >= 0 else 0
    if name in _WORDS:
        return shift, f"write {_WORDS[name]} instead of {name}"
    if name == "streak":
        return shift, "streak is known in the steps of a rule only"
    return shift, f"unknown name {name}{did_you_mean(name, _FUNCTIONS)}"


_FULL = re.compile(r"driftd\.[\w.]+")


def _unknown_field(name: str, message: str, kind: str) -> str:
    label, fields = labels().get(message, (kind, ()))
    path, _, of = label.partition(" of ")
    known = [field.name for field in fields]
    hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
    return f"unknown field {path}.{name}" + (f" of {of}" if of else "") + hint


def _mismatch(function: str, types: str) -> str:
    names = [_argument(part) for part in _split(types)]
    found = _OPERATOR.match(function)
    if {"null", "null_type"} & set(names):
        return "nothing is compared with null: write has(event.x) to ask whether a field is there"
    if found and found["index"]:
        return f"{names[0]} has no [ ]: only maps and lists do"
    if found and (symbol := found["infix"] or found["in"]) and len(names) == 2:
        hint = ""
        if set(names) == {"int", "double"}:
            hint = ": write the whole number with .0, or wrap the int in double( )"
        elif symbol == "in" and names == ["double", "list(int)"]:
            hint = ": write the whole numbers with .0"
        elif symbol in {"&&", "||"} or names[0] != names[1]:
            hint = ": the types do not fit"
        return f"{names[0]} {symbol} {names[1]}{hint or ': there is no such operation'}"
    if found and found["prefix"]:
        return f"{found['prefix']} does not go with {names[0]}"
    return f"{function} does not take ({', '.join(names)})"


def _split(types: str) -> list[str]:
    """`(a, map(b, c))` -> `a`, `map(b, c)`."""
    inner = types.strip()
    inner = inner[1:-1] if inner.startswith("(") else inner
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(inner):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(inner[start:index].strip())
            start = index + 1
    return [*parts, inner[start:].strip()]


def _argument(name: str) -> str:
    if name in labels():
        return labels()[name][0].split(" of ")[0]
    return {"google.protobuf.Timestamp": "time", "timestamp": "time", "dyn": "any"}.get(name, name)


def _syntax(message: str, source: str, at: tuple[int, int]) -> str:
    line = source.split("\n")[at[0] - 1] if at[0] <= source.count("\n") + 1 else ""
    rest = line[at[1] - 1 :]
    if re.match(r"=(?!=)", rest) or re.search(r"(?<![=!<>])=(?!=)", line):
        return "syntax error: write == to compare"
    word = re.search(r"\b(and|or|not|AND|OR|NOT)\b", line)
    if word:
        return f"syntax error: write {_WORDS[word[1]]} instead of {word[1]}"
    if "<EOF>" in message:
        return "syntax error: the expression ends too early"
    return "syntax error" + (f" at {rest.split()[0]!r}" if rest.split() else "")


def _unwidened(text: str, source: str, line: int, column: int) -> tuple[int, int]:
    """The place in `text` of a place in `source`, in which some literals have `.0` added."""
    lines, written = source.split("\n"), text.split("\n")
    if line > len(lines) or line > len(written):
        return line, column
    matcher = difflib.SequenceMatcher(None, lines[line - 1], written[line - 1], autojunk=False)
    shift = sum(
        (j2 - j1) - (i2 - i1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal" and i2 <= column - 1
    )
    return line, max(column + shift, 1)
