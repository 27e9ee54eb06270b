"""Conditions and templates: three truth values over everything that an event can hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import BadInput
from daemon.core.events import CATALOGUE, Event
from daemon.core.expressions import (
    Activation,
    Condition,
    Template,
    Truth,
    activation,
    compile_condition,
    compile_template,
    looks_like_template,
)
from daemon.core.fields import Field, Kind

DRIFT = "drift.measured"
NOW = "2026-01-05T12:00:00Z"


def values(kind: str, /, **data: Any) -> Activation:
    """An event of this type with this data, as expressions read it."""
    return activation(Event("1", "test", kind, "churn", datetime(2026, 1, 5, tzinfo=UTC), data))


def condition(kind: str, text: str) -> Condition:
    """A condition that must compile."""
    made = compile_condition(kind, text)
    assert isinstance(made, Condition), [str(mistake) for mistake in made]
    return made


def template(kind: str, text: str) -> Template:
    """A template that must compile."""
    made = compile_template(kind, text)
    assert isinstance(made, Template), [str(mistake) for mistake in made]
    return made


def mistake(kind: str, text: str) -> str:
    """The mistakes of a condition, as `line:column: message`."""
    made = compile_condition(kind, text)
    assert isinstance(made, tuple)
    return "\n".join(f"{one.line}:{one.column}: {one.message}" for one in made)


PRESENT: dict[Kind, tuple[Any, str, str]] = {
    # kind: a value, a comparison that is true for it, and one that is false
    Kind.STRING: ("abc", '{} == "abc"', '{} != "abc"'),
    Kind.INT: (7, "{} >= 7", "{} < 7"),
    Kind.DOUBLE: (0.5, "{} == 0.5", "{} > 1"),
    Kind.BOOL: (True, "{}", "{} == false"),
    Kind.TIME: (NOW, f'{{}} == timestamp("{NOW}")', f'{{}} > timestamp("{NOW}")'),
    Kind.STRINGS: (["a", "b"], '"a" in {}', "size({}) == 0"),
    Kind.INTS: ([1, 2], "{}.exists(x, x == 2)", "{}.all(x, x == 2)"),
    Kind.TEXTS: ({"k": "v"}, '{}["k"] == "v"', '"x" in {}'),
    Kind.JSON: ({"a": 1}, "{}.a == 1", "{}.a > 1.5"),
}


def leaves(fields: tuple[Field, ...], path: tuple[str, ...] = (), text: str = "event") -> Iterator[Any]:
    """Every field that holds a value: its path in the data, its text in a condition, and its kind."""
    for field in fields:
        here = f"{text}.{field.name}"
        if field.kind is Kind.RECORD:
            yield from leaves(field.fields, (*path, field.name), here)
        elif field.kind is Kind.RECORDS:
            yield from leaves(field.fields, (*path, field.name, "k"), f'{here}["k"]')
        else:
            yield (*path, field.name), here, field.kind


EVERY = [
    pytest.param(kind.name, *leaf, id=f"{kind.name}-{'.'.join(leaf[0])}")
    for kind in CATALOGUE.values()
    for leaf in leaves(kind.fields)
]


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Data in which only the value at `path` is there."""
    for step in reversed(path):
        value = {step: value}
    assert isinstance(value, dict)
    return value


def truths(kind: str, text: str, data: dict[str, Any]) -> list[str]:
    """How a condition comes out alone, negated, and joined with true and with false."""
    forms = ("({})", "!({})", "({}) && true", "({}) && false", "({}) || true", "({}) || false", "true && ({})")
    return [condition(kind, form.format(text)).evaluate(values(kind, **data)).truth.value for form in forms]


@pytest.mark.parametrize(("kind", "path", "text", "of"), EVERY)
def test_a_condition_on_an_absent_field_is_unknown_wherever_it_stands(
    kind: str, path: tuple[str, ...], text: str, of: Kind
) -> None:
    """Absent or null, every field of every type is unknown, alone and negated; only a deciding other side decides."""
    _, true, false = PRESENT[of]
    unknown = ["unknown", "unknown", "unknown", "false", "true", "unknown", "unknown"]
    for written in (true, false):
        for data in ({}, nested(path, None), nested(path[:-1], {})):
            assert unknown == truths(kind, written.format(text), data)


@pytest.mark.parametrize(("kind", "path", "text", "of"), EVERY)
def test_a_condition_on_a_present_field_is_true_or_false(kind: str, path: tuple[str, ...], text: str, of: Kind) -> None:
    """Present, every field of every type gives what its value says."""
    value, true, false = PRESENT[of]
    data = nested(path, value)

    assert truths(kind, true.format(text), data) == ["true", "false", "true", "false", "true", "true", "true"]
    assert truths(kind, false.format(text), data) == ["false", "true", "false", "false", "true", "false", "false"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("kind", "path", "text", "of"), [case for case in EVERY if case.values[3] in {Kind.DOUBLE, Kind.JSON}]
)
def test_nan_and_infinities_count_as_absent(
    kind: str, path: tuple[str, ...], text: str, of: Kind, number: float
) -> None:
    """A number that is none is unknown at any depth, also under equality and inequality."""
    value = number if of is Kind.DOUBLE else {"a": number}
    for operator in ("==", "!=", "<", ">="):
        written = f"{text}{'' if of is Kind.DOUBLE else '.a'} {operator} 0.5"

        assert Truth.UNKNOWN is condition(kind, written).evaluate(values(kind, **nested(path, value))).truth


ATOMS = {"event.drifted_columns == 2": True, "event.drifted_columns == 3": False, "event.worst_effect > 0.1": None}


def kleene(tree: Any) -> bool | None:
    """Three-valued logic, spelled out."""
    if isinstance(tree, str):
        return ATOMS[tree]
    operator, *sides = tree
    found = [kleene(side) for side in sides]
    if operator == "!":
        return None if found[0] is None else not found[0]
    decides = operator == "||"
    if decides in found:
        return decides
    return None if None in found else not decides


def written(tree: Any) -> str:
    """The tree as an expression."""
    if isinstance(tree, str):
        return f"({tree})"
    if tree[0] == "!":
        return f"!{written(tree[1])}"
    return f"({written(tree[1])} {tree[0]} {written(tree[2])})"


TREES = st.recursive(
    st.sampled_from(sorted(ATOMS)),
    lambda inner: (
        st.tuples(st.sampled_from(["&&", "||"]), inner, inner) | st.tuples(st.just("!"), inner)  # type: ignore[no-any-return]
    ),
    max_leaves=8,
)


@given(TREES)
def test_and_or_and_not_keep_three_truth_values(tree: Any) -> None:
    """Any combination of true, false and unknown conditions comes out as Kleene's tables say."""
    expected = {True: Truth.TRUE, False: Truth.FALSE, None: Truth.UNKNOWN}[kleene(tree)]

    assert expected is condition(DRIFT, written(tree)).evaluate(values(DRIFT, drifted_columns=2)).truth


COLUMNS = {"age": {"score": 0.3, "drifted": True}, "city": {"score": None, "drifted": False}}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ('event.columns["age"].score > 0.1', "true"),
        ('event.columns["city"].score > 0.1', "unknown"),
        ('event.columns["zip"].score > 0.1', "unknown"),
        ('event.columns["zip"].score != 0.1', "unknown"),
        ("event.columns.age.score > 0.1", "true"),
        ("event.columns.exists(c, event.columns[c].score > 0.1)", "true"),
        ("event.columns.exists(c, event.columns[c].score > 0.5)", "unknown"),
        ("event.columns.all(c, event.columns[c].score > 0.5)", "false"),
        ("event.columns.all(c, event.columns[c].score > 0.1)", "unknown"),
        ("event.columns.exists(c, event.columns[c].drifted)", "true"),
        ("event.columns.exists_one(c, event.columns[c].drifted)", "true"),
        ("event.columns.filter(c, event.columns[c].drifted).size() == 1", "true"),
        ("event.columns.filter(c, event.columns[c].score > 0.1).size() == 1", "unknown"),
        ("size(event.columns) == 2", "true"),
        ('"age" in event.columns', "true"),
        ('"zip" in event.columns', "false"),
        ("event.columns[event.worst_column].drifted", "true"),
        ('has(event.columns["city"].score)', "false"),
        ("has(event.columns.age)", "true"),
    ],
)
def test_reading_maps_of_measurements(text: str, truth: str) -> None:
    """A key that is missing, or a value in it, is unknown; loops stay three-valued over their elements."""
    assert truth == condition(DRIFT, text).evaluate(values(DRIFT, columns=COLUMNS, worst_column="age")).truth.value


@pytest.mark.parametrize(
    "text",
    [
        "event.columns.all(c, event.columns[c].drifted)",
        "event.columns.exists(c, event.columns[c].drifted)",
        "event.columns.exists_one(c, event.columns[c].drifted)",
        "event.columns.filter(c, event.columns[c].drifted).size() == 0",
        "size(event.columns) == 0",
        '!("age" in event.columns)',
    ],
)
def test_an_empty_map_of_measurements_says_nothing(text: str) -> None:
    """When nothing was measured, nothing about it is known: neither `all` nor `exists`, nor its size."""
    result = condition(DRIFT, text).evaluate(values(DRIFT, columns={}))

    assert (result.truth, result.reason) == (Truth.UNKNOWN, "event.columns is empty: nothing was measured")


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ('event.failures.all(f, f.startsWith("age"))', "unknown"),
        ('!event.failures.all(f, f.startsWith("age"))', "unknown"),
        ('event.failures.exists(f, f.startsWith("age"))', "false"),
        ("size(event.failures) == 0", "true"),
        ('size(event.failures) > 0 && event.failures.all(f, f.startsWith("age"))', "false"),
        ('[].all(x, x == "a")', "unknown"),
        ('event.failures.filter(f, true).all(f, f == "a")', "unknown"),
    ],
)
def test_all_over_nothing_is_never_true(text: str, truth: str) -> None:
    """`all` over an empty list is unknown instead of vacuously true; an empty list that was told is no news to `exists`."""
    assert truth == condition("quality.measured", text).evaluate(values("quality.measured", failures=[])).truth.value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("event.drifted_share / 0 > 1", "division by zero"),
        ("event.drifted_share / (event.drifted_share - 0.5) > 1", "division by zero"),
        ("!(event.drifted_share / 0 > 1)", "division by zero"),
        ("event.window.rows / 0 > 1", "divide by zero"),
    ],
)
def test_dividing_by_zero_is_unknown(text: str, reason: str) -> None:
    """Neither an infinity nor an error comes of it, for doubles as for whole numbers."""
    result = condition(DRIFT, text).evaluate(values(DRIFT, drifted_share=0.5, window={"rows": 5}))

    assert (Truth.UNKNOWN, reason) == (result.truth, result.reason)


def test_the_reason_of_an_unknown_names_what_is_absent_and_why() -> None:
    """The reason comes from the event where it gives one, and names every absent field that was read."""
    told = values(
        DRIFT,
        columns={"age": {}},
        unset={"estimated_loss_ratio": "no scores in this stream", "columns.age.score": "fewer than 50 values"},
    )
    text = 'event.estimated_loss_ratio > 1.2 && event.columns["age"].score > 0.1 && event.worst_effect > 0.1'

    expected = (
        "event.estimated_loss_ratio is absent: no scores in this stream; "
        'event.columns["age"].score is absent: fewer than 50 values; event.worst_effect is absent'
    )
    assert expected == condition(DRIFT, text).evaluate(told).reason


def test_operands_show_what_was_read() -> None:
    """For an explanation: every value that a condition reads, each key of a loop for itself, absent ones as None."""
    made = condition(DRIFT, "event.drifted_columns >= 1 && event.columns.exists(c, event.columns[c].score > 0.1)")

    shown = [
        (operand.text, operand.value) for operand in made.operands(values(DRIFT, drifted_columns=1, columns=COLUMNS))
    ]
    assert shown == [
        ("event.drifted_columns", 1),
        ('event.columns["age"].score', 0.3),
        ('event.columns["city"].score', None),
    ]


@pytest.mark.parametrize(
    ("text", "number", "truth"),
    [
        ("event.drifted_share > 1", 1.5, "true"),
        ("event.drifted_share >= -1", -1.0, "true"),
        ("1 <= event.drifted_share", 1.0, "true"),
        ("event.drifted_share == 2", 2.0, "true"),
        ("event.drifted_share * 2 + 1 > 3", 1.5, "true"),
        ("event.drifted_share > 1", 1, "false"),
    ],
)
def test_whole_numbers_beside_doubles(text: str, number: float, truth: str) -> None:
    """`> 1` on a double means what it says, and a whole number in the data is a double there."""
    assert truth == condition(DRIFT, text).evaluate(values(DRIFT, drifted_share=number)).truth.value


def test_numbers_in_json_are_doubles() -> None:
    """A sender may write 3 or 3.0: arithmetic and comparisons do not care."""
    made = condition("webhook.received", "event.payload.n + 1 > 3 && event.payload.n == 3")

    for number in (3, 3.0):
        assert Truth.TRUE is made.evaluate(values("webhook.received", payload={"n": number})).truth


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event.drifted_shares > 0.1", "1:7: unknown field event.drifted_shares of drift.measured; did you mean drifted_share?"),
        ("true &&\n event.drifted_shares > 1", "2:8: unknown field event.drifted_shares of drift.measured; did you mean drifted_share?"),
        ("event.window.strat == event.window.end", "1:14: unknown field event.window.strat of drift.measured; did you mean start?"),
        ('event.columns["a"].scor > 1', "1:20: unknown field event.columns[...].scor of drift.measured; did you mean score?"),
        ("event.loss_ratio > 1.0", "1:7: unknown field event.loss_ratio of drift.measured; did you mean estimated_loss_ratio?"),
        ("event.drifted_columns >= 0.5", "1:23: int >= double: write the whole number with .0, or wrap the int in double( )"),
        ("event.drifted_share > 1 && event.worst_column > 1", "1:47: string > int: the types do not fit"),
        ("event.drifted_share == null", "1:21: nothing is compared with null: write has(event.x) to ask whether a field is there"),
        ("event.drifted_share in [1, 2]", "1:21: double in list(int): write the whole numbers with .0"),
        ("event.drifted_columns", "1:1: a condition must be true or false; this gives an int; compare it with something"),
        ("event.drifted_columns = 1", "1:23: syntax error: write == to compare"),
        ("event.drifted_columns > 1 and true", "1:27: syntax error: write && instead of and"),
        ("not event.prediction_drifted", "1:5: syntax error: write ! instead of not"),
        ("event.drifted_columns >", "1:24: syntax error: the expression ends too early"),
        ("sise(event.columns) > 1", "1:1: unknown name sise; did you mean size?"),
        ("evnt.drifted_columns > 1", "1:1: unknown name evnt; did you mean event?"),
        ("streak.start == event.window.start", "1:1: streak is known in the steps of a rule only"),
        ("event == event", "1:1: name a field of event: event alone has no value"),
        ("[1].exists(event, event > 1)", "1:11: a loop variable cannot be called event or streak"),
        ('event["window"].rows > 1', "1:6: event has no [ ]: only maps and lists do"),
    ],
)  # fmt: skip
def test_mistakes_say_where_and_what_was_meant(text: str, expected: str) -> None:
    """A misspelt field, a wrong type or a slip of syntax has its line and column and a suggestion."""
    assert expected == mistake(DRIFT, text)


def test_every_mistake_of_an_expression_is_told() -> None:
    """Two misspelt fields are two mistakes."""
    expected = (
        "1:7: unknown field event.drifted_shares of drift.measured; did you mean drifted_share?\n"
        "1:37: unknown field event.worst_efect of drift.measured; did you mean worst_effect?"
    )
    assert expected == mistake(DRIFT, "event.drifted_shares > 0.1 && event.worst_efect > 1")


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (DRIFT, {"drifted_columns": "2"}, "field drifted_columns is '2', not a whole number"),
        (DRIFT, {"drifted_columns": 2.0}, "field drifted_columns is 2.0, not a whole number"),
        (DRIFT, {"drifted_columns": True}, "field drifted_columns is True, not a whole number"),
        (
            DRIFT,
            {"drifted_columns": 2**63},
            "field drifted_columns is 9223372036854775808, not a whole number of 64 bits",
        ),
        (DRIFT, {"drifted_share": "x"}, "field drifted_share is 'x', not a number"),
        (DRIFT, {"drifted_share": True}, "field drifted_share is True, not a number"),
        (DRIFT, {"prediction_drifted": 1}, "field prediction_drifted is 1, not true or false"),
        (DRIFT, {"worst_column": 5}, "field worst_column is 5, not a text"),
        (DRIFT, {"window": {"start": "yesterday"}}, "field window.start is 'yesterday', not an ISO 8601 time"),
        (DRIFT, {"window": [1]}, "field window is [1], not a record"),
        (DRIFT, {"columns": {"age": {"score": "x"}}}, "field columns.age.score is 'x', not a number"),
        (DRIFT, {"columns": [1]}, "field columns is [1], not a map of records"),
        ("quality.measured", {"failures": ["a", 1]}, "field failures is 1, not a text"),
        ("quality.measured", {"failures": "a"}, "field failures is 'a', not a list of texts"),
        ("model.registered", {"tags": {"a": 1}}, "field tags is 1, not a text"),
        (
            "webhook.received",
            {"payload": {"a": ["\ud800"]}},
            "field payload is \"'\\\\ud800'\", not a text of whole characters",
        ),
    ],
)
def test_data_of_the_wrong_type_is_bad_input_that_names_the_field(
    kind: str, data: dict[str, Any], expected: str
) -> None:
    """Malformed data never becomes a truth value: it is refused, with the path of the field."""
    with pytest.raises(BadInput, match="from test") as told:
        values(kind, **data)

    assert str(told.value).endswith(expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_whatever_json_comes_in_gives_a_truth_value(payload: Any) -> None:
    """No payload makes an evaluation fail: what does not fit the condition is unknown, with a reason."""
    told = values("webhook.received", payload=payload)
    for text in (
        "event.payload.a > 1",
        'event.payload.a.b == "x"',
        "event.payload.all(x, x == 1)",
        "event.payload.a / 2 < 1",
    ):
        result = condition("webhook.received", text).evaluate(told)

        assert (result.truth is Truth.UNKNOWN) == bool(result.reason)


def test_nesting_without_end_is_refused_in_data_and_expressions() -> None:
    """Neither a payload nor a condition can exhaust the stack."""
    payload: dict[str, Any] = {}
    for _ in range(3000):
        payload = {"a": payload}

    with pytest.raises(BadInput, match="nested at most 100 levels deep"):
        values("webhook.received", payload=payload)
    assert "nested too deep" in mistake(DRIFT, f"{'(' * 100}1{')' * 100} > 2")


def test_an_event_of_an_unknown_type_has_no_fields() -> None:
    """A type that the catalogue does not have gives an empty activation, whatever its data."""
    assert values("somebody.elses", x=1).data == {}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("{{ event.drifted_columns }}", "int", 2),
        ("{{event.worst_column}}", "string", "age"),
        ("{{ event.window.start }}", "time", "2026-01-05T12:00:00+00:00"),
        ("{{ event.window.end - event.window.start }}", "duration", "1h"),
        ("{{ event.window.start - duration('24h') }}", "time", "2026-01-04T12:00:00+00:00"),
        ("{{ streak.start }}", "time", "2026-01-05T11:00:00+00:00"),
        ("{{ event.columns.filter(c, event.columns[c].drifted) }}", "list", ["age"]),
        ("{{ event.worst_column + '!' }}", "string", "age!"),
        ("{{ event.drifted_columns > 1 ? 'many' : 'one' }}", "string", "many"),
        ('{{ event.columns["age"].score }}', "double", 0.3),
    ],
)
def test_a_template_gives_one_typed_value(text: str, kind: str, value: Any) -> None:
    """The value has the type of the expression; times and durations are text that reads back."""
    made = template(DRIFT, text)
    window = {"start": NOW, "end": "2026-01-05T13:00:00Z"}
    rendered = made.evaluate(
        values(DRIFT, drifted_columns=2, worst_column="age", window=window, columns=COLUMNS),
        "2026-01-05T11:00:00+00:00",
    )

    assert (kind, value, "") == (made.type, rendered.value, rendered.unknown)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("{{ event.worst_effect }}", "event.worst_effect is absent"),
        ("{{ streak.start }}", "streak.start is absent: no streak led here"),
    ],
)
def test_a_template_of_something_absent_is_unknown(text: str, unknown: str) -> None:
    """There is no value, and the reason says what is missing."""
    rendered = template(DRIFT, text).evaluate(values(DRIFT))

    assert (None, unknown) == (rendered.value, rendered.unknown)


@pytest.mark.parametrize(
    "text", ["rows {{ event.window.rows }}", "{{ 1 }}{{ 2 }}", "{{ event.drifted_columns }", "}} {{"]
)
def test_text_is_never_put_together_around_an_expression(text: str) -> None:
    """A template stands alone: event text cannot become part of a command, a name or YAML."""
    made = compile_template(DRIFT, text)

    assert looks_like_template(text)
    assert isinstance(made, tuple)
    assert "{{ }} must stand alone" in made[0].message


def test_event_text_is_a_value_whatever_it_looks_like() -> None:
    """Braces, quotes and operators inside an event's text are just text."""
    text = '{{ 1 + 1 }}; $(rm -rf /) " || true'
    rendered = template(DRIFT, "{{ event.worst_column }}").evaluate(values(DRIFT, worst_column=text))

    assert text == rendered.value


def test_a_mistake_in_a_template_has_its_column_in_the_whole_text() -> None:
    """The column counts from the start of the text, braces included."""
    made = compile_template(DRIFT, "{{ event.windw.start }}")

    assert isinstance(made, tuple)
    assert (made[0].line, made[0].column) == (1, 10)


def test_conditions_are_equal_by_type_and_text() -> None:
    """The same text over the same type is the same condition, and they can be keys."""
    assert len({condition(DRIFT, "event.drifted_columns > 1"), condition(DRIFT, "event.drifted_columns > 1")}) == 1
    assert condition(DRIFT, 'event.segment == "a"') != condition("quality.measured", 'event.segment == "a"')
