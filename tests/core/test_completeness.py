"""When a file is complete, as a decision on what was seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.clients.completeness import LOST_CLOSE_S, Complete, Sight, is_complete

SEEN = Sight(size=10, mtime_ns=1, since=100.0)
SIGHTS = st.builds(
    Sight,
    size=st.integers(0, 3),
    mtime_ns=st.just(1),
    since=st.floats(0, 200),
    settled=st.booleans(),
    created=st.booleans(),
    asked=st.booleans(),
    writing=st.sampled_from([None, True, False]),
    marked=st.booleans(),
)


@pytest.mark.parametrize(
    ("complete", "sight", "at", "expected"),
    [
        pytest.param("renamed", replace(SEEN, settled=True), 100.0, True, id="moved into place: at once"),
        pytest.param("renamed", SEEN, 101.9, False, id="no notification, young"),
        pytest.param("renamed", SEEN, 102.0, True, id="no notification, stood still"),
        pytest.param("renamed", replace(SEEN, settled=True, size=0), 101.0, False, id="closed, still empty"),
        pytest.param("renamed", replace(SEEN, settled=True, size=0), 102.0, True, id="closed, stays empty"),
        pytest.param(
            "renamed", replace(SEEN, settled=True, writing=True), 900.0, False, id="closed by one of two writers"
        ),
        pytest.param(
            "renamed", replace(SEEN, created=True, asked=True), 102.0, False, id="created, not closed, nobody can say"
        ),
        pytest.param(
            "renamed", replace(SEEN, created=True, asked=True), 100.0 + LOST_CLOSE_S, True, id="its close was lost"
        ),
        pytest.param("renamed", replace(SEEN, created=True, writing=False), 102.0, True, id="created, nobody writes"),
        pytest.param("stable", replace(SEEN, settled=True), 101.0, False, id="stable takes no notification's word"),
        pytest.param("stable", SEEN, 102.0, True, id="stable, stood still"),
        pytest.param("stable", replace(SEEN, writing=True), 900.0, False, id="stable, but its writer pauses"),
        pytest.param("marker", SEEN, 900.0, False, id="no marker"),
        pytest.param("marker", replace(SEEN, marked=True), 100.0, True, id="marker"),
    ],
)
def test_a_file_is_complete_when_its_folders_sign_says_so(
    complete: Complete, sight: Sight, at: float, expected: bool
) -> None:
    """Each way of telling has its own sign, and takes no other."""
    assert expected == is_complete(sight, complete, 2.0, at)


@given(sight=SIGHTS, complete=st.sampled_from(["renamed", "stable"]), at=st.floats(0, 400))
def test_a_file_that_somebody_writes_is_never_complete(sight: Sight, complete: Complete, at: float) -> None:
    """However long the writer pauses and whatever the notifications said."""
    assert not is_complete(replace(sight, writing=True), complete, 2.0, at)


@given(sight=SIGHTS, complete=st.sampled_from(["renamed", "stable"]), at=st.floats(0, 400), later=st.floats(0, 400))
def test_a_complete_file_stays_complete_while_nothing_changes(
    sight: Sight, complete: Complete, at: float, later: float
) -> None:
    """Time alone takes nothing back."""
    assert not is_complete(sight, complete, 2.0, at) or is_complete(sight, complete, 2.0, at + later)
