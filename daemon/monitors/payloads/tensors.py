"""Bodies of KServe's inference protocols, V1 and V2 -> columns by name. Pure functions.

V1   {"instances": [row, …]} -> {"predictions": [row, …]}; a row is an object, a list or a scalar
V2   {"inputs": [tensor, …]} -> {"outputs": [tensor, …]}; a tensor is {name, shape, datatype, data}

(KServe's V1 protocol and the Open Inference Protocol, github.com/kserve/open-inference-protocol.) Inputs are called as the
model calls them, or by position; outputs `prediction`, `prediction.NAME`, `prediction.0`, …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from daemon.core.errors import BadInput
from daemon.monitors.records import dig
from daemon.payloadparts import MODEL, PREDICTION

MOST_ROWS = 100_000
"""Most rows of one request."""
DATATYPES = frozenset(
    {
        "BOOL",
        "BYTES",
        "BF16",
        "FP16",
        "FP32",
        "FP64",
        *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    }
)
_BINARY = "tensors in binary (the binary data extension) cannot be read; have them sent and answered as JSON"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a body, with the columns that were wanted; a column that the body does not have is left out."""

    rows: int
    columns: dict[str, list[Any]]


def inputs(body: Any, wanted: Sequence[str], names: Sequence[str]) -> Table:
    """The rows of a request. `names`: of its columns, where they are told by position only. Raises BadInput."""
    if isinstance(body, Mapping):
        if "instances" in body:
            return _instances(body["instances"], wanted, names)
        if isinstance(body.get("inputs"), list):
            return _named(_tensors(body["inputs"], "inputs"), wanted, names)
    raise BadInput("the request has neither instances (V1) nor a list of inputs (V2)")


def outputs(body: Any, wanted: Sequence[str]) -> Table:
    """The rows of a response. Raises BadInput."""
    if isinstance(body, Mapping):
        if "predictions" in body:
            return _predictions(body["predictions"], wanted)
        if isinstance(body.get("outputs"), list):
            return _called(_tensors(body["outputs"], "outputs"), wanted, body)
    raise BadInput("the response has neither predictions (V1) nor a list of outputs (V2)")


# -- V1


def _instances(rows: Any, wanted: Sequence[str], names: Sequence[str]) -> Table:
    kind = _kind_of(rows, "instances")
    if kind is dict:
        return Table(len(rows), {name: _field(rows, name) for name in wanted})
    if not names:
        raise BadInput("instances have no names; say in kserve.inputs what their columns are called, in order")
    if kind is not list:
        rows = [[row] for row in rows]
    width = len(names)
    if any(len(row) != width for row in rows):
        raise BadInput(f"instances have {_widths(rows)} columns, kserve.inputs names {width}")
    places = {name: place for place, name in enumerate(names)}
    return Table(len(rows), {name: [row[places[name]] for row in rows] for name in wanted if name in places})


def _predictions(rows: Any, wanted: Sequence[str]) -> Table:
    kind = _kind_of(rows, "predictions")
    if kind is dict:
        return Table(
            len(rows), {name: _field(rows, rest) for name in wanted if (rest := after(name, PREDICTION)) is not None}
        )
    if kind is not list:
        return Table(len(rows), {PREDICTION: list(rows)} if PREDICTION in wanted else {})
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        raise BadInput(f"predictions have {_widths(rows)} columns")
    places = places_of_list(width)
    return Table(len(rows), {name: [row[places[name]] for row in rows] for name in wanted if name in places})


def places_of_list(width: int) -> dict[str, int]:
    """What the values of a prediction that is a list are called, and where each is."""
    places = {f"{PREDICTION}.{place}": place for place in range(width)}
    return {**places, PREDICTION: 0} if width == 1 else places


def _kind_of(rows: Any, what: str) -> type:
    """Of which type the rows are: dict, list, or object for scalars."""
    if not isinstance(rows, list) or not rows:
        raise BadInput(f"{what} is no list, or an empty one")
    if len(rows) > MOST_ROWS:
        raise BadInput(f"{what} has {len(rows)} rows; at most {MOST_ROWS} are taken")
    kinds = {type(row) if type(row) in {dict, list} else object for row in rows}
    if len(kinds) > 1:
        raise BadInput(f"{what} has rows of different kinds")
    return kinds.pop()


def _field(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [dig(row, name) for row in rows] if "." in name else [row.get(name) for row in rows]


def _widths(rows: Sequence[Sequence[Any]]) -> str:
    return " or ".join(map(str, sorted({len(row) for row in rows})[:3]))


def after(name: str, above: str) -> str | None:
    """What follows `above.` in a name."""
    return name[len(above) + 1 :] if name.startswith(f"{above}.") else None


# -- V2


class Shape(NamedTuple):
    """What tells tensors apart: name, and columns."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of rows, flat: the value of row r in column c is data[r * width + c]."""

    name: str
    rows: int
    width: int
    data: Sequence[Any]

    @property
    def shape(self) -> Shape:
        return Shape(self.name, self.width)

    def column(self, place: int) -> list[Any]:
        return list(self.data[place :: self.width])


def _tensors(told: Sequence[Any], what: str) -> list[_Tensor]:
    if not told:
        raise BadInput(f"{what} is empty")
    made = [_tensor(one, f"{what}[{number}]") for number, one in enumerate(told)]
    counts = {tensor.rows for tensor in made}
    if len(counts) > 1:
        raise BadInput(f"the tensors of {what} have different numbers of rows: {', '.join(map(str, sorted(counts)))}")
    return made


def _tensor(told: Any, where: str) -> _Tensor:
    if not isinstance(told, Mapping) or not isinstance(told.get("name"), str):
        raise BadInput(f"{where} is no tensor with a name")
    shape, data = told.get("shape"), told.get("data")
    if told.get("datatype") not in DATATYPES:
        raise BadInput(f"{where} has an unknown datatype; known are {', '.join(sorted(DATATYPES))}")
    if data is None and "binary_data_size" in (told.get("parameters") or {}):
        raise BadInput(_BINARY)
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise BadInput(f"{where} has no shape of at least one dimension")
    if not isinstance(data, list):
        raise BadInput(f"{where} has no list of data")
    for _ in shape[1:]:  # the data may be nested, as its shape says, or flat
        if not data or not isinstance(data[0], list):
            break
        if not all(isinstance(part, list) for part in data):
            raise BadInput(f"{where} has data that is nested in part only")
        data = list(chain.from_iterable(data))
    rows, width = shape[0], prod(shape[1:])
    if len(data) != rows * width:
        raise BadInput(f"{where} has {len(data)} values, its shape {shape} says {rows * width}")
    if not 0 < rows <= MOST_ROWS or not width:
        raise BadInput(f"{where} has the shape {shape}; 1 to {MOST_ROWS} rows are taken")
    return _Tensor(told["name"], rows, width, data)


def _named(tensors: Sequence[_Tensor], wanted: Sequence[str], names: Sequence[str]) -> Table:
    """Tensors of a request: one for each feature, or one for all of them."""
    places = input_places([tensor.shape for tensor in tensors], wanted, names)
    return Table(tensors[0].rows, {name: tensors[at].column(place) for name, (at, place) in places.items()})


def _called(tensors: Sequence[_Tensor], wanted: Sequence[str], body: Mapping[str, Any]) -> Table:
    """Tensors of a response, under `prediction`; the first one also without its name."""
    rows = tensors[0].rows
    places = output_places([tensor.shape for tensor in tensors], wanted)
    columns: dict[str, list[Any]] = {}
    for name in wanted:
        if name in MODEL:
            columns |= {name: [body[name]] * rows} if name in body else {}
        elif name in places:
            at, place = places[name]
            columns[name] = tensors[at].column(place)
    return Table(rows, columns)


def input_places(tensors: Sequence[Shape], wanted: Sequence[str], names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """In which tensor of a request, and in which of its columns, the wanted ones are. Raises BadInput."""
    first = tensors[0]
    if names and len(tensors) == 1:
        if first.width != len(names):
            raise BadInput(f"tensor {first.name} has {first.width} columns, kserve.inputs names {len(names)}")
        places = {name: (0, place) for place, name in enumerate(names)}
        return {name: places[name] for name in wanted if name in places}
    found = {name: _found(tensors, name) for name in wanted}
    return {name: place for name, place in found.items() if place is not None}


def output_places(tensors: Sequence[Shape], wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The same of a response."""
    first = tensors[0]
    places: dict[str, tuple[int, int]] = {}
    for name in wanted:
        rest = after(name, PREDICTION)
        found = None if rest is None else _found(tensors, rest)
        if found is None:
            found = _found([first], first.name if rest is None else f"{first.name}.{rest}")
        if found is not None and name not in MODEL:
            places[name] = found
    return places


def _found(tensors: Sequence[Shape], name: str) -> tuple[int, int] | None:
    """Where the column NAME (of a tensor of one column) or NAME.3 is."""
    for at, tensor in enumerate(tensors):
        if tensor.width == 1 and tensor.name == name:
            return at, 0
        rest = after(name, tensor.name)
        if rest is not None and rest.isdecimal() and int(rest) < tensor.width:
            return at, int(rest)
    return None
