"""Which events lead from what was told of a node to what is seen of it: debounce, and that order does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.nodes import (
    GONE,
    Happened,
    Hurdle,
    Patience,
    Seen,
    Told,
    Track,
    baseline,
    due,
    observed,
    over,
    settled,
    tracked,
)
from tests.builders import at

GPU = "nvidia.com/gpu"
PATIENCE = Patience(timedelta(seconds=90), timedelta(seconds=30))


def up(gpus: int = 8) -> Seen:
    """A node that takes work."""
    return Seen(None, {GPU: gpus}, {GPU: 8}, "A100", 40000)


def down(reason: str = "unreachable", gpus: int = 8) -> Seen:
    """A node that takes none."""
    return Seen(Hurdle(reason, f"it is {reason}"), {GPU: gpus}, {GPU: 8}, "A100", 40000)


def lived(
    course: Sequence[tuple[float, Seen]], until: float, told: Told | None = None, looks: Sequence[float] = ()
) -> tuple[list[Happened], Track]:
    """A node's course (seconds, how it is then), with further looks at it, up to a moment."""
    track: Track | None = None
    found: list[Happened] = []
    moments = sorted([*course, *((when, None) for when in (*looks, until))], key=lambda one: (one[0], one[1] is None))
    for when, seen in moments:
        if track is not None:
            track, happened = settled(track, at(when), PATIENCE)
            found += happened
        if seen is not None:
            track = tracked(told, seen, at(when)) if track is None else observed(track, seen, at(when))
    assert track is not None
    return found, track


def told_of(course: Sequence[tuple[float, Seen]], until: float = 10_000) -> list[tuple[str, float, object]]:
    """What is told of a node that was usable with 8 GPUs at first: type, when it began, and its reason or change."""
    found, _ = lived([(0, up()), *course], until, baseline(up()))
    return [
        (
            one.type,
            (one.since - at(0)).total_seconds(),
            one.data.get("reason", one.data.get("change", one.data.get("was"))),
        )
        for one in found
    ]


@pytest.mark.parametrize(
    ("course", "told"),
    [
        ([(100, down())], [("node.lost", 100, "unreachable")]),
        ([(100, down()), (189, up())], []),
        ([(100, down()), (190, up())], [("node.lost", 100, "unreachable"), ("node.ready", 190, "unreachable")]),
        ([(100, down()), (150, up()), (160, down()), (240, up())], []),
        ([(100, down()), (150, up()), (160, down()), (251, up())], [("node.lost", 160, "unreachable"), ("node.ready", 251, "unreachable")]),
        ([(100, down("not ready")), (150, down())], [("node.lost", 100, "unreachable")]),
        ([(100, down("not ready")), (500, down())], [("node.lost", 100, "not ready")]),
        ([(100, down("cordoned")), (500, down())], [("node.lost", 100, "cordoned"), ("node.lost", 500, "unreachable")]),
        ([(100, up(7))], [("gpu.capacity_changed", 100, -1)]),
        ([(100, up(0)), (160, up())], []),
        ([(100, up(0)), (160, up(7))], [("gpu.capacity_changed", 100, -1)]),
        ([(100, up(7)), (300, up(6))], [("gpu.capacity_changed", 100, -1), ("gpu.capacity_changed", 300, -1)]),
        ([(100, up(16))], [("gpu.capacity_changed", 100, 8)]),
        ([(100, down(gpus=0))], [("node.lost", 100, "unreachable"), ("gpu.capacity_changed", 100, -8)]),
        ([(100, GONE)], [("node.lost", 100, "deleted"), ("gpu.capacity_changed", 100, -8)]),
        ([(100, GONE), (150, up())], []),
        ([(100, down()), (500, GONE)], [("node.lost", 100, "unreachable"), ("gpu.capacity_changed", 500, -8)]),
    ],
)  # fmt: skip
def test_what_is_told(course: list[tuple[float, Seen]], told: list[tuple[str, float, object]]) -> None:
    """Losses after 90 seconds without a break, gains after 30; what is over sooner is not told at all."""
    assert told_of(course) == told


def test_a_node_joins() -> None:
    """It is told when it takes work, with its GPUs; before that its hurdles are nobody's loss."""
    course = [(0, down("not ready", 0)), (20, up(0)), (40, up())]
    found, _ = lived(course, 1000)
    assert [(one.type, (one.since - at(0)).total_seconds()) for one in found] == [
        ("node.ready", 20),
        ("gpu.capacity_changed", 40),
    ]
    assert found[0].data == {"product": "A100", "memory_mb": 40000, "gpus": 8, "new": True, "was": ""}
    assert lived([(0, down("not ready", 0))], 1000)[0] == []


def test_what_a_loss_tells() -> None:
    """Why, since when, and how many GPUs went with it; of a deleted node what its labels said before."""
    (lost, changed), _ = lived([(0, up()), (100, GONE)], 1000, baseline(up()))
    assert lost.data == {
        "product": "A100", "memory_mb": 40000, "reason": "deleted", "why": "the node was deleted", "gpus": 8,
    }  # fmt: skip
    assert changed.data == {
        "product": "A100", "memory_mb": 40000, "resource": GPU, "allocatable": 0, "previous": 8, "change": -8,
        "capacity": 0, "usable": False,
    }  # fmt: skip


def test_a_node_that_is_gone_is_forgotten() -> None:
    """Once its end is told nothing need be remembered; not before."""
    _, track = lived([(0, up()), (100, GONE)], 150, baseline(up()))
    assert not over(track)
    assert due(track, PATIENCE) == at(190)
    _, track = lived([(0, up()), (100, GONE)], 200, baseline(up()))
    assert over(track)
    assert due(track, PATIENCE) is None


def test_changes_while_nobody_looked() -> None:
    """What was told is stored; the first look after a pause finds the difference, and it has to last from then on."""
    found, _ = lived([(5000, down())], 6000, baseline(up()))
    assert [(one.type, one.since) for one in found] == [("node.lost", at(5000))]
    found, _ = lived([(5000, up(4))], 6000, Told("unreachable", {GPU: 8}))
    assert [one.type for one in found] == ["node.ready", "gpu.capacity_changed"]
    assert lived([(5000, down("not ready"))], 6000, Told("unreachable", {GPU: 8}))[0] == []


STATES = st.sampled_from([up(), up(7), up(0), down(), down("not ready"), down("cordoned"), GONE, down(gpus=0)])
COURSES = st.lists(st.tuples(st.integers(1, 100), STATES), min_size=1, max_size=20)


def placed(course: Sequence[tuple[int, Seen]]) -> list[tuple[float, Seen]]:
    """Gaps -> moments."""
    moments: list[tuple[float, Seen]] = []
    now = 0.0
    for gap, seen in course:
        now += gap
        moments.append((now, seen))
    return moments


@given(course=COURSES, looks=st.lists(st.integers(0, 3000), max_size=20))
def test_how_often_one_looks_does_not_matter(course: list[tuple[int, Seen]], looks: list[int]) -> None:
    """More looks between changes tell the same events, of the same moments."""
    moments = [(0.0, up()), *placed(course)]
    once, _ = lived(moments, 5000, baseline(up()))
    often, _ = lived(moments, 5000, baseline(up()), looks)
    assert once == often


@given(course=COURSES)
def test_what_is_told_in_the_end_is_what_is_so(course: list[tuple[int, Seen]]) -> None:
    """After a while without changes nothing is left to tell: what was told is what is seen."""
    _, track = lived([(0.0, up()), *placed(course)], 5000, baseline(up()))
    assert due(track, PATIENCE) is None
    last = course[-1][1]
    assert {n: c for n, c in track.told.gpus.items() if c} == {n: c for n, c in last.gpus.items() if c}
    assert (track.told.reason == "") == (last.hurdle is None)


@given(course=COURSES)
def test_nothing_is_told_that_did_not_last(course: list[tuple[int, Seen]]) -> None:
    """A node is told lost only after a stretch of `settle` in which it took no work at every moment; ready alike."""
    moments = [(0.0, up()), *placed(course), (9000.0, course[-1][1])]
    found, _ = lived(moments, 9000, baseline(up()))
    stretches: list[tuple[bool, float, float]] = []
    for usable, group in groupby(
        zip(moments, [*moments[1:], moments[-1]], strict=True), key=lambda one: one[0][1].hurdle is None
    ):
        parts = list(group)
        stretches.append((usable, parts[0][0][0], parts[-1][1][0]))
    for one in found:
        since = (one.since - at(0)).total_seconds()
        if one.type == "node.lost":
            assert any(not usable and start <= since and end - since >= 90 for usable, start, end in stretches)
        elif one.type == "node.ready":
            assert any(usable and start <= since and end - since >= 30 for usable, start, end in stretches)
