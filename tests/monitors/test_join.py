"""The label join: whatever the order, the same losses; and never more than its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.columns import Column
from daemon.monitors.join import LabelJoin, Match, Waiting, sampled
from daemon.monitors.journal import Journal
from daemon.monitors.rows import Labels, join_hashes


def waiting(numbers: Sequence[int]) -> Waiting:
    """Predictions `number` at second `number`, in window number // 10."""
    count = len(numbers)
    return Waiting(
        join_hashes([str(number) for number in numbers]), np.array(numbers, np.int64) * 1_000_000,
        numeric([float(number) for number in numbers]), None, np.array(numbers, np.int64).reshape(-1, 1) // 10,
        [("m", str(number % 2)) for number in numbers], np.ones(count, np.bool_),
    )  # fmt: skip


def numeric(values: Sequence[float]) -> Column:
    """A number column."""
    return Column("number", np.array(values, np.float64), np.zeros(len(values), np.bool_))


def labels(numbers: Sequence[int]) -> Labels:
    """Labels that are half a unit above their predictions."""
    return Labels(join_hashes([str(number) for number in numbers]), numeric([number + 0.5 for number in numbers]))


def joined(matches: Sequence[Match]) -> list[tuple[float, float, int, str]]:
    """Prediction, label, window and version of each match."""
    found: list[tuple[float, float, int, str]] = []
    for match in matches:
        assert match.prediction is not None
        pairs = zip(match.prediction.values, match.label.values, match.windows[:, 0], match.arms, strict=True)
        found += [(float(prediction), float(label), int(window), arm[1]) for prediction, label, window, arm in pairs]
    return sorted(found)


STEPS = st.lists(
    st.tuples(st.sampled_from(["predictions", "labels", "restart"]), st.integers(1, 60)), min_size=1, max_size=30
)


@settings(deadline=None)
@given(steps=STEPS, seed=st.integers(0, 5))
def test_every_interleaving_joins_the_same_pairs(steps: list[tuple[str, int]], seed: int) -> None:
    """Predictions and labels in any pieces and order, with restarts between, make each pair exactly once."""
    order = np.random.default_rng(seed)
    predicted, labelled = (list(order.permutation(300)) for _ in range(2))
    states: dict[str, bytes] = {}
    journal = Journal()
    join = LabelJoin("number", journal)
    matches: list[Match] = []
    for what, count in [*steps, ("predictions", 300), ("labels", 300)]:
        if what == "predictions" and predicted:
            matches += join.add(waiting(sorted(predicted[:count])), 0)[0]
            predicted = predicted[count:]
        elif what == "labels" and labelled:
            matches += join.match(labels(labelled[:count]), 0)
            labelled = labelled[count:]
        for write in journal.writes("s"):
            states.pop(write.key, None)
            if write.blob is not None:
                states[write.key] = write.blob
        if what == "restart":
            join = LabelJoin("number", journal)
            join.restore(states)

    assert [(float(n), n + 0.5, n // 10, str(n % 2)) for n in range(300)] == joined(matches)
    assert join.early == 0
    assert join.counters.repeated + join.counters.unmatched + join.counters.evicted == 0


def test_a_prediction_keeps_its_first_label() -> None:
    """A second label for the same id changes nothing and is counted."""
    join = LabelJoin("number", Journal())
    join.add(waiting([1, 2]), 0)

    first, second = join.match(labels([1, 1]), 0), join.match(labels([1]), 0)

    assert len(joined(first)) == 1
    assert second == []
    assert join.counters.repeated == 2


def test_the_oldest_are_given_up_when_too_many_wait() -> None:
    """Memory is bounded on both sides: the oldest predictions, and the oldest early labels, go and are counted."""
    join = LabelJoin("number", Journal(), capacity=5000, early=100)
    lost = [join.add(waiting(list(range(at, at + 2048))), 0)[1] for at in range(0, 4 * 2048, 2048)]
    join.match(labels(list(range(100_000, 100_250))), 0)

    assert join.rows == 2 * 2048
    assert join.counters.evicted == 2 * 2048
    assert [len(windows) for windows in lost] == [0, 0, 2048, 2048]
    assert join.early == 100
    assert join.counters.unmatched == 150


def test_what_waits_longer_than_the_horizon_is_given_up() -> None:
    """Predictions from before an event time, and labels that came before it, stop waiting."""
    join = LabelJoin("number", Journal())
    join.add(waiting(list(range(100))), 0)
    join.match(labels([500]), 10_000_000)

    windows = join.expire(50_000_000)

    assert {int(no): int((windows == no).sum()) for no in np.unique(windows)} == {0: 10, 1: 10, 2: 10, 3: 10, 4: 10}
    assert join.early == 0
    assert join.match(labels([3]), 0) == []
    assert join.counters.unmatched == 2


@given(rate=st.floats(0.01, 1))
def test_both_sides_keep_the_same_rows(rate: float) -> None:
    """A row is kept iff the hash of its id is under the join rate: about that share, and alone as among others."""
    ids = [f"id-{number}" for number in range(2000)]

    kept = sampled(join_hashes(ids), rate)

    assert abs(kept.mean() - rate) < 0.06
    assert [bool(sampled(join_hashes([name]), rate)[0]) for name in ids[:100]] == kept[:100].tolist()
