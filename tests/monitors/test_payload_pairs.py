"""Requests and responses of the payload logger become rows: a function of the log, and nothing is lost in silence."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.monitors.payloads import pairs
from daemon.monitors.payloads.format import KServeFormat
from daemon.monitors.plan import StreamPlan
from tests.monitors.payloads import START, call, headers, line, payload_plan, values

NOW = round(START.timestamp() * 1e6) + 3600 * 10**6
EMPTY = b""
QUIET = {"unanswered": 0, "unasked": 0, "crowded": 0, "repeated": 0, "other": 0}


def read(
    made: StreamPlan, log: Sequence[bytes], sizes: Sequence[int] = (), restart: bool = False
) -> tuple[list[Any], list[tuple[int, str]], KServeFormat]:
    """The rows of a log that was read in portions of these sizes (each anew from the state that was stored, or not)."""
    form = KServeFormat(made)
    rows: list[Any] = []
    malformed: list[tuple[int, str]] = []
    borders = [0, *sorted({size for size in sizes if 0 < size < len(log)}), len(log)]
    for start, stop in itertools.pairwise(borders):
        landed = np.full(stop - start, NOW, np.int64)
        for raw in form.decode(log[start:stop], range(start, stop), landed):
            rows += [(where, *row) for where, row in zip(raw.lines, values(raw, *made.columns), strict=True)]
            malformed += [(one.where, one.reason) for one in raw.malformed]
        if restart:
            form = KServeFormat(made, form.state())
    return rows, malformed, form


def one(made: StreamPlan, *log: bytes) -> tuple[list[tuple[Any, ...]], list[str], dict[str, int]]:
    """Rows as (id, age, score), reasons, and what was counted."""
    form = KServeFormat(made)
    (raw,) = form.decode(log, range(len(log)), np.full(len(log), NOW, np.int64))
    counts = {name: getattr(form.counts, name) for name in QUIET}
    return values(raw, "id", "age", "prediction.score"), [bad.reason for bad in raw.malformed], counts


@pytest.fixture
def made(tmp_path: Path) -> StreamPlan:
    """A plan."""
    return payload_plan(tmp_path)


AGES = [{"age": 30, "plan": "a"}, {"age": 41, "plan": "b"}]


def test_a_call_of_two_rows_is_two_records(made: StreamPlan) -> None:
    """Ids by row number, the response's time, the event's attributes and headers, the columns of both sides."""
    request, response = call("c1", 10, AGES)
    (raw,) = KServeFormat(made).decode([request, response], [7, 9], np.full(2, NOW, np.int64))

    found = values(raw, "id", "time", "ce.metadata.x-user", "age", "plan", "prediction.score", "prediction.label")
    at = round(START.timestamp() * 1e6) + 10_050_000
    assert found == [("c1/0", at, "u1", 30, "a", 0.3, 0), ("c1/1", at, "u1", 41, "b", 0.41, 1)]
    assert list(raw.lines) == [9, 9]
    assert raw.is_safe


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_in_whatever_order_halves_come_the_rows_are_the_same(tmp_path_factory: Any, seed: int) -> None:
    """All events of many calls, shuffled within the time that halves wait for each other."""
    made = payload_plan(tmp_path_factory.getbasetemp())
    chance = random.Random(seed)
    events = [
        (second + chance.uniform(0, 20), event)
        for second in range(60)
        for event in call(f"c{second}", second, AGES[: chance.randint(1, 2)], took=chance.uniform(-5, 5))
    ]
    ordered = [event for _, event in events]
    shuffled = [event for _, event in sorted(events)]

    rows, malformed, form = read(made, ordered)
    others, _, other = read(made, shuffled)

    assert sorted(row[1:] for row in rows) == sorted(row[1:] for row in others)
    assert malformed == []
    assert form.unpaired == other.unpaired == 0
    assert form.waiting == other.waiting == 0


def rubbish(chance: random.Random, count: int) -> list[bytes]:
    """A log of everything that happens: calls, halves of calls, ids that come again, events twice, other events."""
    log: list[tuple[float, bytes]] = []
    for number in range(count):
        second = number * chance.choice([0.1, 2])
        name = chance.choice([f"c{number}", f"c{number}", "same", f"c{chance.randrange(count)}"])
        rows = [
            {"age": chance.choice([1, 2.5, None, "x"]), "plan": chance.choice("ab")}
            for _ in range(chance.randint(1, 3))
        ]
        asked = chance.choice([rows] * 8 + [rows[1:]])
        request = line("request", name, second, {"instances": asked})
        response = line("response", name, second + 1, {"predictions": [{"score": 0.5} for _ in rows]})
        match chance.randrange(12):
            case 0:
                request = line("request", name, second, EMPTY)
            case 1:
                response = line("response", name, second + 1, {"status": "alive"})
            case 2:
                request = line("request", name, second, b"{")
            case 3:
                request = b"{}"
            case 4:
                response = line("response", name, second + 1, {"predictions": [1]}, component="transformer")
        copies = [event for event in (request, response) for _ in range(chance.choice([0, 1, 1, 1, 1, 1, 1, 2]))]
        log += [(second + chance.uniform(0, 3), event) for event in copies]
    return [event for _, event in sorted(log)]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 250), max_size=30), small=st.booleans())
def test_however_a_log_is_portioned_rows_letters_and_state_are_the_same(
    tmp_path_factory: Any, seed: int, cuts: list[int], small: bool
) -> None:
    """Any portions, each by a process of its own that has only what was stored: the same rows, reasons, counts and bytes."""
    made = payload_plan(tmp_path_factory.getbasetemp(), within=8.0)
    log = rubbish(random.Random(seed), 100)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(pairs, "WAITING", 5)
            patch.setattr(pairs, "KNOWN", 7)
        rows, malformed, form = read(made, log)
        for restart in (False, True):
            others, bad, other = read(made, log, cuts, restart)
            assert (rows, malformed, form.counts) == (others, bad, other.counts)
            assert form.state() == other.state()
    assert form.waiting <= 5 or not small
    paired = 2 * form.counts.paired
    rest = form.counts.unanswered + form.counts.unasked + form.counts.crowded + form.counts.repeated + form.counts.other
    assert paired + rest + form.waiting <= len(log)


# -- the logger's traps


def test_what_has_no_other_half_is_counted_and_told(made: StreamPlan) -> None:
    """A request without a response (an error: only 200s are logged; or lost), and the other way round."""
    asked, _ = call("c1", 0, AGES)
    _, answered = call("c2", 1, AGES)
    later = call("c3", 100, AGES)
    rows, malformed, form = read(made, [asked, answered, *later])

    assert len(rows) == 2
    assert malformed == []
    assert (form.counts.unanswered, form.counts.unasked, form.unpaired) == (1, 1, 2)
    told = form.complaints()
    assert [why.split(":")[0] for why in told] == [
        "requests came without a response",
        "responses came without a request",
    ]
    assert form.complaints() == []


def test_when_nothing_comes_any_more_nothing_is_waited_for(made: StreamPlan) -> None:
    """At the end of a stream the last requests are counted too."""
    _, _, form = read(made, [call("c1", 0, AGES)[0]])
    assert (form.waiting, form.unpaired) == (1, 0)

    form.idle()

    assert (form.waiting, form.unpaired) == (0, 1)


def test_looks_at_metadata_and_health_are_no_predictions(made: StreamPlan) -> None:
    """Their requests have no body, whatever their answers are and whichever comes first; the content type says JSON."""
    look = line("request", "m1", 0, EMPTY), line("response", "m1", 0.1, {"name": "churn", "ready": True})
    other = line("response", "m2", 1, {"status": "alive"}), line("request", "m2", 1.1, b" \n")

    assert one(made, *look, *other) == ([], [], {**QUIET, "other": 4})


def test_a_response_that_is_no_prediction_is_a_dead_letter(made: StreamPlan) -> None:
    """When its request was for one."""
    asked, _ = call("c1", 0, AGES)
    wrong = line("response", "c1", 1, {"explanations": []})

    for log in ((asked, wrong), (wrong, asked)):
        rows, reasons, counts = one(made, *log)
        assert (rows, counts) == ([], QUIET)
        assert reasons == ["the response: the response has neither predictions (V1) nor a list of outputs (V2)"]


def test_a_request_that_cannot_be_read_costs_its_response_too(made: StreamPlan) -> None:
    """One dead letter; the response is not missed, and not counted as one without a request."""
    _, answered = call("c1", 0, AGES)
    wrong = line("request", "c1", 0, {"instances": [[1]]})

    for log in ((wrong, answered), (answered, wrong)):
        rows, reasons, counts = one(made, *log)
        assert (rows, counts) == ([], QUIET)
        assert len(reasons) == 1


def test_rows_that_do_not_match_are_a_dead_letter(made: StreamPlan) -> None:
    """Nobody can tell which prediction is whose."""
    asked, _ = call("c1", 0, AGES)
    _, answered = call("c1", 0, AGES[:1])

    assert one(made, asked, answered)[1] == ["the request has 2 rows, its response 1"]


def test_ids_given_by_callers_come_again(made: StreamPlan) -> None:
    """One call after the other pairs as it comes."""
    first, second = call("same", 0, AGES[:1]), call("same", 1, AGES[1:])

    assert [row[1] for row in one(made, *first, *second)[0]] == [30, 41]


def test_calls_of_one_id_at_once_are_not_guessed_at(made: StreamPlan) -> None:
    """Nobody can tell which response answers which request: none of them is measured, and it is told."""
    first, second = call("same", 0, AGES[:1]), call("same", 0.5, AGES[1:])
    later = call("same", 200, AGES[:1])
    rows, malformed, form = read(made, [first[0], second[0], second[1], first[1], *later])

    assert [row[1] for row in rows] == ["same/0"]
    assert rows[0][0] == 5
    assert malformed == []
    assert form.counts.crowded == 4
    assert "Ce-Id" in form.complaints()[0]


def test_events_that_come_twice_count_once(made: StreamPlan) -> None:
    """Knative delivers at least once: before and after the call was complete, it is the same event."""
    asked, answered = call("c1", 0, AGES[:1])

    rows, _, counts = one(made, asked, asked, answered, answered, asked)

    assert len(rows) == 1
    assert counts == {**QUIET, "repeated": 3}


def test_sources_are_all_the_same_and_do_not_matter(made: StreamPlan) -> None:
    """Two services with equal ids and ce-source (it is localhost in every pod) do not mix: their names tell them apart."""
    first, second = call("c1", 0, AGES[:1]), call("c1", 0, AGES[1:])
    named = [line("request", "c1", 0, {"instances": AGES[1:]}, inferenceservicename="other"),
             line("response", "c1", 0.1, {"predictions": [{"score": 0.9}]}, inferenceservicename="other")]  # fmt: skip
    assert headers("request", "c1", 0)["ce-source"] == "http://localhost:9081/"

    rows, _, counts = one(made, first[0], named[0], first[1], named[1])

    assert (rows, counts) == ([("c1/0", 30, 0.3), ("c1/0", 41, 0.9)], QUIET)
    assert second


def test_the_transformers_own_events_do_not_count(made: StreamPlan) -> None:
    """With a transformer both log, under one id where it hands the header on."""
    seen = call("c1", 0, AGES[:1])
    outer = [line("request", "c1", 0, {"instances": ["raw"]}, component="transformer"),
             line("response", "c1", 0.2, {"predictions": [1]}, component="transformer")]  # fmt: skip

    rows, reasons, counts = one(made, outer[0], *seen, outer[1])

    assert (len(rows), reasons, counts) == (1, [], {**QUIET, "other": 2})


def test_versions_are_told_by_what_the_config_names(made: StreamPlan, tmp_path: Path) -> None:
    """Canary and stable of one service differ by `endpoint` only where a label sets it; an annotation can tell too."""
    version = made.fields.model_copy(update={"version": "ce.annotations.driftd/version"})
    other = payload_plan(tmp_path, fields=version)
    events = [line(side, "c1", 0, {what: [{"score": 1}]}, endpoint="canary", annotations='{"driftd/version": "7"}')
              for side, what in (("request", "instances"), ("response", "predictions"))]  # fmt: skip
    empty = call("c2", 0, AGES[:1])
    for plan, expected in ((made, ["canary", None]), (other, ["7", None])):
        (raw,) = KServeFormat(plan).decode([*events, *empty], range(4), np.full(4, NOW, np.int64))
        assert raw.columns[plan.fields.version or ""] == expected


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x00\x00\x00\x00\x2a\x0a\x05churn", "application/octet-stream"),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}\x00\x00\x80?',
         "application/json"),
    ],
)  # fmt: skip
def test_tensors_in_binary_are_refused_and_say_what_to_do(made: StreamPlan, body: bytes, kind: str) -> None:
    """The header that says where the JSON ends is not logged; both events have the request's content type."""
    asked = line("request", "c1", 0, body, content_type=kind)
    answered = line("response", "c1", 0, {"outputs": []}, content_type=kind)

    _, reasons, counts = one(made, asked, answered)

    assert len(reasons) == 1
    assert "as JSON" in reasons[0]
    assert counts == QUIET


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"nothing", "neither ce_ headers nor structured JSON"),
        (b"[]", "JSON object"),
        (b'{"id": "1", "type": "x", "time": "2026-03-01T10:00:00Z"}', "type is 'x'"),
        (line("request", "1", 0, EMPTY, time=""), "no time"),
        (line("request", "1", 86_400 * 3, {"instances": AGES}), "too far in the future"),
        (b'{"id":"1","type":"org.kubeflow.serving.inference.request","time":"2026-03-01T10:00:00Z","data_base64":"%"}',
         "base64"),
    ],
)  # fmt: skip
def test_what_is_no_event_of_the_logger_is_a_dead_letter(made: StreamPlan, log: bytes, reason: str) -> None:
    """With its reason; one broken clock does not make all others wait in vain."""
    calm = call("c1", 1, AGES[:1])

    rows, reasons, _ = one(made, calm[0], log, calm[1])

    assert len(rows) == 1
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_structured_events_are_the_same(made: StreamPlan) -> None:
    """Knative can send the data as JSON within the event."""
    start = b'{"specversion":"1.0","id":"c1","component":"predictor","time":"2026-03-01T10:00:00Z","type":"org.kubeflow.serving.'
    asked = start + b'inference.request","data":{"instances":[{"age":30}]}}'
    answered = start + b'inference.response","data":{"predictions":[{"score":0.3}]}}'

    assert one(made, asked, answered)[0] == [("c1/0", 30, 0.3)]


def test_privacy_holds_before_a_half_is_stored(made: StreamPlan, tmp_path: Path) -> None:
    """What is dropped is in no state, what is hashed is there as its hash; a row comes out as if nothing had waited."""
    private = payload_plan(tmp_path, privacy={"plan": "drop", "id": "hash", "age": "hash"})
    rows = [{"age": 987654, "plan": "a secret"}]
    asked, answered = call("somebody", 0, rows)
    form = KServeFormat(private)
    form.decode([asked], [0], np.full(1, NOW, np.int64))

    state = form.state()
    (raw,) = KServeFormat(private, state).decode([answered], [1], np.full(1, NOW, np.int64))

    assert not [word for word in (b"secret", b"somebody", b"987654") if word in state]
    assert "plan" not in raw.columns
    assert len(raw.columns["id"][0]) == 24
    assert raw.columns["age"] != [987654]


def test_what_waits_is_bounded_in_bytes(made: StreamPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are given up and counted, however few they are."""
    monkeypatch.setattr(pairs, "WAITING_BYTES", 100_000)
    big = [{"age": 1, "plan": "x" * 1000}] * 20
    _, _, form = read(made, [call(f"c{number}", number / 100, big)[0] for number in range(50)])

    assert len(form.state()) < 120_000
    assert form.waiting + form.unpaired == 50
    assert form.waiting in {4, 3}
