"""What is handed in is stored, decided and receipted once."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daemon import answers
from daemon.clients.gone import path_key
from daemon.core.errors import DaemonError, Fenced, StoreBusy
from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, FileMark, Forgotten, GoneFile, Progress, StateWrite
from daemon.lanes import Item
from daemon.ledger import NO_RULES, Ledger
from daemon.points import Point
from tests.builders import T0, at, landed, lasting, measured, rule, rules, said, windows
from tests.writer.conftest import PATIENCE, World

EACH = rules(rule(on="data.landed", when=()))


def test_a_receipt_names_the_places(world: World) -> None:
    """Events are stored in the order in which they came, each with its place and time; the receipt says so."""
    world.open(EACH)
    receipt = world.submit(landed(1), landed(2), landed(3))
    assert (receipt.seqs, receipt.fresh) == ((2, 3, 4), (True, True, True))
    stored = world.events()
    assert ["load" if one.recorded.event.type == "rules.loaded" else one.recorded.event.id for one in stored] == [
        "load",
        "file-1",
        "file-2",
        "file-3",
    ]
    times = [one.recorded.at for one in stored]
    assert sorted(set(times)) == times


def test_the_same_event_again_is_the_same_event(world: World) -> None:
    """A repeat, in the same batch or later, gets the first one's place and is decided once."""
    world.open(EACH)
    once = world.submit(landed(1), landed(1))
    again = world.submit(landed(2), landed(1))
    assert (once.seqs, once.fresh) == ((2, 2), (True, False))
    assert (again.seqs, again.fresh) == ((3, 2), (True, False))
    assert len(world.verdicts()) == 2


def test_a_repeat_is_known_after_a_restart(world: World) -> None:
    """Deduplication is in the store, not in the process."""
    world.open(EACH)
    first = world.submit(landed(1))
    world.restart(EACH)
    assert (first.seqs, (False,)) == (world.submit(landed(1)).seqs, world.submit(landed(1)).fresh)


def test_everything_of_a_batch_is_stored_together(world: World) -> None:
    """Cursors, files, progress, states and problems come back as they were handed in."""
    world.open(EACH)
    mark = FileMark("storage:in", "/in/a", 3, 17, "d", "taken")
    world.submit(
        landed(1),
        cursors=(Cursor("s", {"at": [1, "x"]}),),
        files=(mark,),
        progress=(Progress("stream", "0", 0, 100),),
        states=(StateWrite("stream", "pane", b"\x00\x01"),),
        problems=(Problem("file", "/in/b", "empty"),),
    )
    writer = world.writer
    assert writer.cursor("s") == {"at": [1, "x"]}
    assert {"/in/a": mark} == writer.files("storage:in")
    assert writer.progress("stream", "0") == 100
    assert writer.states("stream") == {"pane": b"\x00\x01"}
    assert [row[:4] for row in world.rows("problems", 10)] == [("file", "/in/b", "empty", "")]
    assert (writer.cursor("x"), writer.files("x"), writer.progress("x", "0"), writer.states("x")) == (None, {}, 0, {})
    world.submit(states=(StateWrite("stream", "pane", None),))
    assert writer.states("stream") == {}


def test_what_is_gone_is_stored_and_forgotten_with_its_batch(world: World) -> None:
    """A mark goes with its file, its content is kept until it is forgotten; of a batch that is refused nothing is done."""
    world.open(EACH)
    digest = "ab" * 32
    mark = FileMark("storage:in", "/in/a", 3, 17, digest, "taken", 5)
    gone = GoneFile("storage:in", "/in/a", digest, 1000)
    refused = (Progress("s", "0", 7, 8),)
    writer = world.writer
    world.submit(files=(mark,))
    with pytest.raises(Fenced):
        world.submit(gone=(gone,), progress=refused)
    assert (writer.files("storage:in"), writer.gone("storage:in")) == ({"/in/a": mark}, b"")
    world.submit(gone=(gone,))
    packed = bytes.fromhex(digest[:32]) + path_key("/in/a") + (1000).to_bytes(8, "big")
    assert (writer.files("storage:in"), writer.gone("storage:in"), writer.gone("other")) == ({}, packed, b"")
    for until in (999, 1000):
        with pytest.raises(Fenced):
            world.submit(forgotten=(Forgotten("storage:in", until),), progress=refused)
        world.submit(forgotten=(Forgotten("storage:in", until), Forgotten("other", 2000)))
        assert writer.gone("storage:in") == (packed if until < 1000 else b"")


def test_a_file_that_went_and_came_back_has_its_mark(world: World) -> None:
    """Also when both are told of in one batch; one without a content of its own leaves nothing to be known."""
    world.open(EACH)
    mark = FileMark("o", "/a", 3, 17, "ab" * 32, "taken", 5)
    world.submit(files=(mark,), gone=(GoneFile("o", "/a", "", 1000),))
    assert (world.writer.files("o"), world.writer.gone("o")) == ({"/a": mark}, b"")


def test_what_is_known_of_files_is_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their paths, and of when they went; many that went at once are all there."""
    monkeypatch.setattr(answers, "GONE", 3)
    world.open(EACH)
    marks = [FileMark("o", f"/{number}", 1, 1, "", "empty") for number in range(8)]
    world.submit(
        files=tuple(reversed(marks)),
        gone=tuple(
            GoneFile("o", f"/gone/{number}", f"{9 - number:02}" * 32, 1000 + number // 7) for number in range(9)
        ),
    )
    assert list(world.writer.files("o", "/4", 2)) == ["/5", "/6"]
    packed = world.writer.gone("o")
    times = [int.from_bytes(packed[at + 24 : at + 32], "big") for at in range(0, len(packed), 32)]
    assert times == [1000] * 7 + [1001] * 2
    assert len({packed[at : at + 16] for at in range(0, len(packed), 32)}) == 9


def test_progress_that_moved_on_refuses_the_whole_batch(world: World) -> None:
    """A batch whose progress is not where its sender thought is Fenced, and nothing of it is kept."""
    world.open(EACH)
    world.submit(progress=(Progress("s", "0", 0, 10),))
    with pytest.raises(Fenced):
        world.submit(
            landed(1), cursors=(Cursor("c", 1),), progress=(Progress("s", "1", 0, 5), Progress("s", "0", 0, 20))
        )
    assert (world.writer.progress("s", "0"), world.writer.progress("s", "1"), world.writer.cursor("c")) == (10, 0, None)
    assert [one.recorded.event.type for one in world.events()] == ["rules.loaded"]


def together(world: World, *batches: Batch) -> list[Any]:
    """Hand batches in so that one transaction takes them all; each one's receipt or error."""
    answers: list[Any] = [None] * len(batches)

    def hand_in(number: int) -> None:
        try:
            answers[number] = world.writer.submit(batches[number], PATIENCE)
        except (DaemonError, TypeError) as error:
            answers[number] = error

    held, go = threading.Event(), threading.Event()

    def hold(_ledger: Ledger) -> None:
        held.set()
        go.wait(PATIENCE)

    world.writer._put(Item(hold, 1), brief=True)
    held.wait(PATIENCE)
    threads = [threading.Thread(target=hand_in, args=(number,)) for number in range(len(batches))]
    for number, thread in enumerate(threads, 1):
        thread.start()
        world.wait(lambda number=number: world.writer.queued == number)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    return answers


def test_what_is_urgent_ends_a_streams_group_early(world: World) -> None:
    """A few events that come while a stream's batches are being written go in right after the batch that is under way."""
    world.open(EACH)
    order: list[str] = []
    came, entered = threading.Event(), threading.Event()

    def first(_ledger: Ledger) -> None:
        entered.set()
        assert came.wait(PATIENCE)
        order.append("stream 1")

    blocked, release = threading.Event(), threading.Event()

    def block(_ledger: Ledger) -> None:
        blocked.set()
        assert release.wait(PATIENCE)

    put = world.writer._put
    put(Item(block, 100), brief=False)
    assert blocked.wait(PATIENCE)  # what is put now is gathered into one group
    put(Item(first, 100), brief=False)
    last = put(Item(lambda _ledger: order.append("stream 2"), 100), brief=False)
    release.set()
    assert entered.wait(PATIENCE)
    urgent = put(Item(lambda _ledger: order.append("urgent"), 1), brief=True)
    came.set()
    urgent.result(PATIENCE)
    last.result(PATIENCE)
    assert order == ["stream 1", "urgent", "stream 2"]


def test_many_batches_share_a_transaction(world: World) -> None:
    """What has queued up is made durable with one COMMIT, in the order in which it came."""
    commits: list[Point] = []
    world.on_point = lambda point: commits.append(point) if point is Point.AFTER_COMMIT else None
    world.open(EACH)
    commits.clear()
    answers = together(world, *(Batch(events=(landed(number),)) for number in range(5)))
    assert [answer.seqs for answer in answers] == [(2,), (3,), (4,), (5,), (6,)]
    assert len(commits) == 2  # the one that held them back, and theirs


def test_one_bad_batch_costs_that_batch_only(world: World) -> None:
    """When a group fails its batches are tried one by one: the others are stored, the bad one is told why."""
    world.open(EACH)
    bad = Batch(events=(landed(2),), progress=(Progress("s", "0", 7, 8),))
    strange = Batch(cursors=(Cursor("c", {1, 2}),))
    one, fenced, odd, two = together(world, Batch(events=(landed(1),)), bad, strange, Batch(events=(landed(3),)))
    assert (one.seqs, two.seqs) == ((2,), (3,))
    assert isinstance(fenced, Fenced)
    assert isinstance(odd, TypeError)
    assert [one.recorded.event.id for one in world.events()[1:]] == ["file-1", "file-3"]


def test_an_event_of_no_known_type_is_kept_with_its_reason(world: World) -> None:
    """Nothing is dropped: an event that no rule can be asked about is stored as undecidable, and intake goes on."""
    world.open(EACH)
    world.submit(replace(landed(1), type="no.such"), landed(2))
    first, second = world.events()[1:]
    assert first.undecidable == "there is no event type 'no.such'"
    assert second.undecidable == ""


@pytest.mark.parametrize("data", [{"window": {}}, {"drifted_columns": "many"}, {"window": 3}])
def test_an_event_that_does_not_fit_its_type_is_undecidable(world: World, data: dict[str, Any]) -> None:
    """A fault in one event becomes a stored reason that names it, and harms neither the batch nor the rules' memory."""
    world.open(rules(rule(hold=windows(2))))
    world.submit(measured(1, 1), replace(measured(2, 1), data={**measured(2, 1).data, **data}), measured(3, 1))
    events = world.events()[1:]
    assert [one.undecidable if not one.undecidable else "monitor:m" in one.undecidable for one in events] == [
        "",
        True,
        "",
    ]
    assert world.verdicts() == ["held", "fired"]


def test_data_that_json_cannot_hold_is_kept_as_absent(world: World) -> None:
    """NaN is unknown, never false, and the event says why; the same after a restart."""
    world.open(rules(rule(when=("event.drifted_share >= 0.5",))))
    world.submit(measured(1, 1, drifted_share=float("nan"), note="\ud800"))
    assert world.verdicts() == ["unknown"]
    assert world.events()[1].recorded.event.data["unset"] == {"drifted_share": "not a finite number"}


ODD = "half of \ud800"
"""A text that JSON can spell (a file name can hold its like) and that cannot be stored."""


@pytest.mark.parametrize(
    "odd", [{"id": ODD}, {"source": ODD}, {"type": ODD}, {"subject": ODD}, {"chain": ("run", ODD)}], ids=str
)
def test_an_event_whose_name_cannot_be_stored_costs_that_event_only(world: World, odd: dict[str, Any]) -> None:
    """It becomes a problem that names it, its neighbours are stored and decided, and its receipt says that it has no place."""
    world.open(EACH)
    receipt = world.submit(landed(1), replace(landed(2), **odd), landed(3), cursors=(Cursor("s", 3),))
    assert (receipt.seqs, receipt.fresh) == ((2, 0, 4), (True, False, True))
    ((kind, where, reason, *_),) = world.rows("problems", 10)
    assert (kind, where) == ("event", odd.get("source", landed(2).source).replace("\ud800", "\\ud800"))
    assert next(iter(odd)) in reason
    assert len(world.verdicts()) == 2
    assert world.writer.cursor("s") == 3
    again = world.submit(replace(landed(2), **odd))
    assert again.seqs == (0,)
    assert [row[6] for row in world.rows("problems", 10)] == [2]


def test_a_problem_about_an_odd_name_is_stored_with_the_name_written_out(world: World) -> None:
    """A file name that is no UTF-8 can be the place of a problem, and part of its reason."""
    world.open(EACH)
    world.submit(problems=(Problem("file", "/in/\udcff.csv", "\udcff is no text"),))
    assert [row[1:3] for row in world.rows("problems", 10)] == [("/in/\\udcff.csv", "\\udcff is no text")]


def test_before_rules_are_in_force_nothing_is_decided(world: World) -> None:
    """An event that comes before the first load is kept with that reason; the operator's word counts all the same."""
    world.open(None)
    world.submit(measured(1, 1), said("pause"))
    assert [one.undecidable for one in world.events()] == [NO_RULES, NO_RULES]
    world.writer.load(rules(rule()), {})
    world.submit(measured(2, 1))
    assert world.verdicts() == ["paused"]


def test_recorded_time_never_goes_back(world: World) -> None:
    """When the clock is set back, recorded times go on from where they were."""
    world.open(EACH)
    world.submit(landed(1))
    world.moment -= timedelta(hours=3)
    world.submit(landed(2), landed(3))
    times = [one.recorded.at for one in world.events()]
    assert sorted(set(times)) == times
    world.restart(EACH)
    world.submit(landed(4))
    times = [one.recorded.at for one in world.events()]
    assert sorted(set(times)) == times


def test_due_times_become_events(world: World) -> None:
    """A time that a rule waits for is a stored event when it has come, and fires the rule."""
    world.open(rules(rule(hold=lasting(30))))
    world.submit(measured(1, 1))
    world.later(29)
    world.submit(landed(1))
    assert world.verdicts() == ["held"]
    world.later(1)
    world.wait(lambda: len(world.verdicts()) == 2)
    assert world.verdicts() == ["held", "fired"]
    event = world.events()[-1].recorded.event
    assert (event.type, event.source, event.data["why"]) == ("timer.due", "driftd:timers", "for")
    assert world.rows("timers_due", 2**62, 10)[1:] == []  # the call's deadline is the only one left


def test_times_that_passed_while_driftd_was_down_are_decided_by_the_rules(world: World) -> None:
    """After a restart the due times wait until the rules are in force again."""
    kept = rules(rule(hold=lasting(30)))
    world.open(kept)
    world.submit(measured(1, 1))
    world.close()
    world.moment += timedelta(hours=1)
    world.open(None)
    world.submit(landed(1))
    assert world.verdicts() == ["held"]
    world.writer.load(kept, {})
    world.wait(lambda: len(world.verdicts()) == 2)
    assert world.verdicts() == ["held", "fired"]


def test_many_due_times_are_taken_in_portions(world: World) -> None:
    """More due times than one transaction takes all become events, each once."""
    world.open(rules(rule(hold=lasting(30), for_each=("event.worst_column",))))
    world.submit(*(measured(n, 1, worst_column=str(n)) for n in range(1200)))
    world.later(60)
    world.wait(lambda: world.verdicts().count("fired") == 1200)
    assert (
        sum(one.recorded.event.type == "timer.due" and one.recorded.event.subject == "r" for one in world.events())
        == 1200
    )


def test_memory_moves_only_after_commit(world: World) -> None:
    """A transaction that is rolled back leaves no trace in what the rules remember."""
    broken = threading.Event()

    def breaks(point: Point) -> None:
        if point is Point.BEFORE_COMMIT and broken.is_set():
            broken.clear()
            raise ValueError("the transaction is not to be")

    world.on_point = breaks
    world.open(rules(rule(hold=windows(2))))
    world.submit(measured(1, 0))
    before = (world.writer.standing, dict(world.writer.standing.memory))
    broken.set()
    with pytest.raises(ValueError, match="not to be"):
        world.submit(measured(2, 1))
    assert before == (world.writer.standing, dict(world.writer.standing.memory))
    world.submit(measured(3, 1))
    assert world.verdicts() == ["not met", "held"]


def test_a_problem_is_an_event_once(world: World) -> None:
    """The same problem again is counted up; rules hear of it the first time."""
    world.open(rules(rule(on="problem.recorded", when=())))
    for _ in range(3):
        world.submit(problems=(Problem("record", "a.jsonl:7", "no id"),))
    assert [row[6] for row in world.rows("problems", 10)] == [3]
    assert world.verdicts() == ["fired"]


def test_a_queue_that_is_full_says_so(world: World) -> None:
    """Nothing is dropped and nobody waits for ever: a sender is told to hand it in again."""
    go = threading.Event()
    world.on_point = lambda point: go.wait(PATIENCE) and None if point is Point.BEFORE_COMMIT else None
    go.set()
    world.open(EACH)
    go.clear()
    with pytest.raises(StoreBusy, match="again"):
        world.writer.submit(Batch(events=(landed(1),)), 0.05)
    with pytest.raises(StoreBusy, match="again"):
        world.writer.submit(Batch(events=(landed(2),)), 0.05)
    go.set()
    assert world.submit(landed(2)).fresh == (True,)  # it was taken back before its turn


def test_who_comes_after_the_end_is_told(world: World) -> None:
    """A writer that has stopped takes nothing, and says that driftd is stopping."""
    world.open(EACH)
    world.writer.stop()
    with pytest.raises(StoreBusy, match="stopping"):
        world.submit(landed(1))


def test_what_a_reader_sees_stands_still(world: World) -> None:
    """A view that was opened before a commit does not see it."""
    world.open(EACH)
    with world.store.read() as session:
        before = session.rows("last_event")
        world.submit(landed(1))
        assert before == session.rows("last_event")
    assert world.rows("last_event")[0][0] == 2


def test_a_reload_takes_effect_between_two_events(world: World) -> None:
    """Each event is decided by the rules in force at its place; the reload is an event itself."""
    world.open(rules(rule("old")))
    world.submit(measured(1, 1))
    world.writer.load(rules(rule("new")), {"a.yaml": "text"})
    world.submit(measured(2, 1))
    assert [decision.rule for decision in world.decisions()] == ["old", "new"]
    loads = [one.recorded.event.data for one in world.events() if one.recorded.event.type == "rules.loaded"]
    assert [data["started"] for data in loads] == [True, False]
    assert [b'{"a.yaml":"text"}'.decode()] == [row[0] for row in world.rows("ruleset", loads[1]["revision"])]


def test_events_carry_their_own_time_and_chain(world: World) -> None:
    """Event time and causes are stored as they came."""
    world.open(EACH)
    event = Event("x", "s", "data.landed", "landing", at(-5000), landed(1).data, ("run-1", "run-2"))
    world.submit(event)
    stored = world.events()[1].recorded
    assert (event.time, event.chain) == (stored.event.time, stored.event.chain)
    assert stored.at >= T0
