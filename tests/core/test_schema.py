"""Data from outside against the catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.core.events import CATALOGUE
from daemon.core.schema import MOST_MISTAKES, check_data, json_schema

LANDED = {"source": "s", "path": "/a", "folder": "", "name": "a", "bytes": 1, "digest": "d"}
WINDOW = {
    "start": "2026-01-01T00:00:00Z",
    "end": "2026-01-01T01:00:00Z",
    "rows": 9,
    "first": 0,
    "last": 8,
    "closed_by": "rows",
}
DRIFT = {"model": "m", "monitor": "n", "stream": "s", "segment": "", "window": WINDOW}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param("data.landed", LANDED, id="flat"),
        pytest.param("drift.measured", DRIFT, id="nested"),
        pytest.param("drift.measured", {**DRIFT, "drifted_share": 1, "worst_column": None}, id="null and whole number"),
        pytest.param("drift.measured", {**DRIFT, "columns": {"age": {"score": 0.5, "drifted": True}}}, id="columns"),
        pytest.param("webhook.received", {"hook": "h", "type": "t", "sender": "s", "payload": [1, {}]}, id="anything"),
    ],
)
def test_data_as_the_catalogue_says_has_no_mistakes(kind: str, data: dict[str, Any]) -> None:
    """Absent and null fields are fine where they are not required; whole numbers are numbers."""
    assert check_data(kind, data) == []


@pytest.mark.parametrize(
    ("kind", "data", "mistakes"),
    [
        pytest.param("data.gone", {}, ["there is no event type data.gone"], id="type"),
        pytest.param("data.landed", [], ["data must be an object"], id="no object"),
        pytest.param("data.landed", {**LANDED, "path": None}, ["path is missing"], id="null is absent"),
        pytest.param("data.landed", {**LANDED, "bytes": True}, ["bytes must be a whole number of 64 bits"], id="bool"),
        pytest.param("data.landed", {**LANDED, "bytes": 2**63}, ["bytes must be a whole number of 64 bits"], id="big"),
        pytest.param("data.landed", {**LANDED, "digset": "d"}, ["unknown field digset; did you mean digest?"], id="name"),
        pytest.param(
            "drift.measured", {**DRIFT, "window": {**WINDOW, "start": "noon"}}, ["window.start must be a time in ISO 8601"],
            id="time",
        ),
        pytest.param(
            "drift.measured", {**DRIFT, "columns": {"age": {"score": "0.5"}}},
            ["columns.age.score must be a finite number"], id="column",
        ),
        pytest.param(
            "drift.measured", {**DRIFT, "drifted_share": float("nan")}, ["drifted_share must be a finite number"], id="nan"
        ),
        pytest.param("drift.measured", {**DRIFT, "columns": {"a": 1}}, ["columns must be an object of objects"], id="map"),
        pytest.param("drift.measured", {**DRIFT, "unset": {"a": 1}}, ["unset must be an object of strings"], id="texts"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place(kind: str, data: Any, mistakes: list[str]) -> None:
    """A sender reads what is wrong and where."""
    assert mistakes == check_data(kind, data)


def test_mistakes_are_bounded() -> None:
    """A sender cannot make an answer of any length."""
    assert len(check_data("data.landed", {str(number): 1 for number in range(1000)})) == MOST_MISTAKES


@pytest.mark.parametrize("kind", CATALOGUE)
def test_every_type_has_a_schema_that_names_its_fields(kind: str) -> None:
    """It is made of the same catalogue as everything else."""
    schema = json_schema(kind)
    fields = CATALOGUE[kind].fields
    assert [field.name for field in fields] == list(schema["properties"])
    assert [field.name for field in fields if field.required] == schema["required"]
    assert all(schema["properties"][field.name]["description"] for field in fields)
