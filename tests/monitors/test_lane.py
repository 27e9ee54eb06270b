"""Topics in threads of their own: what holds up one stream holds up no other one, nor the worker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from daemon.monitors import lane as lanes
from daemon.monitors.frames import Frame
from daemon.monitors.group import GroupSession
from daemon.monitors.grouplog import PartitionName
from daemon.monitors.lane import Lane
from daemon.monitors.partition import Portion
from daemon.monitors.session import Times
from tests.monitors.lab import wait_for
from tests.monitors.logs import topic_plan
from tests.monitors.test_group import Log, Topics, predictions

TIMES = Times(lambda: time.time_ns() // 1000, time.monotonic)


class Hanging(Topics):
    """Brokers that say nothing until they are let go; then something may be wrong with what they say."""

    def __init__(self) -> None:
        super().__init__({("predictions", 0): Log(predictions(5))})
        self.asked, self.go = threading.Event(), threading.Event()
        self.nonsense = False

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """Hangs."""
        self.asked.set()
        self.go.wait(60)
        if self.nonsense:
            raise ZeroDivisionError
        return super().poll(seconds)


class Told:
    """What lanes have told."""

    def __init__(self) -> None:
        self.frames: queue.Queue[Frame] = queue.Queue()

    def of(self, stream: str, kind: str) -> Frame:
        """The next frame of a stream, which is of this kind."""
        frame = self.frames.get(timeout=60)
        assert (frame.body["stream"], frame.kind) == (stream, kind)
        return frame


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Brokers that are let go at the end."""
    one = Hanging()
    yield one
    one.go.set()


def lane(home: Path, name: str, topics: Topics, told: Told, before: Lane | None = None) -> Lane:
    """A lane at work."""
    session = GroupSession(topic_plan(home, labels="", name=name), topics.open, TIMES)
    return Lane(session, told.frames.put, TIMES, before)


def test_a_lane_whose_brokers_hang_holds_up_nobody(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other stream is read and stored; the worker sees what the hanging one last said, and then that it is held up."""
    told = Told()
    held = lane(tmp_path, "held", hanging, told)
    assert hanging.asked.wait(60)
    free = lane(tmp_path, "free", Topics({("predictions", 0): Log(predictions(40))}), told)
    want = told.of("free", "want")
    assert want.body["partitions"] == [("predictions", 0)]
    free.opened(Frame("partitions", {"partitions": [{"topic": "predictions", "partition": 0, "states": []}]}))
    batch = told.of("free", "batch")
    assert batch.body["rows"] == 40
    free.stored()
    wait_for(lambda: free.places()["partitions"] == [{"topic": "predictions", "partition": 0, "offset": 40, "lag": 0}])
    assert (held.step(), held.problem, held.places()["partitions"]) == ((False, None), "", [])
    monkeypatch.setattr(lanes, "HELD_UP_S", 0.0)
    wait_for(lambda: "have held it up for" in held.problem)
    for one in (held, free):
        one.close()
    assert free.left(60)
    assert not held.left(0)
    hanging.go.set()
    assert held.left(60)
    assert told.frames.empty()


def test_a_lane_waits_for_the_one_before_it_to_leave_the_group(tmp_path: Path, hanging: Hanging) -> None:
    """A stream that is opened anew joins its group once the session before it has left."""
    told = Told()
    first = lane(tmp_path, "churn", hanging, told)
    assert hanging.asked.wait(60)
    first.close()
    second_topics = Hanging()
    second = lane(tmp_path, "churn", second_topics, told, first)
    assert not second_topics.asked.is_set()
    hanging.go.set()
    assert second_topics.asked.wait(60)
    assert first.left(0)
    second_topics.go.set()
    second.close()
    assert second.left(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_that_breaks_breaks_its_worker(tmp_path: Path, hanging: Hanging) -> None:
    """An error that nobody has foreseen is not the end of one stream in silence: the worker is told, and ends by it."""
    hanging.nonsense = True
    broken = lane(tmp_path, "churn", hanging, Told())
    assert broken.step() == (False, None)
    hanging.go.set()
    assert broken.left(60)
    with pytest.raises(RuntimeError, match="the thread of the topics of churn has ended"):
        broken.step()
