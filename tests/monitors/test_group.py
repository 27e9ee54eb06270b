"""A worker's share of a stream over logs that lose records, are made anew, cannot be decoded or do not answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.kafka_errors import OffsetsGone, Partition, Unreadable
from daemon.clients.kafka_letters import Letter
from daemon.clients.kafka_places import Gap, Place, gap_of
from daemon.core.errors import ClientError, Unavailable
from daemon.core.monitors import Monitor, Window
from daemon.core.schema import check_data
from daemon.monitors import dead_letters, partition
from daemon.monitors.batches import batch_of
from daemon.monitors.frames import Frame
from daemon.monitors.group import GroupSession
from daemon.monitors.grouplog import PartitionName
from daemon.monitors.partition import Portion
from daemon.monitors.plan import StreamPlan
from tests.monitors.lab import Clock
from tests.monitors.logs import Lab, Record, record, topic_plan

ROWS = Monitor("rows", "churn", Window(rows=10))


@dataclass
class Log:
    """One partition."""

    records: list[Record] = field(default_factory=list)
    start: int = 0
    broken: frozenset[int] = frozenset()
    """Offsets that cannot be decoded."""


@dataclass
class Topics:
    """A broker's topics: a GroupLog of a group of one."""

    logs: dict[PartitionName, Log]
    ids: dict[str, str] = field(default_factory=dict)
    word: dict[str, str] = field(default_factory=dict)
    """What the brokers say of the ids when they are asked, where that is not what is known."""
    fault: ClientError | None = None
    """What it says instead of an answer to questions."""
    refused: str = ""
    """Why it takes no letters."""
    letters: list[Letter] = field(default_factory=list)
    at: dict[PartitionName, int] = field(default_factory=dict)
    paused: set[PartitionName] = field(default_factory=set)
    timeout: float = 10.0

    def open(self, _plan: StreamPlan, came: Any, _went: Any) -> Topics:
        """Join: all partitions are ours."""
        self.at, self.paused, self._came, self._new = {}, set(), came, True
        return self

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """All that there is."""
        if self._new:
            self._new = False
            self._came(list(self.logs))
        found: dict[PartitionName, Portion] = {}
        for name, at in self.at.items():
            log = self.logs.get(name, Log())
            if name in self.paused:
                continue
            if not log.start <= at <= len(log.records):
                raise OffsetsGone("out of range", frozenset({Partition(*name)}))
            good = list(range(at, min([len(log.records), *(b for b in log.broken if b >= at)])))
            if not good and at in log.broken:
                raise Unreadable("kafka", "poll", "failed crc check")
            if good:
                values = [log.records[n] for n in good]
                found[name] = Portion([v for _, v in values], good, [t for t, _ in values], good[-1] + 1)
        self.at |= {name: portion.next for name, portion in found.items()}
        return found

    def seek(self, name: PartitionName, before: Place | None, written: int) -> tuple[Place, Gap | None]:
        """See GroupLog."""
        log, (topic_id,) = self.logs[name], self.topic_ids([name], 1.0).values()
        gap = None if before is None else gap_of(Partition(*name), before, topic_id, log.start, len(log.records))
        there = gap.after if gap else Place(topic_id, before.offset if before else log.start)
        self.at[name] = there.offset
        return there, gap

    def pause(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self.paused |= set(names)

    def resume(self, names: Sequence[PartitionName]) -> None:
        """See GroupLog."""
        self.paused -= set(names)

    def ends(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, int]:
        """See GroupLog."""
        if self.fault is not None:
            raise self.fault
        return {name: len(self.logs[name].records) for name in names}

    def partitions(self, topic: str) -> int:
        """See GroupLog."""
        return sum(name == topic for name, _ in self.logs)

    def topic_id(self, topic: str) -> str:
        """See GroupLog."""
        return self.ids.get(topic, "")

    def topic_ids(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, str]:
        """See GroupLog."""
        if self.fault is not None:
            raise self.fault
        return {name: self.word.get(name[0]) or self.topic_id(name[0]) for name in names}

    def exists(self, topic: str) -> bool:
        """See GroupLog."""
        return self.partitions(topic) > 0

    def behind(self, name: PartitionName, offset: int) -> int | None:
        """See GroupLog."""
        broken = self.logs[name].broken
        there = offset
        while there in broken:
            there += 1
        return there if there > offset else None

    def send(self, letters: Sequence[Letter]) -> Sequence[str]:
        """See GroupLog."""
        self.letters += [] if self.refused else letters
        return [self.refused for _ in letters]

    def mark(self, offsets: Mapping[PartitionName, int]) -> None:
        """See GroupLog."""

    def close(self) -> None:
        """See GroupLog."""


class Share:
    """One session over the topics, its store and the closer behind it."""

    def __init__(self, made: StreamPlan, topics: Topics) -> None:
        self.topics = topics
        self.clock = Clock()
        self.lab = Lab(made, {})
        self.store = self.lab.store
        self._made = made
        self.begin()

    def begin(self) -> None:
        """A worker of nothing but what is stored."""
        self.session = GroupSession(self._made, self.topics.open, self.clock.times())
        self.session.champion("churn", self.lab.champions._champions["churn"])

    def run(self, steps: int = 12, seconds: float = 1.0) -> None:
        """Some steps, a moment apart; all that is made is stored at once."""
        for _ in range(steps):
            self.clock.seconds += seconds
            _, frame = self.session.step()
            if frame is not None and frame.kind == "want":
                self._answer(frame)
            elif frame is not None:
                self.store.take(batch_of(frame))
                self.session.stored()
        self.lab.close_slices()

    def finish(self) -> None:
        """Nothing comes any more: everything is closed."""
        for _ in range(3):
            heads = [json.loads(blob) for key, blob in self.store.states.items() if key.endswith("/head")]
            complete = [head["complete"] for head in heads]
            self.session.frontier(dict.fromkeys((head["topic"] for head in heads), max(complete)), min(complete))
            self.run(4, 61.0)

    def _answer(self, frame: Frame) -> None:
        told: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for topic, number in frame.body["partitions"]:
            mine = {key: blob for key, blob in self.store.states.items() if key.startswith(f"part/{topic}/{number}/")}
            told.append({"topic": topic, "partition": number, "states": list(mine)})
            blobs += mine.values()
        self.session.opened(Frame("partitions", {"partitions": told}, tuple(blobs)))

    def gaps(self) -> list[tuple[int, int, int, int | None]]:
        """Partition, from, to and how many were lost, of each gap."""
        found = [event for event in self.store.events if event.type == "source.gap"]
        assert [check_data(event.type, event.data) for event in found] == [[] for _ in found]
        assert len({event.id for event in found}) == len(found)
        return [(e.data["partition"], e.data["from_offset"], e.data["to_offset"], e.data.get("lost")) for e in found]

    def rows(self) -> list[int]:
        """Rows of the windows that were closed; each has an id of its own."""
        found = [event for event in self.store.events if event.type == "drift.measured"]
        assert len({event.id for event in found}) == len(found)
        return [event.data["window"]["rows"] for event in found]


def predictions(count: int, first: int = 0) -> list[Record]:
    """A record per second."""
    return [
        record({"id": f"r{n}", "at": n, "version": "1", "yhat": 1, "p": 0.5, "age": 1, "plan": "a"}, n)
        for n in range(first, first + count)
    ]


@pytest.fixture
def topics() -> Topics:
    """One topic of one partition, with forty records."""
    return Topics({("predictions", 0): Log(predictions(40))}, {"predictions": "one"})


@pytest.fixture
def share(tmp_path: Path, topics: Topics) -> Share:
    """A session that reads it."""
    return Share(topic_plan(tmp_path, ROWS, labels=""), topics)


@pytest.mark.parametrize("while_it_runs", [True, False])
def test_a_topic_that_is_made_anew_is_read_from_its_start(share: Share, topics: Topics, while_it_runs: bool) -> None:
    """Also when the place is in the new log: a gap is told, and each window counts, though their places begin again at 0."""
    share.run()
    topics.logs["predictions", 0] = Log(predictions(80, first=1000))
    topics.ids["predictions"] = "two"
    if not while_it_runs:
        share.begin()
    share.run()
    share.finish()

    assert share.gaps() == [(0, 40, 0, None)]
    assert sum(share.rows()) == 120
    (head,) = [json.loads(blob) for key, blob in share.store.states.items() if key.endswith("/head")]
    assert (head["offset"], head["rows"], head["topic_id"]) == (80, 120, "two")


def test_rows_of_a_topic_made_anew_that_come_before_its_id_is_known_are_not_stored(
    share: Share, topics: Topics
) -> None:
    """Our place is in the new log, and what is known of the topic is old: brokers are asked before anything is stored."""
    share.run()
    topics.logs["predictions", 0] = Log(predictions(80, first=1000))
    topics.word["predictions"] = "two"
    share.run(steps=30)
    assert share.gaps() == [(0, 40, 0, None)]
    topics.ids["predictions"] = "two"
    share.run()
    share.finish()

    assert share.gaps() == [(0, 40, 0, None)]
    assert sum(share.rows()) == 120


def test_while_brokers_do_not_say_which_topics_there_are_nothing_is_stored(share: Share, topics: Topics) -> None:
    """What cannot be told apart waits; it is stored as soon as they answer."""
    share.run()
    before = share.store.batches
    topics.logs["predictions", 0].records += predictions(40, first=40)
    topics.fault = Unavailable("kafka", "topics", "no answer")
    share.run(steps=3)
    assert share.store.batches == before
    topics.fault = None
    share.run()
    share.finish()
    assert sum(share.rows()) == 80


def test_a_topic_that_is_made_anew_with_fewer_partitions_goes_on(tmp_path: Path) -> None:
    """Partitions that are no more hold up no window."""
    topics = Topics({("predictions", n): Log(predictions(40)) for n in range(3)}, {"predictions": "one"})
    share = Share(topic_plan(tmp_path, ROWS, labels=""), topics)
    share.run()
    before = len(share.rows())
    topics.logs = {("predictions", 0): Log(predictions(100, first=1000))}
    topics.ids["predictions"] = "two"
    share.begin()
    share.run()

    assert share.gaps() == [(0, 40, 0, None)]
    assert len(share.rows()) > before + 5


@pytest.mark.parametrize("while_it_runs", [True, False])
def test_records_that_are_gone_before_they_were_read_are_a_gap(
    share: Share, topics: Topics, while_it_runs: bool
) -> None:
    """With its offsets and how many they are, once; reading goes on behind them."""
    share.run()
    log = topics.logs["predictions", 0]
    log.records += predictions(60, first=40)
    log.start = 70
    if not while_it_runs:
        share.begin()
    share.run()
    share.begin()
    share.run()
    share.finish()

    assert share.gaps() == [(0, 40, 70, 30)]
    assert sum(share.rows()) == 70


def test_a_log_that_is_lost_twice_is_two_gaps(share: Share, topics: Topics) -> None:
    """The same places again are another loss."""
    share.run()
    for life in (1, 2):
        topics.logs["predictions", 0].records = []
        share.run()
        topics.logs["predictions", 0].records = predictions(40, first=life * 1000)
        share.run()
    share.finish()

    assert share.gaps() == [(0, 40, 0, None)] * 2
    assert sum(share.rows()) == 120


def test_a_batch_that_cannot_be_decoded_is_stepped_over(share: Share, topics: Topics) -> None:
    """What is before it is measured, then it is tried again; in the end it is a gap, and what is behind it is measured."""
    topics.logs["predictions", 0].broken = frozenset(range(20, 27))
    share.run(4)
    assert "failed crc check" in share.session.problem
    assert share.gaps() == []
    share.run(20)
    share.finish()

    assert share.session.problem == ""
    assert share.gaps() == [(0, 20, 27, 7)]
    assert sum(share.rows()) == 33


def test_a_broker_that_hangs_is_told_and_closes_nothing(share: Share, topics: Topics) -> None:
    """Without an answer nothing counts as idle; after the connection's timeout it is away, and tried again ever more slowly."""
    share.run()
    topics.fault = Unavailable("kafka", "offsets", "timed out")
    share.run(5)
    assert share.session.problem == "the broker has not answered within 1.5 s"
    share.run(20, 5.0)
    assert share.session.problem == "kafka: offsets: timed out"
    assert share.session.places()["partitions"] == []
    share.run(20, 61.0)
    (head,) = [json.loads(blob) for key, blob in share.store.states.items() if key.endswith("/head")]
    assert not head["idle"]

    topics.fault = None
    share.run(4, 61.0)
    share.finish()
    assert share.session.problem == ""
    assert sum(share.rows()) == 40


def test_a_topic_that_is_not_there_is_told(share: Share, topics: Topics) -> None:
    """A name that no topic has is a problem that says so, until somebody makes the topic."""
    logs, topics.logs = topics.logs, {}
    share.run(3)
    assert share.session.problem == "there is no topic predictions: create it, or correct config.yaml"
    topics.logs = logs
    share.run(3)
    assert share.session.problem == ""


def test_the_lag_is_known_per_partition(share: Share, topics: Topics) -> None:
    """Records behind the place, as of the last look; not known while the broker does not answer."""
    share.run()
    topics.pause([("predictions", 0)])
    topics.logs["predictions", 0].records += predictions(5, first=40)
    share.run(3)
    assert share.session.places() == {
        "topics": {"predictions": 1},
        "partitions": [{"topic": "predictions", "partition": 0, "offset": 40, "lag": 5}],
    }
    topics.fault = Unavailable("kafka", "offsets", "timed out")
    share.run(3)
    assert share.session.places()["partitions"][0]["lag"] is None


def test_a_lull_that_is_over_is_an_event(share: Share, topics: Topics) -> None:
    """Which slices were closed before the record that came next: once per lull, and tombstones and marks end none."""
    share.run()
    share.run(4, 61.0)
    topics.logs["predictions", 0].records += predictions(5, first=200)
    share.run()
    share.begin()
    share.run(2)
    share.run(4, 61.0)
    topics.logs["predictions", 0].records += predictions(5, first=300)
    share.run()

    found = [event for event in share.store.events if event.type == "partition.closed"]
    assert [check_data(event.type, event.data) for event in found] == [[], []]
    assert [(event.data["offset"], event.data["until"]) for event in found] == [
        (40, "1970-01-01T00:00:40+00:00"),
        (45, "1970-01-01T00:03:30+00:00"),
    ]
    (head,) = [json.loads(blob) for key, blob in share.store.states.items() if key.endswith("/head")]
    assert [place for place, _ in head["closures"]] == [event.data["place"] for event in found]


# -- records that cannot be used


def test_a_value_over_the_limit_is_malformed_however_the_log_is_portioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone or among so many that they are decoded at once: the same record is left out, and has a letter."""
    monkeypatch.setattr(partition, "LONGEST", 2000)
    rows = predictions(200)
    rows[30] = record({"id": "long", "at": 30, "yhat": 1, "plan": "x" * 3000}, 30)
    counted = []
    for portion in (1, 200):
        lab = Lab(topic_plan(tmp_path, ROWS, labels=""), {("predictions", 0): rows})
        lab.finish(portion)
        counted.append((lab.closer.figures()["rows"], [problem.where for problem in lab.store.problems]))
    assert counted == [(199, ["predictions/0@30"])] * 2


def test_records_that_cannot_be_used_go_to_the_dead_letter_topic(tmp_path: Path, topics: Topics) -> None:
    """The value as it was, its position, time and reason; the problem names the topic, and no file is written."""
    log = topics.logs["predictions", 0]
    log.records[3] = (3000, b"{rubbish")
    log.records[5] = record({"at": 5, "age": 7}, 5)
    share = Share(topic_plan(tmp_path, ROWS, labels="", dead_letter_topic="churn.dead"), topics)
    share.run()

    assert [(one.partition, one.offset, one.timestamp, one.value) for one in topics.letters] == [
        (("predictions", 0), 3, 3000, b"{rubbish"),
        (("predictions", 0), 5, 5000, log.records[5][1]),
    ]
    assert [one.reason.split(":")[0] for one in topics.letters] == [
        p.reason.split(":")[0] for p in share.store.problems
    ]
    assert [problem.dead_letter for problem in share.store.problems] == ["topic churn.dead"] * 2
    assert not (tmp_path / "dead-letters").exists()


def test_privacy_holds_for_the_dead_letter_topic(tmp_path: Path, topics: Topics) -> None:
    """What may not be stored is not sent either: dropped fields are gone, and of what is no record only a digest is told."""
    log = topics.logs["predictions", 0]
    log.records[3] = (3000, b'{"who": "ann"')
    log.records[5] = record({"at": 5, "who": "ann", "age": 7}, 5)
    made = topic_plan(tmp_path, ROWS, labels="", dead_letter_topic="churn.dead", privacy={"who": "drop"})
    Share(made, topics).run()

    assert len(topics.letters) == 2
    assert not any(b"ann" in (one.value or b"") for one in topics.letters)
    assert json.loads(topics.letters[0].value or b"").keys() == {"bytes", "sha256"}
    assert json.loads(topics.letters[1].value or b"")["record"]["age"] == 7


def test_letters_that_the_topic_does_not_take_lie_in_files(tmp_path: Path, topics: Topics) -> None:
    """The problem says why, and where the letter is."""
    topics.logs["predictions", 0].records[3] = (3000, b"{rubbish")
    topics.refused = "the topic is not there"
    share = Share(topic_plan(tmp_path, ROWS, labels="", dead_letter_topic="churn.dead"), topics)
    share.run()

    (problem,) = share.store.problems
    assert problem.reason.endswith("(dead-letter topic churn.dead does not take it: the topic is not there)")
    assert json.loads(Path(problem.dead_letter).read_bytes())["raw"] == "{rubbish"


def test_no_progress_passes_a_letter_that_is_not_kept(
    tmp_path: Path, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither topic nor disk takes it: nothing is read or stored until one of them does."""
    topics.logs["predictions", 0].records[3] = (3000, b"{rubbish")
    topics.refused = "the topic is not there"
    share = Share(topic_plan(tmp_path, ROWS, labels="", dead_letter_topic="churn.dead"), topics)
    full = OSError(28, "No space left on device")

    def refuse(_self: object, _target: Path, _what: bytes | str) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(dead_letters.DeadLetters, "_put", refuse)
        share.run()
        assert "no room for dead letters" in share.session.problem
        assert "predictions/0" not in share.store.progress
    share.run()
    assert share.store.progress["predictions/0"] == 40
    assert [problem.where for problem in share.store.problems] == ["predictions/0@3"]
