"""Requests taken apart and put together: every form of MLflow's scoring protocol."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import BadInput
from daemon.gateway.rows import MAX_ROWS, parse


def body(**content: Any) -> bytes:
    """A request."""
    return orjson.dumps(content)


SPLIT = {"columns": ["id", "x"], "index": [7, 8, 9], "data": [["a", 1], ["b", 2], ["c", 3]]}
RECORDS = [{"id": "a", "x": 1}, {"id": "b", "x": 2}, {"id": "c", "x": 3}]


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("dataframe_split", SPLIT, {"columns": ["x"], "index": [9, 7], "data": [[3], [1]]}),
        ("dataframe_records", RECORDS, [{"x": 3}, {"x": 1}]),
        ("instances", RECORDS, [{"x": 3}, {"x": 1}]),
        ("inputs", RECORDS, [{"x": 3}, {"x": 1}]),
        ("inputs", {"id": ["a", "b", "c"], "x": [1, 2, 3]}, {"x": [3, 1]}),
    ],
)
def test_an_arm_gets_its_rows_without_what_is_not_the_models(form: str, data: Any, expected: Any) -> None:
    """Every form is cut to the rows of an arm, in the order asked for, without the withheld fields, parameters kept."""
    payload = parse(body(**{form: data, "params": {"t": 1}}))

    assert list(payload.rows) == RECORDS
    assert orjson.loads(payload.part([2, 0], {"id", "unknown"})) == {form: expected, "params": {"t": 1}}


def test_a_request_for_one_arm_passes_as_it_came() -> None:
    """When nothing is cut the model gets the very bytes that the client sent, NaN included."""
    text = b'{ "dataframe_records": [{"x": NaN}] }'
    payload = parse(text)

    assert payload.part([0], {"id"}) is text
    assert math.isnan(payload.rows[0]["x"])


def test_records_without_names_get_one() -> None:
    """Instances that are vectors are logged under a name, and split like others."""
    payload = parse(body(instances=[[1, 2], [3, 4]]))

    assert payload.rows == ({"instance": [1, 2]}, {"instance": [3, 4]})
    assert orjson.loads(payload.part([1], ())) == {"instances": [[3, 4]]}


def test_inputs_of_no_common_length_are_one_record() -> None:
    """Named tensors that do not share their length cannot be split: the request is one record."""
    payload = parse(body(inputs={"x": [1, 2], "y": [1]}))

    assert (len(payload.rows), payload.whole) == (1, True)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"1", b"{}", b"{", b'{"messages": []}', b"\xff",
        body(instances=[1], inputs=[1]), body(instances=[]), body(instances={"x": 1}), body(dataframe_records=[1]),
        body(dataframe_records={}), body(dataframe_split=[]), body(dataframe_split={"columns": ["x"]}),
        body(dataframe_split={"columns": ["x", "y"], "data": [[1]]}),
        body(dataframe_split={"columns": ["x"], "data": [[1]], "index": []}),
        body(instances=[0] * (MAX_ROWS + 1)), b'{"instances": [NaN, "\\ud800"]}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_bad_input(text: bytes) -> None:
    """Whatever is not the protocol is BadInput with a reason, never another exception."""
    with pytest.raises(BadInput, match=r"."):
        parse(text)


@given(st.binary() | st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "columns", "data", "index"]), inner,
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_a_request_or_bad_input(text: bytes) -> None:
    """Nothing that a client sends raises anything but BadInput, and what is accepted can be sent on."""
    try:
        payload = parse(text)
    except BadInput:
        return
    json.loads(payload.part(range(len(payload.rows)), {"columns"}))
