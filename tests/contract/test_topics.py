"""Records of topics as events, places and gaps, and dead letters in files: without a broker."""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemon.clients.kafka_errors import Partition
from daemon.clients.kafka_places import Gap, Place, gap_of
from daemon.core.errors import BadInput
from daemon.core.schema import check_data
from daemon.sources.cloudevents import Unsupported, message_of, read_record
from daemon.sources.letters import NAMED, Letters, NoRoom
from daemon.sources.topics import Poison, cursor_of, place_of, read, written_at
from tests.services.kafkas import plain

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDERS = Partition("orders", 3)


@dataclass
class Raw:
    """A record as a log has it."""

    value: bytes | None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    key: bytes | None = None
    offset: int = 7
    timestamp: int = 1_767_225_600_000


def structured(**more: Any) -> bytes:
    """A CloudEvent as one JSON value."""
    return orjson.dumps({"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed", **more})


BINARY: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"order.placed"),
    ("ce_subject", "Grüße %41".encode()),
    ("trace", None),
]


def test_structured_and_binary_mode_say_the_same() -> None:
    """The attributes of a record's JSON, or its ce_ headers as they are, with the data in the value."""
    one = read_record([("Content-Type", b"application/cloudevents+json; charset=UTF-8")], structured(data={"n": 1}))
    two = read_record([*BINARY, ("content-type", b"application/json")], b'{"n": 1}')
    assert one is not None
    assert two is not None
    assert (one.id, one.source, one.type, one.data) == (two.id, two.source, two.type, two.data)
    assert two.subject == "Grüße %41"  # headers of Kafka are not percent-encoded
    assert message_of("shop", "orders", one, NOW).key == message_of("shop", "orders", two, NOW).key


def test_a_record_without_headers_is_taken_for_a_structured_one() -> None:
    """Many producers set none."""
    told = read_record([], structured(data=[1]))
    assert told is not None
    assert told.data == [1]


def test_a_tombstone_is_no_event_but_an_event_may_have_no_data() -> None:
    """A null value without ce_ headers says nothing; with them the event is there, without data."""
    assert read_record([("trace", b"x")], None) is None
    told = read_record(BINARY, None)
    assert told is not None
    assert told.data is None


@pytest.mark.parametrize(
    ("headers", "value", "why"),
    [
        ([], b"{", "the content is not JSON"),
        ([], b"", "the content is not JSON"),
        ([], b"[]", "an event must be an object"),
        ([], b"\xff\xfe", "the content is not JSON"),
        ([], orjson.dumps({"id": "1"}), "specversion must be"),
        ([("content-type", b"avro/binary")], b"\x00", "the record is avro/binary"),
        ([*BINARY, ("content-type", b"avro/binary")], b"\x00", "the data is avro/binary"),
        ([*BINARY, ("ce_id", b"\xff")], b"{}", "header ce_id is not UTF-8"),
        ([("ce_id", b"1")], b"{}", "specversion must be"),
        ([*BINARY, ("ce_id", None)], b"{}", "the event has no id"),
    ],
)
def test_what_is_no_cloudevent_is_told(headers: list[tuple[str, bytes | None]], value: bytes, why: str) -> None:
    """Every way in which a record can be no CloudEvent has its reason."""
    with pytest.raises(BadInput, match=why):
        read_record(headers, value)
    assert issubclass(Unsupported, BadInput)


def test_events_that_may_come_from_outside_are_taken_as_such_and_others_are_messages() -> None:
    """A type of the catalogue has its own fields; one that only the daemon may tell comes as a message."""
    landed = {"source": "lake", "path": "/a", "folder": "", "name": "a", "bytes": 1, "digest": "d"}
    events, poison = read(
        "shop",
        ORDERS,
        [
            Raw(structured(type="data.landed", data=landed)),
            Raw(structured(type="data.landed", data={"source": "lake"})),
            Raw(
                structured(
                    type="run.finished", data={"status": "promoted"}, subject="churn", time="2026-01-01T00:00:00Z"
                )
            ),
        ],
        10_000,
        NOW,
    )
    assert [(event.type, event.subject, event.source) for event in events] == [
        ("data.landed", "lake", "kafka:shop"),
        ("message.received", "churn", "kafka:shop"),
    ]
    assert [check_data(event.type, event.data) for event in events] == [[], []]
    assert events[1].data == {
        "source": "shop", "topic": "orders", "type": "run.finished", "sender": "/shop", "payload": {"status": "promoted"},
    }  # fmt: skip
    assert [event.time.isoformat() for event in events] == ["2026-01-01T00:00:00+00:00"] * 2
    assert [(one.where, one.reason.split(":")[0]) for one in poison] == [("orders/3@7", "data of data.landed")]


def test_a_record_that_is_too_long_is_poison() -> None:
    """Its length and the limit are told; one that has the limit is read."""
    value = structured()
    assert [len(part) for part in read("shop", ORDERS, [Raw(value)], len(value), NOW)] == [1, 0]
    _, (poison,) = read("shop", ORDERS, [Raw(value)], len(value) - 1, NOW)
    assert poison.reason == f"it has {len(value)} bytes; the source takes {len(value) - 1} (max_bytes)"


def test_times_that_no_calendar_has_are_not_believed() -> None:
    """The time of writing is the record's; without one, or with nonsense, it is the other one."""
    assert written_at(Raw(b"", timestamp=0), NOW) == datetime(1970, 1, 1, tzinfo=UTC)
    assert written_at(Raw(b"", timestamp=-1), NOW) == NOW
    assert written_at(Raw(b"", timestamp=2**62), NOW) == NOW


def test_a_place_is_stored_and_found_again() -> None:
    """A cursor's value gives back the place; nothing stored is no place."""
    place = Place("id", 12)
    cursor = cursor_of("kafka:shop", ORDERS, place)
    assert cursor.source == "kafka:shop/orders/3"
    assert place_of(orjson.loads(orjson.dumps(cursor.value))) == place
    assert place_of(None) is None


@pytest.mark.parametrize(
    ("before", "topic_id", "start", "end", "lost", "after"),
    [
        (Place("a", 5), "a", 0, 9, None, None),
        (Place("a", 5), "a", 5, 5, None, None),
        (Place("", 5), "a", 0, 9, None, None),
        (Place("a", 5), "", 0, 9, None, None),
        (Place("a", 5), "a", 8, 9, 3, Place("a", 8)),
        (Place("a", 5), "a", 1, 4, "absent", Place("a", 1)),
        (Place("a", 5), "b", 0, 9, "absent", Place("b", 0)),
        (Place("a", 0), "b", 0, 0, "absent", Place("b", 0)),
    ],
)
def test_what_is_gone_is_a_gap(
    before: Place, topic_id: str, start: int, end: int, lost: int | str | None, after: Place | None
) -> None:
    """Records deleted unread, a log that was cut, another topic of the same name; nothing else."""
    gap = gap_of(ORDERS, before, topic_id, start, end)
    assert (gap.after if gap else None) == after
    if gap is None:
        return
    event = gap.event("kafka", "shop", NOW)
    assert event.type == "source.gap"
    assert check_data(event.type, event.data) == []
    assert event.data.get("lost", "absent") == lost
    assert (event.data["from_offset"], event.data["to_offset"]) == (before.offset, gap.after.offset)


def test_the_same_gap_is_the_same_event() -> None:
    """After a crash it is told again, and known; another one of the same offsets in another topic is not."""
    gap = Gap(ORDERS, Place("a", 1), Place("a", 2), "why")
    assert gap.event("kafka", "shop", NOW).key == gap.event("kafka", "shop", datetime.now(UTC)).key
    assert (
        gap.event("kafka", "shop", NOW).key
        != Gap(ORDERS, Place("b", 1), Place("b", 2), "why").event("kafka", "shop", NOW).key
    )


def letters(folder: Path) -> Letters:
    """Without a topic."""
    return Letters(plain("127.0.0.1:1"), "shop", "", folder, threading.Event())


def test_without_a_topic_letters_lie_in_files(tmp_path: Path) -> None:
    """All of the record, its position and the reason; the same record again is the same file."""
    record = Raw(b"\xff", [("h", b"x"), ("n", None)], key=b"k")
    for _ in range(2):
        (problem,) = letters(tmp_path / "dead").keep([Poison(ORDERS, record, "bad")])
    (path,) = (tmp_path / "dead").iterdir()
    assert (problem.kind, problem.where, problem.reason, problem.dead_letter) == (
        "kafka", "orders/3@7", "bad", str(path),
    )  # fmt: skip
    assert orjson.loads(path.read_bytes()) == {
        "record": "orders/3@7", "reason": "bad", "timestamp": record.timestamp, "key": "k",
        "value": {"base64": "/w=="}, "headers": [["h", "x"], ["n", None]],
    }  # fmt: skip


def test_many_letters_have_few_problems(tmp_path: Path) -> None:
    """A topic of rubbish does not fill the list of problems: the first have their own, the rest share one."""
    poison = [Poison(ORDERS, Raw(b"", offset=number), "bad") for number in range(NAMED + 30)]
    problems = letters(tmp_path).keep(poison)
    assert len(problems) == NAMED + 1
    assert problems[-1].reason == "this and 29 more records behind it cannot be read; the first: bad"
    assert len(list(tmp_path.iterdir())) == NAMED + 30


def test_a_full_disk_makes_letters_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room is told as such, and leaves nothing half; any other trouble is said in the problem."""

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NoRoom, match="there is no room"):
        letters(tmp_path).keep([Poison(ORDERS, Raw(b""), "bad")])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (problem,) = letters(tmp_path / "file").keep([Poison(ORDERS, Raw(b""), "bad")])
    assert problem.reason == "bad (not kept: File exists)"
