"""Bodies of KServe's protocols to columns: the names that fields have, and what is refused, with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.core.errors import BadInput
from daemon.monitors.payloads.tensors import inputs, outputs

NAMES = ("age", "plan")


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    """A V2 tensor."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"instances": [{"age": 1, "plan": "a"}, {"age": 2, "plan": "b", "x": 3}]}, ()),
        ({"instances": [[1, "a"], [2, "b"]]}, NAMES),
        ({"inputs": [tensor("age", [2], [1, 2]), tensor("plan", [2, 1], ["a", "b"], "BYTES")]}, ()),
        ({"inputs": [tensor("age", [2, 1], [[1], [2]]), tensor("plan", [2], ["a", "b"], "BYTES")]}, NAMES),
        ({"inputs": [tensor("input-0", [2, 2], [1, "a", 2, "b"], "BYTES")]}, NAMES),
        ({"inputs": [tensor("input-0", [2, 2], [[1, "a"], [2, "b"]], "BYTES")]}, NAMES),
    ],
)
def test_all_ways_to_write_inputs_give_the_same_columns(body: Any, names: tuple[str, ...]) -> None:
    """Objects, lists, a tensor for each feature or one for all, flat or nested."""
    table = inputs(body, NAMES, names)

    assert (table.rows, table.columns) == (2, {"age": [1, 2], "plan": ["a", "b"]})


@pytest.mark.parametrize("kind", ["BOOL", "INT8", "INT64", "UINT16", "FP16", "FP64", "BYTES"])
def test_every_datatype_is_read(kind: str) -> None:
    """JSON says what the values are."""
    assert inputs({"inputs": [tensor("age", [1], [True], kind)]}, ("age",), ()).columns == {"age": [True]}


def test_inputs_reach_into_what_is_nested() -> None:
    """Dots lead into objects; a number behind a dot is a column of a tensor."""
    v1 = inputs({"instances": [{"geo": {"country": "NO"}}]}, ("geo.country",), ())
    v2 = inputs(
        {"inputs": [tensor("x", [2, 3], [0, 1, 2, 3, 4, 5]), tensor("y", [2], [8, 9])]}, ("x.1", "x.3", "y"), ()
    )

    assert v1.columns == {"geo.country": ["NO"]}
    assert v2.columns == {"x.1": [1, 4], "y": [8, 9]}


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        ({"predictions": [0, 1]}, {"prediction": [0, 1]}),
        ({"predictions": [[0], [1]]}, {"prediction": [0, 1], "prediction.0": [0, 1]}),
        ({"predictions": [[0.9, 0.1], [0.4, 0.6]]}, {"prediction.0": [0.9, 0.4], "prediction.1": [0.1, 0.6]}),
        ({"predictions": [{"label": "a"}, {"label": "b"}]}, {"prediction.label": ["a", "b"]}),
        (
            {"outputs": [tensor("label", [2], ["a", "b"])]},
            {"prediction": ["a", "b"], "prediction.0": ["a", "b"], "prediction.label": ["a", "b"]},
        ),
        (
            {"model_version": "7", "outputs": [tensor("label", [2, 1], ["a", "b"]), tensor("p", [2, 2], [1, 2, 3, 4])]},
            {
                "prediction": ["a", "b"], "prediction.label": ["a", "b"], "prediction.p.1": [2, 4],
                "prediction.0": ["a", "b"], "model_version": ["7", "7"],
            },
        ),
    ],
)  # fmt: skip
def test_what_outputs_are_called(body: Any, columns: dict[str, list[Any]]) -> None:
    """Scalars, class scores, objects, tensors; the first tensor also goes without its name."""
    wanted = ("prediction", "prediction.0", "prediction.1", "prediction.label", "prediction.p.1", "model_version")

    table = outputs(body, wanted)

    assert table.rows == 2
    assert {name: column for name, column in table.columns.items() if column != [None, None]} == columns


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": []}, "neither instances"),
        ([1], "neither instances"),
        ({"instances": []}, "an empty one"),
        ({"instances": [[1], {"a": 1}]}, "different kinds"),
        ({"instances": [[1, 2], [3]]}, "1 or 2 columns, kserve.inputs names 2"),
        ({"instances": [1, 2]}, "1 columns, kserve.inputs names 2"),
        ({"inputs": []}, "empty"),
        ({"inputs": {"age": [1]}}, "neither instances"),
        ({"inputs": [tensor("x", [2, 2], [1, 2, 3])]}, r"3 values, its shape \[2, 2\] says 4"),
        ({"inputs": [tensor("x", [2, 3], [1, 2, 3, 4, 5, 6])]}, "3 columns, kserve.inputs names 2"),
        ({"inputs": [tensor("x", [2], [1, 2]), tensor("y", [1], [1])]}, "different numbers of rows: 1, 2"),
        ({"inputs": [tensor("x", [], [1])]}, "no shape"),
        ({"inputs": [tensor("x", [-1], [1])]}, "no shape"),
        ({"inputs": [tensor("x", [0, 5], [])]}, "1 to"),
        ({"inputs": [tensor("x", [1, 0], [])]}, "1 to"),
        ({"inputs": [tensor("x", [1], [1], "FP128")]}, "unknown datatype"),
        ({"inputs": [tensor("x", [2, 1], [[1], 2])]}, "nested in part"),
        (
            {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]},
            "binary",
        ),
    ],
)
def test_what_is_no_input_says_why(body: Any, reason: str) -> None:
    """A reason for whoever reads the dead letter."""
    with pytest.raises(BadInput, match=reason):
        inputs(body, NAMES, NAMES)


def test_rows_without_names_ask_for_them() -> None:
    """Nobody can guess what the third number is."""
    with pytest.raises(BadInput, match=r"kserve\.inputs"):
        inputs({"instances": [[1, 2]]}, NAMES, ())


@pytest.mark.parametrize(
    "body", [{"error": "no such model"}, {"predictions": "x"}, {"predictions": [[1, 2], [3]]}, None]
)
def test_what_is_no_output_says_why(body: Any) -> None:
    """An answer of another kind is no prediction."""
    with pytest.raises(BadInput, match="predictions"):
        outputs(body, ("prediction",))
