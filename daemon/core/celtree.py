"""A checked CEL expression as a tree: what it reads, which literals it holds, and the hardening of two operations.

CEL hands out a checked expression as `cel.expr.CheckedExpr` (github.com/google/cel-spec, proto/cel/expr/{syntax,checked}
.proto). Only the parts of that format that are used here are declared; the rest passes through untouched.

Hardening makes two things unknown that CEL would answer:

* `all` over an empty list or map, which is true there (a map of measurements that is empty counts as absent anyway);
* the division of doubles by zero, which gives an infinity or NaN there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

REFUSED = "refused: "
"""How the reason begins that a hardened operation gives as its error."""

Step = str | None
"""One step of a read: a field or literal key; None stands for every key or element."""

_COMPUTED = object()
"""In place of a step: a key that only the event tells."""

_ROOTS = frozenset({"event", "streak"})
_PRIMITIVE_DOUBLE = 4
_SYMBOLS = {"_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_MIRRORED = {"_==_": "_==_", "_!=_": "_!=_", "_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_"}
_NUMERIC = frozenset({*_SYMBOLS, "_+_", "_-_", "_*_", "_/_"})

_INT, _BOOL, _STRING, _DOUBLE, _MESSAGE = 3, 8, 9, 1, 11
_LAYOUT: Mapping[str, tuple[tuple[str, int, int, str], ...]] = {
    # message: (field, number, type, message type; `*` in front: repeated)
    "Constant": (
        ("null_value", 1, _INT, ""), ("bool_value", 2, _BOOL, ""), ("int64_value", 3, _INT, ""),
        ("uint64_value", 4, 4, ""), ("double_value", 5, _DOUBLE, ""), ("string_value", 6, _STRING, ""),
        ("bytes_value", 7, 12, ""),
    ),
    "Ident": (("name", 1, _STRING, ""),),
    "Select": (("operand", 1, _MESSAGE, "Expr"), ("field", 2, _STRING, ""), ("test_only", 3, _BOOL, "")),
    "Call": (("target", 1, _MESSAGE, "Expr"), ("function", 2, _STRING, ""), ("args", 3, _MESSAGE, "*Expr")),
    "CreateList": (("elements", 1, _MESSAGE, "*Expr"),),
    "Entry": (("id", 1, _INT, ""), ("map_key", 3, _MESSAGE, "Expr"), ("value", 4, _MESSAGE, "Expr")),
    "CreateStruct": (("message_name", 1, _STRING, ""), ("entries", 2, _MESSAGE, "*Entry")),
    "Comprehension": (
        ("iter_var", 1, _STRING, ""), ("iter_range", 2, _MESSAGE, "Expr"), ("accu_var", 3, _STRING, ""),
        ("accu_init", 4, _MESSAGE, "Expr"), ("loop_condition", 5, _MESSAGE, "Expr"),
        ("loop_step", 6, _MESSAGE, "Expr"), ("result", 7, _MESSAGE, "Expr"),
    ),
    "Expr": (
        ("id", 2, _INT, ""), ("const_expr", 3, _MESSAGE, "Constant"), ("ident_expr", 4, _MESSAGE, "Ident"),
        ("select_expr", 5, _MESSAGE, "Select"), ("call_expr", 6, _MESSAGE, "Call"),
        ("list_expr", 7, _MESSAGE, "CreateList"), ("struct_expr", 8, _MESSAGE, "CreateStruct"),
        ("comprehension_expr", 9, _MESSAGE, "Comprehension"),
    ),
    "Position": (("key", 1, _INT, ""), ("value", 2, 5, "")),
    "SourceInfo": (("positions", 4, _MESSAGE, "*Position"),),
    "Empty": (),
    "MapType": (("key_type", 1, _MESSAGE, "Type"), ("value_type", 2, _MESSAGE, "Type")),
    "Type": (
        ("dyn", 1, _MESSAGE, "Empty"), ("primitive", 3, _INT, ""), ("map_type", 7, _MESSAGE, "MapType"),
    ),
    "TypeOf": (("key", 1, _INT, ""), ("value", 2, _MESSAGE, "Type")),
    "ParsedExpr": (("expr", 2, _MESSAGE, "Expr"), ("source_info", 3, _MESSAGE, "SourceInfo")),
    "CheckedExpr": (
        ("type_map", 3, _MESSAGE, "*TypeOf"), ("expr", 4, _MESSAGE, "Expr"),
        ("source_info", 5, _MESSAGE, "SourceInfo"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """One thing that an expression reads: `event.columns["x"].score`."""

    text: str
    """As a person would write it; `[*]` stands for every key or element."""
    root: str
    """`event` or `streak`."""
    steps: tuple[Step, ...]
    tested: bool
    """Read inside `has(...)`, which asks whether it is there."""
    position: int
    """Offset in the expression of the last step."""
    dynamic: bool = False
    """It goes on with a key that only the event tells, so it ends early."""


@dataclass(frozen=True, slots=True)
class _Path:
    """A chain of fields and keys from `event` or `streak`."""

    root: str
    steps: tuple[Step, ...]
    closed: bool = False
    """A computed key came: what follows it is not part of the path."""

    def then(self, step: Any) -> _Path:
        if self.closed:
            return self
        return replace(self, closed=True) if step is _COMPUTED else replace(self, steps=(*self.steps, step))

    @property
    def text(self) -> str:
        return self.root + "".join(_step_text(step) for step in self.steps)


_Bound = Mapping[str, _Path | None]
"""Loop variables in scope: the path of their value for lists, None for maps (they are keys) and accumulators."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A whole-number literal that is an operand of a comparison or of arithmetic."""

    position: int
    """Offset of the literal in the expression."""
    call: int
    """Offset of the operator."""
    beside_dyn: bool
    """The other operand has a type that only the event tells (a number there is a double)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field op literal`, normalised so that the field stands on the left."""

    read: str
    operator: str
    value: Any


class Tree:
    """A parsed or checked expression."""

    def __init__(self, serialized: bytes) -> None:
        self.serialized = serialized
        """As it came from the compiler."""
        wrapped = any_pb2.Any.FromString(serialized)
        self._url = wrapped.type_url
        name = "CheckedExpr" if self._url.endswith("CheckedExpr") else "ParsedExpr"
        self._message: Any = _message(name).FromString(wrapped.value)
        self._positions = {entry.key: entry.value for entry in self._message.source_info.positions}
        types = self._message.type_map if name == "CheckedExpr" else ()
        self._types = {entry.key: entry.value for entry in types}
        self._newest = max(self._positions, default=0) + 1

    def reads(self) -> tuple[Read, ...]:
        """Everything it reads, in the order of writing, each once."""
        found: dict[tuple[str, bool], Read] = {}
        for read in self._reads(self._message.expr, {}):
            found.setdefault((read.text, read.tested), read)
        return tuple(sorted(found.values(), key=lambda read: read.position))

    def shadowed(self) -> int | None:
        """Offset of a loop whose variable is named `event` or `streak`, or None."""
        for node in _walk(self._message.expr):
            if node.HasField("comprehension_expr") and node.comprehension_expr.iter_var in {"event", "streak"}:
                return int(self._positions.get(node.id, 0))
        return None

    def literals(self) -> tuple[Literal, ...]:
        """Whole-number literals that are operands."""
        found = []
        for node in _walk(self._message.expr):
            call = node.call_expr
            if call.function not in _NUMERIC or len(call.args) != 2:
                continue
            for arg, other in (tuple(call.args), tuple(reversed(call.args))):
                if arg.const_expr.HasField("int64_value"):
                    other_type = self._types.get(other.id)
                    dyn = other_type is not None and other_type.HasField("dyn")
                    found.append(Literal(self._positions[arg.id], self._positions[node.id], dyn))
        return tuple(found)

    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of a field with a literal that must all hold for the whole to hold."""
        return tuple(self._conjuncts(self._message.expr))

    def hardened(self) -> bytes:
        """The expression with the two operations of the module's docstring made unknown, serialized again."""
        self._harden(self._message.expr)
        return any_pb2.Any(type_url=self._url, value=self._message.SerializeToString()).SerializeToString()

    def _conjuncts(self, node: Any) -> Iterator[Comparison]:
        call = node.call_expr
        if call.function == "_&&_":
            for arg in call.args:
                yield from self._conjuncts(arg)
            return
        if call.function not in _MIRRORED or len(call.args) != 2:
            return
        left, right = call.args
        operator = _SYMBOLS[call.function]
        if left.HasField("const_expr"):
            left, right, operator = right, left, _SYMBOLS[_MIRRORED[call.function]]
        path = self._path(left, {})
        if path is None or not right.HasField("const_expr"):
            return
        for kind in ("int64_value", "double_value", "string_value", "bool_value"):
            if right.const_expr.HasField(kind):
                yield Comparison(path.text, operator, getattr(right.const_expr, kind))

    def _reads(self, node: Any, bound: _Bound) -> Iterator[Read]:
        path = self._path(node, bound)
        if path is not None:
            tested = node.HasField("select_expr") and node.select_expr.test_only
            yield Read(path.text, path.root, path.steps, tested, self._positions.get(node.id, 0), path.closed)
            for key in _keys(node):
                yield from self._reads(key, bound)
            return
        if not node.HasField("comprehension_expr"):
            for child in _children(node):
                yield from self._reads(child, bound)
            return
        loop = node.comprehension_expr
        yield from self._reads(loop.iter_range, bound)
        over = self._path(loop.iter_range, bound)
        kind = self._types.get(loop.iter_range.id)
        is_map = kind is not None and kind.HasField("map_type")
        inside = {**bound, loop.iter_var: None if is_map or over is None else over.then(None), loop.accu_var: None}
        for part in (loop.accu_init, loop.loop_condition, loop.loop_step, loop.result):
            yield from self._reads(part, inside)

    def _path(self, node: Any, bound: _Bound) -> _Path | None:
        if node.HasField("ident_expr"):
            name = node.ident_expr.name
            if name in bound:
                return bound[name]
            return _Path(name, ()) if name in _ROOTS else None
        if node.HasField("select_expr"):
            inner = self._path(node.select_expr.operand, bound)
            return inner and inner.then(node.select_expr.field)
        if node.call_expr.function == "_[_]":
            inner = self._path(node.call_expr.args[0], bound)
            return inner and inner.then(self._key(node.call_expr.args[1], bound))
        return None

    def _key(self, node: Any, bound: _Bound) -> Any:
        if node.const_expr.HasField("string_value"):
            return node.const_expr.string_value
        if node.HasField("ident_expr") and node.ident_expr.name in bound:
            return None
        return _COMPUTED

    def _harden(self, node: Any) -> None:
        for child in _children(node):
            self._harden(child)
        loop = node.comprehension_expr
        if _is_all(node):
            size = _message("Expr")()
            self._call(size, "size", loop.iter_range)
            self._guard(
                loop.iter_range, (size, "_>_", self._constant("int64_value", 0)), "`all` over nothing says nothing"
            )
        if node.call_expr.function == "_/_" and self._is_double(node):
            zero = self._constant("double_value", 0.0)
            self._guard(node, (node.call_expr.args[1], "_!=_", zero), "division by zero")

    def _guard(self, node: Any, test: tuple[Any, str, Any], why: str) -> None:
        """`node` becomes `test ? node : {}[why]`: looking up a key that is not there is an error that says `why`."""
        left, operator, right = test
        kept, holds, refusal, empty = (_message("Expr")() for _ in range(4))
        kept.CopyFrom(node)
        self._call(holds, operator, left, right)
        empty.id = self._new()
        empty.struct_expr.SetInParent()
        self._call(refusal, "_[_]", empty, self._constant("string_value", REFUSED + why))
        node.Clear()
        self._call(node, "_?_:_", holds, kept, refusal)

    def _call(self, node: Any, function: str, *args: Any) -> None:
        node.id = self._new()
        node.call_expr.function = function
        for arg in args:
            node.call_expr.args.add().CopyFrom(arg)

    def _constant(self, kind: str, value: Any) -> Any:
        node = _message("Expr")()
        node.id = self._new()
        setattr(node.const_expr, kind, value)
        return node

    def _new(self) -> int:
        self._newest += 1
        return self._newest

    def _is_double(self, node: Any) -> bool:
        """It gives a double, or (for JSON, whose numbers are doubles) what only the event tells."""
        kind = self._types.get(node.id)
        return kind is not None and (kind.HasField("dyn") or kind.primitive == _PRIMITIVE_DOUBLE)


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _children(node: Any) -> Iterator[Any]:
    if node.HasField("select_expr"):
        yield node.select_expr.operand
    elif node.HasField("call_expr"):
        if node.call_expr.HasField("target"):
            yield node.call_expr.target
        yield from node.call_expr.args
    elif node.HasField("list_expr"):
        yield from node.list_expr.elements
    elif node.HasField("struct_expr"):
        for entry in node.struct_expr.entries:
            yield entry.map_key
            yield entry.value
    elif node.HasField("comprehension_expr"):
        loop = node.comprehension_expr
        yield from (loop.iter_range, loop.accu_init, loop.loop_condition, loop.loop_step, loop.result)


def _keys(node: Any) -> Iterator[Any]:
    """The key expressions inside a chain of fields and keys."""
    if node.HasField("select_expr"):
        yield from _keys(node.select_expr.operand)
    elif node.call_expr.function == "_[_]":
        yield from _keys(node.call_expr.args[0])
        yield node.call_expr.args[1]


def _is_all(node: Any) -> bool:
    """The macro `all` unfolds to a loop that begins with true and joins with `&&`."""
    loop = node.comprehension_expr
    return bool(loop.accu_init.const_expr.bool_value) and loop.loop_step.call_expr.function == "_&&_"


def _step_text(step: Step) -> str:
    if step is None:
        return "[*]"
    return f".{step}" if step.isidentifier() else f'["{step}"]'


@cache
def _message(name: str) -> type[Any]:
    return _messages()[name]


@cache
def _messages() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="tree.proto", package="tree", syntax="proto2")
    for name, fields in _LAYOUT.items():
        message = file.message_type.add(name=name)
        for field, number, kind, inner in fields:
            label = 3 if inner.startswith("*") else 1
            made = message.field.add(name=field, number=number, label=label, type=kind)
            if inner:
                made.type_name = ".tree." + inner.removeprefix("*")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tree.{name}")) for name in _LAYOUT}
