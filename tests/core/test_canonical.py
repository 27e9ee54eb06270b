"""Canonical JSON, ids, durations, and event data as it is read back."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.canonical import canonical, content_id, digest, unit_hash
from daemon.core.durations import parse_duration, write_duration
from daemon.core.events import Event, clean, utc

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=3)
    | st.datetimes(timezones=st.just(UTC)) | st.just(Decimal(1)) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers() | st.just("\ud800"), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_canonical_json_reads_back(value: Any) -> None:
    """It is JSON, and what it reads back to is written the same."""
    read = orjson.loads(canonical(value))
    assert read == value
    assert canonical(read) == canonical(value)


@given(st.dictionaries(st.text(), st.integers(0, 9), max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """A mapping has one text however it was put together."""
    assert canonical(value) == canonical(dict(reversed(value.items())))


def test_what_is_no_json_is_refused() -> None:
    """A set has no canonical text."""
    with pytest.raises(TypeError):
        canonical({1, 2})


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_ids_tell_their_parts_apart(kind: str, one: str, other: str) -> None:
    """An id says where one part ends and the next begins."""
    assert len(content_id(kind, one, other)) == 32
    assert (content_id(kind, one, other) == content_id(kind, one + other)) is False
    assert (content_id(kind, one) == content_id(kind, other)) == (one == other)


def test_digest_is_sha256() -> None:
    """The digest that `sha256sum` prints."""
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_unit_hashes_are_even_and_sticky() -> None:
    """The same key has the same number under a salt, another under another; together they fill [0, 1) evenly."""
    numbers = [unit_hash("salt", str(key)) for key in range(20_000)]
    assert numbers == [unit_hash("salt", str(key)) for key in range(20_000)]
    assert all(0 <= number < 1 for number in numbers)
    for tenth in range(10):
        share = sum(tenth <= 10 * number < tenth + 1 for number in numbers) / len(numbers)
        assert abs(share - 0.1) < 0.01
    assert unit_hash("salt", "1") != unit_hash("pepper", "1")


@given(st.integers(0, 10 * 365 * 86_400_000))
def test_durations_read_back(milliseconds: int) -> None:
    """What is written parses to the same duration, to the millisecond."""
    duration = timedelta(milliseconds=milliseconds)
    assert duration == parse_duration(write_duration(duration))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 1d ", 86400),
        ("2w", 1209600),
        ("250ms", 0.25),
        ("0s", 0),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    """Numbers with units, summed."""
    assert timedelta(seconds=seconds) == parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5x", "1h-3m", "٣s", 5, None, True, [], "9" * 30 + "w"])
def test_what_is_no_duration_is_refused(text: Any) -> None:
    """A ValueError, whatever was written."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.dictionaries(st.text(min_size=1), ANYTHING, max_size=6))
def test_clean_is_total_and_what_is_read_back(data: dict[str, Any]) -> None:
    """Whatever comes in, what is decided on is exactly what the store will read back, and cleaning it again changes nothing."""
    cleaned, raw = clean(data)
    assert orjson.loads(raw) == cleaned
    assert (cleaned, raw) == clean(cleaned)
    assert raw == canonical(cleaned)


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "unset"), JSON, max_size=6))
def test_clean_leaves_json_alone(data: dict[str, Any]) -> None:
    """Good data stays as it is, zero and false and null included."""
    assert data == clean(data)[0]


def test_what_json_cannot_hold_is_absent_with_its_reason() -> None:
    """NaN, infinities and other things are null, and `unset` says why; reasons that were given stand first."""
    data = {
        "share": math.nan, "columns": {"age": {"score": math.inf}}, "list": [1, math.nan], "set": {1}, "big": 10**400,
        "unset": {"share": "too few rows", "other": "x"},
    }  # fmt: skip
    cleaned, _ = clean(data)
    assert (cleaned["share"], cleaned["columns"]["age"]["score"]) == (None, None)
    assert cleaned["unset"] == {
        "share": "too few rows", "other": "x", "columns.age.score": "not a finite number",
        "list[1]": "not a finite number", "set": "set is no JSON value", "big": "not a finite number",
    }  # fmt: skip


def test_numbers_beyond_64_bits_are_doubles() -> None:
    """JSON has no others."""
    assert clean({"x": 2**70})[0] == {"x": 2.0**70}


def test_a_list_nested_too_deep_is_cut() -> None:
    """Deep nesting, as an attacker sends it, stops at a level."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "nested too deep" in clean({"x": deep})[0]["unset"].popitem()[1]


@pytest.mark.parametrize("text", ["2026-01-05T12:00:00", "2026-01-05T12:00:00Z", "2026-01-05T14:00:00+02:00"])
def test_times_are_utc(text: str) -> None:
    """A time without zone is UTC; any other is turned into it."""
    assert datetime(2026, 1, 5, 12, tzinfo=UTC) == utc(text)


def test_an_event_is_named_by_its_source_and_id() -> None:
    """The dedupe key depends on nothing else."""
    one = Event("1", "s", "data.landed", "a", datetime(2026, 1, 1, tzinfo=UTC))
    same = Event("1", "s", "schedule.due", "b", datetime(2027, 1, 1, tzinfo=UTC), {"x": 1}, ("r",))
    assert one.key == same.key
    assert one.key != Event("2", "s", "data.landed", "a", one.time).key
    assert one.key != Event("1", "t", "data.landed", "a", one.time).key
