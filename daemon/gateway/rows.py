"""Requests in MLflow's scoring protocol, taken apart into records and put together for each arm."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from daemon.core.errors import BadInput

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
MAX_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: `rows` are its records, each by field name."""

    form: str
    body: bytes
    """As it came."""
    content: dict[str, Any]
    """As it was read."""
    rows: tuple[dict[str, Any], ...]
    whole: bool = False
    """It cannot be split: `inputs` that are no list and no columns of one length. It counts as one record."""

    def part(self, indexes: Sequence[int], withheld: Collection[str]) -> bytes:
        """The request for one arm: these rows, without the fields that the model shall not see."""
        withheld = frozenset(withheld) & set().union(*(self.rows[index].keys() for index in indexes))
        if not withheld and len(indexes) == len(self.rows):
            return self.body
        rest = {key: value for key, value in self.content.items() if key != self.form}
        return orjson.dumps({self.form: self._cut(indexes, withheld), **rest}, option=orjson.OPT_NON_STR_KEYS)

    def _cut(self, indexes: Sequence[int], withheld: Collection[str]) -> Any:
        data = self.content[self.form]
        if self.whole:
            return (
                {key: value for key, value in data.items() if key not in withheld} if isinstance(data, dict) else data
            )
        if self.form == "dataframe_split":
            columns = data["columns"]
            places = [place for place, name in enumerate(columns) if str(name) not in withheld]
            cut = {
                "columns": [columns[place] for place in places],
                "data": [[data["data"][index][place] for place in places] for index in indexes],
            }
            if "index" in data:
                cut["index"] = [data["index"][index] for index in indexes]
            return cut
        if isinstance(data, dict):
            return {key: [values[index] for index in indexes] for key, values in data.items() if key not in withheld}
        kept = (data[index] for index in indexes)
        return [
            {key: value for key, value in row.items() if key not in withheld} if isinstance(row, dict) else row
            for row in kept
        ]


def loads(text: bytes) -> Any:
    """JSON, also with the NaN and Infinity that Python programs write. Raises ValueError, also for what could be read
    but not be written again (half of a surrogate pair, numbers of more than 64 bits).
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(text)
        orjson.dumps(value)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return value


def parse(body: bytes) -> Payload:
    """A request's records. BadInput says what is wrong, in MLflow's words where it has some."""
    try:
        content = loads(body)
    except ValueError as error:
        raise BadInput(f"the body is no JSON: {error}") from error
    forms = [form for form in FORMS if isinstance(content, dict) and form in content]
    if len(forms) != 1:
        raise BadInput(f"the input must be a JSON dictionary with exactly one of the input fields {', '.join(FORMS)}")
    form = forms[0]
    rows = _ROWS[form](content[form])
    if rows is None:
        return Payload(form, body, content, (_named(content[form], "inputs"),), whole=True)
    if not rows:
        raise BadInput(f"{form} holds no record")
    if len(rows) > MAX_ROWS:
        raise BadInput(f"{len(rows)} records in one request; at most {MAX_ROWS}")
    return Payload(form, body, content, tuple(rows))


def _split_rows(data: Any) -> list[dict[str, Any]]:
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("columns"), list)
        or not isinstance(data.get("data"), list)
    ):
        raise BadInput("dataframe_split is a dictionary with columns and data")
    names = [str(name) for name in data["columns"]]
    if not all(isinstance(row, list) and len(row) == len(names) for row in data["data"]):
        raise BadInput(f"each row of dataframe_split has as many values as there are columns ({len(names)})")
    if "index" in data and (not isinstance(data["index"], list) or len(data["index"]) != len(data["data"])):
        raise BadInput("the index of dataframe_split has one entry for each row")
    return [dict(zip(names, row, strict=True)) for row in data["data"]]


def _record_rows(data: Any) -> list[dict[str, Any]]:
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise BadInput("dataframe_records is a list of dictionaries")
    return data


def _instance_rows(data: Any) -> list[dict[str, Any]]:
    if not isinstance(data, list):
        raise BadInput("instances is a list, one entry for each record")
    return [_named(row, "instance") for row in data]


def _input_rows(data: Any) -> list[dict[str, Any]] | None:
    if isinstance(data, list):
        return [_named(row, "input") for row in data]
    if not isinstance(data, dict) or not data or not all(isinstance(values, list) for values in data.values()):
        return None
    lengths = {len(values) for values in data.values()}
    if len(lengths) != 1:
        return None
    return [{key: values[index] for key, values in data.items()} for index in range(lengths.pop())]


def _named(value: Any, name: str) -> dict[str, Any]:
    """A record's fields by name, also when the request has none."""
    return value if isinstance(value, dict) else {name: value}


_ROWS = {
    "dataframe_split": _split_rows,
    "dataframe_records": _record_rows,
    "instances": _instance_rows,
    "inputs": _input_rows,
}
