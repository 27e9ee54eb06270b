"""Rule memory against a naive evaluator that forgets nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.events import Event
from daemon.core.rules import Mode, OnUnknown, Rule
from tests.builders import count, landed, lasting, limit, measured, rule, rules, said, step, windows
from tests.core.naive import Naive, Spec, Told
from tests.core.told import Asked

GAPS = st.sampled_from([1, 5, 5, 10, 10, 15, 20, 100, 301])
SHAPES: list[dict[str, Any]] = [
    {"windowed": True}, {"windowed": False}, {"duration": 10.0}, {"duration": 20.0, "windowed": False},
    {"windows": (2, 2), "windowed": True}, {"windows": (3, 3), "windowed": True}, {"windows": (2, 3), "windowed": True},
    {"windows": (3, 5), "windowed": True}, {"count": (2, 10.0)}, {"count": (3, 20.0)},
    {"count": (3, 40.0), "windowed": False},
]  # fmt: skip
"""Conditions over time, one of each kind."""
TRUTHS = st.sampled_from("TTTFFU")


def made(spec: Spec) -> Rule:
    """The rule of a spec."""
    when, clear = ("event.drifted_columns >= 1", "event.worst_effect < 1.0")
    if not spec.windowed:
        when, clear = ("event.bytes >= 1", 'event.digest == "ok"')
    return rule(
        on="drift.measured" if spec.windowed else "data.landed",
        when=(when,),
        clear=clear if spec.clear else "",
        subject="landing" if spec.absent is not None else "",
        hold=lasting(spec.duration) if spec.duration else windows(*spec.windows) if spec.windows else None,
        count=count(*spec.count) if spec.count else None,
        absent=spec.absent,
        repeat=spec.repeat,
        cooldown=spec.cooldown,
        limit=limit(*spec.limit) if spec.limit else None,
        on_unknown=OnUnknown(spec.on_unknown),
        stale_after=timedelta(seconds=spec.stale_after),
        mode=Mode.OBSERVE if spec.observe else Mode.ENFORCE,
        include_own=spec.include_own,
        on_failure=(step("notify"),),
    )


def event(spec: Spec, number: int, told: Told) -> Event:
    """The event that is as true as it is told."""
    chain = tuple(f"run-{index}" for index in range(told.chain))
    truth = {"T": 1, "F": 0, "U": None}[told.truth]
    if spec.windowed:
        assert told.last is not None
        effect = {"T": {"worst_effect": 0.5}, "F": {"worst_effect": 2.0}, "U": {}}[told.clears]
        return measured(told.last, truth, chain=chain, **effect)
    digest = {"T": {"digest": "ok"}, "F": {"digest": "no"}, "U": {"digest": None}}[told.clears]
    return replace(landed(number, bytes=truth, **digest), chain=chain)


def specs(**fixed: Any) -> st.SearchStrategy[Spec]:
    """Rules of all kinds."""
    optional = lambda strategy: st.none() | strategy  # noqa: E731
    shape = st.sampled_from(SHAPES)
    rest = st.fixed_dictionaries({
        "clear": st.booleans(),
        "repeat": optional(st.sampled_from([1.0, 20.0, 100.0])),
        "cooldown": st.sampled_from([0.0, 0.0, 10.0, 60.0]),
        "limit": optional(st.sampled_from([(1, 30.0), (2, 100.0), (3, 100.0)])),
        "on_unknown": st.sampled_from(["hold", "notify", "act"]),
        "stale_after": st.sampled_from([1.0, 15.0, 1000.0]),
        "observe": st.booleans(), "include_own": st.booleans(),
    })  # fmt: skip

    def build(parts: tuple[dict[str, Any], dict[str, Any]]) -> Spec:
        return Spec(**{**parts[1], **parts[0], **fixed})

    return st.tuples(shape, rest).map(build)


INPUTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"), GAPS, TRUTHS, st.sampled_from("TFU"), st.sampled_from([0, 0, 0, 0, 1, 9]),
            st.sampled_from([1, 1, 1, 0, -1]),
        ),
        st.tuples(st.sampled_from(["pause", "resume", "reread"]), GAPS),
        st.tuples(st.just("edit"), GAPS, st.sampled_from([0.0, 60.0]), st.booleans()),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(spec=specs(), inputs=INPUTS)
def test_memory_decides_as_a_log_that_forgets_nothing(spec: Spec, inputs: list[Any]) -> None:
    """Durations, windows, counts, clears, episodes, repeats, cooldowns, limits, unknowns, pauses, edits: all as a full log says."""
    compare(spec, inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_memory_decides_alike_in_many_random_stories(shape: dict[str, Any]) -> None:
    """The same for each kind of condition, over more stories than can be shrunk: the seed is the case."""
    for seed in range(100):
        chance = random.Random(f"{shape} {seed}")
        spec = Spec(
            **{"windowed": chance.random() < 0.5, **shape},
            clear=chance.random() < 0.3,
            repeat=chance.choice([None, None, 20.0]),
            cooldown=chance.choice([0.0, 0.0, 0.0, 20.0]),
            limit=chance.choice([None, None, (1, 20.0), (2, 40.0)]),
            on_unknown=chance.choice(["hold", "notify", "act"]),
            stale_after=chance.choice([10.0, 1000.0]),
            observe=chance.random() < 0.1,
            include_own=chance.random() < 0.5,
        )
        rare = chance.choice([0.0, 0.2])
        inputs: list[Any] = []
        for _ in range(30):
            gap = chance.choice([1, 5, 5, 5, 10, 10, 20])
            if chance.random() < rare:
                what = chance.choice(["pause", "resume", "resume", "edit"])
                inputs.append((what, gap, chance.choice([0.0, 20.0]), chance.random() < 0.5))
            else:
                chain = 0 if chance.random() > rare else chance.choice([1, 9])
                step_on = 1 if chance.random() > rare else chance.choice([0, -1])
                inputs.append(("event", gap, chance.choice("TTTFFU"), chance.choice("TFFU"), chain, step_on))
        try:
            compare(spec, inputs)
        except AssertionError as error:
            error.add_note(f"seed {seed}: {spec}, {inputs}")
            raise


def compare(spec: Spec, inputs: list[Any]) -> None:
    """Tell one story to both, and hold every verdict, firing and notice of one against the other's."""
    naive, asked = Naive(spec), Asked(rules(made(spec)))
    now, last = 0.0, 0
    looked: list[tuple[float, str]] = []
    for number, (what, gap, *how) in enumerate(inputs):
        now += gap
        looked += looks(naive, now)
        asked.until(now)
        if what == "event":
            truth, clears, chain, step_on = how
            last += step_on
            told = Told(truth, clears, last if naive.spec.windowed else None, chain)
            (decision,) = asked.record(now, event(naive.spec, number, told))
            assert naive.tell(now, told) == decision.verdict.value
            assert (now in naive.notices) == bool(decision.firing and decision.firing.notice)
        elif what == "edit":
            cooldown, semantic = how
            stale = naive.spec.stale_after + (1.0 if semantic else 0.0)
            naive.edited(replace(naive.spec, cooldown=cooldown, stale_after=stale), now, again=semantic)
            asked.rules = rules(made(naive.spec))
        elif what == "reread":
            assert asked.memory == asked.reread()
        else:
            naive.paused = what == "pause"
            asked.record(now, said(what, number=number))
    looked += looks(naive, now + 1000)
    asked.until(now + 1000)
    assert naive.fired == asked.firings()
    assert asked.memory == asked.reread()


def looks(naive: Naive, until: float) -> list[tuple[float, str]]:
    """Everything that a naive rule says by itself before a time."""
    told = []
    while early := [t for t in naive.looks if t < until]:
        t = min(early)
        naive.looks.discard(t)
        verdict = naive.look(t)
        if verdict:
            told.append((t, verdict))
    return told


@settings(max_examples=150, deadline=None)
@given(
    spec=specs(
        windowed=False, clear=False, duration=None, windows=None, count=None, absent=20.0, stale_after=10_000.0,
        include_own=True,
    ),
    inputs=st.lists(
        st.one_of(
            st.tuples(st.just("event"), GAPS, TRUTHS),
            st.tuples(st.sampled_from(["pause", "resume", "start", "load"]), GAPS),
        ),
        max_size=30,
    ),
)  # fmt: skip
def test_silence_is_noticed_as_a_log_says(spec: Spec, inputs: list[Any]) -> None:
    """An `absent` rule fires after so much silence, repeats, is held back and catches up after a start as a full log says."""
    naive, asked = Naive(spec), Asked(rules(made(spec)))
    loading = {"revision": "x", "commit": "", "rules": 1}
    asked.record(0, Event("0", "driftd:rules", "rules.loaded", "", landed().time, loading))
    naive.waits(0)
    now = 0.0
    for number, (what, gap, *how) in enumerate(inputs, 1):
        now += gap
        looks(naive, now)
        asked.until(now)
        if what == "event":
            told = Told(how[0])
            (decision,) = asked.record(now, event(naive.spec, number, told))
            assert naive.hears(now, told) == decision.verdict.value
        elif what in {"start", "load"}:
            naive.started = now if what == "start" else naive.started
            data = {**loading, "started": what == "start"}
            asked.record(now, Event(str(number), "driftd:rules", "rules.loaded", "", landed().time, data))
        else:
            naive.paused = what == "pause"
            asked.record(now, said(what, number=number))
    looks(naive, now + 1000)
    asked.until(now + 1000)
    assert naive.fired == asked.firings()
    assert asked.memory == asked.reread()
    assert len(asked.dues) <= 2 + len(naive.looks)


@pytest.mark.parametrize("windowed", [True, False])
@settings(max_examples=30, deadline=None)
@given(truths=st.lists(TRUTHS, max_size=60))
def test_memory_stays_small(windowed: bool, truths: list[str]) -> None:
    """However many events come, a key remembers no more than its rule asks for."""
    spec = Spec(windowed=windowed, count=(3, 1000.0), limit=(2, 1000.0))
    asked = Asked(rules(made(spec)))
    for number, truth in enumerate(truths, 1):
        asked.record(number, event(spec, number, Told(truth, "U", number if windowed else None)))
    for memory in asked.memory.values():
        assert len(memory.condition.hits) <= 3
        assert len(memory.condition.windows) <= 1
        assert len(memory.fired) <= 2
