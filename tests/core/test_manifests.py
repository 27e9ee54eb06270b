"""Manifests with places: values are filled in by type and cannot become anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.manifests import Place, filled, places

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_values_stand_where_their_places_were() -> None:
    """A parameter as what it is, a parameter as text, a fact of the call."""
    manifest = {
        "spec": {
            "replicas": {"$parameter": "workers"},
            "args": ["--lr", {"$text": "lr"}],
            "env": [{"name": "CALL", "value": {"$call": "id"}}],
        }
    }

    assert filled(manifest, {"workers": 3, "lr": 0.1}, {"id": "c1"}) == {
        "spec": {"replicas": 3, "args": ["--lr", "0.1"], "env": [{"name": "CALL", "value": "c1"}]}
    }


def test_what_was_not_given_is_left_out() -> None:
    """The key of a mapping, the item of a list."""
    manifest = {"a": {"$parameter": "none"}, "b": [1, {"$text": "none"}, 2], "c": {"d": {"$text": "none"}}}

    assert filled(manifest, {}, {}) == {"b": [1, 2], "c": {}}


@given(value=JSON)
def test_a_value_is_never_looked_into(value: Any) -> None:
    """Whatever a value holds, also what looks like a place or a template, comes out as it went in."""
    assert filled({"at": {"$parameter": "p"}}, {"p": value}, {}) == {"at": value}


@given(manifest=st.dictionaries(st.text().filter(lambda key: not key.startswith("$")), JSON, max_size=3))
def test_a_manifest_without_places_is_itself(manifest: dict[str, Any]) -> None:
    """Nothing else has a meaning: neither `{{ }}` nor `${ }`."""
    if any(True for _ in places(manifest)):
        return

    assert filled(manifest, {"x": 1}, {}) == manifest


def test_places_say_where_they_are() -> None:
    """With what goes there, for whoever checks a template."""
    manifest = {"a": [{"$parameter": "p"}, {"b": {"$call": "run"}}], "c": {"$tetx": "q"}, "d": {"$x": 1, "y": 2}}

    assert list(places(manifest)) == [
        Place(("a", 0), "$parameter", "p"), Place(("a", 1, "b"), "$call", "run"), Place(("c",), "$tetx", "q"),
    ]  # fmt: skip


def test_a_fact_that_is_not_known_is_an_error() -> None:
    """It was checked at load, so here it is a fault of the program."""
    with pytest.raises(KeyError):
        filled({"a": {"$call": "nonsense"}}, {}, {"id": "c1"})
