"""What the cluster client makes of what it is told, without a server: errors, mirrors, pauses, turns, lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon.clients.kubernetes_errors import Absent, Exists, Expired, FieldsOwned, UnknownKind, error_of, retry_after
from daemon.clients.kubernetes_mirror import Change, Mirror, Pause
from daemon.clients.kubernetes_throttle import Bucket, Throttle
from daemon.clients.kubernetes_watch import lines
from daemon.core.errors import ClientError, Conflict, Refused, Unavailable

NAMED = {"name": "x", "kind": "jobs"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (400, {}, Refused),
        (401, {}, Unavailable),
        (403, {"message": 'pods "x" is forbidden: exceeded quota: q'}, Refused),
        (404, {"details": NAMED}, Absent),
        (404, {}, UnknownKind),
        (404, {"details": {"name": "n", "kind": "namespaces"}}, Refused),
        (409, {"reason": "AlreadyExists", "details": NAMED}, Exists),
        (409, {"reason": "Conflict", "details": NAMED}, Conflict),
        (409, {"reason": "Conflict", "details": {"name": "q", "kind": "resourcequotas"}}, Unavailable),
        (410, {"reason": "Expired"}, Expired),
        (413, {}, Refused),
        (422, {"reason": "Invalid"}, Refused),
        (429, {}, Unavailable),
        (500, {"message": "failed calling webhook"}, Unavailable),
        (503, {}, Unavailable),
        (504, {}, Unavailable),
    ],
)
def test_each_refusal_is_what_can_be_done_about_it(code: int, status: dict[str, Any], kind: type[ClientError]) -> None:
    """Never, not now, or not as it is: by the code, and by the Status where the code does not say."""
    assert type(error_of("POST /x", code, status)) is kind


@given(code=st.integers(300, 599), status=st.dictionaries(st.sampled_from(["message", "reason"]), st.text()))
def test_every_refusal_has_an_outcome(code: int, status: dict[str, Any]) -> None:
    """Whatever a server, or a proxy in between, answers: no code is unforeseen."""
    assert isinstance(error_of("GET /x", code, status, "text"), ClientError)


def test_who_owns_a_field_is_told() -> None:
    """Of a conflict of server-side apply: each field with its manager."""
    causes = [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl" using v1', "field": ".data.a"},
        {"reason": "FieldManagerConflict", "message": 'conflict with "helm"', "field": ".data.b"},
    ]
    error = error_of("PATCH /x", 409, {"reason": "Conflict", "details": {"name": "x", "causes": causes}})

    assert isinstance(error, FieldsOwned)
    assert error.owners == {".data.a": "kubectl", ".data.b": "helm"}
    assert ".data.a is owned by kubectl" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), (None, 0.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("1e9", 300.0)]
)
def test_a_retry_after_is_a_wait_in_bounds(header: str | None, seconds: float) -> None:
    """Seconds, or none."""
    assert retry_after(header) == seconds


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0.1, 100), st.integers(1, 20))
def test_a_bucket_lets_no_more_through_than_its_rate(gaps: list[float], rate: float, burst: int) -> None:
    """However requests come, of those let go in any stretch there are at most its burst and what the rate gives."""
    now, bucket, went = 0.0, Bucket(rate, burst, burst, 0.0), []
    for gap in gaps:
        now += gap
        bucket, wait = bucket.taken(now)
        went.append(now + wait)

    for first, begin in enumerate(went):
        for last in range(first, len(went)):
            assert last - first + 1 <= burst + (went[last] - begin) * rate + 1 + 1e-6


def test_who_would_wait_too_long_takes_nothing() -> None:
    """And a pause that the server asks for holds everybody."""
    now = [0.0]
    throttle = Throttle(1.0, 1, lambda: now[0])

    assert throttle.turn(0.0) == 0.0
    assert throttle.turn(0.5) is None
    assert throttle.turn(1.0) == pytest.approx(1.0)
    now[0] = 10.0
    throttle.pause(5.0)
    assert throttle.turn(1.0) is None
    assert throttle.turn(5.0) == pytest.approx(5.0)


@given(st.integers(0, 200), st.floats(0, 0.999))
def test_pauses_grow_to_a_most_and_begin_anew(failures: int, luck: float) -> None:
    """No pause before the first failure, never more than the most, and none that all clients share."""
    pause = Pause(0.5, 30.0)
    for _ in range(failures):
        pause = pause.failed()

    assert pause.seconds(luck) <= 30.0
    assert (pause.seconds(luck) == 0.0) == (failures == 0)
    assert pause.went_well().seconds(luck) == 0.0
    assert failures < 1 or pause.failed().seconds(luck) >= pause.seconds(luck)


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: line.strip() == line and b"\n" not in line and line)), st.data()
)
def test_lines_do_not_depend_on_how_they_were_cut(whole: list[bytes], data: st.DataObject) -> None:
    """A stream in any pieces gives the same lines; what has no end is not one."""
    stream = b"".join(line + b"\n" for line in whole) + b"half"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert list(lines(iter(pieces), 1000)) == whole


def test_a_line_without_an_end_is_given_up() -> None:
    """What comes after it could not be found."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100

    with pytest.raises(Unavailable, match="a line of more than 1000 bytes"):
        list(lines(endless(), 1000))


def made(name: str, version: int, group: str = "a") -> dict[str, Any]:
    """An object as a server tells it."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "resourceVersion": str(version), "labels": {"g": group}},
    }  # fmt: skip


def test_410_in_a_stream_asks_for_a_new_list() -> None:
    """As an event, with the Status as its object; other errors are not mistaken for it."""
    mirror = Mirror(10)
    with pytest.raises(Expired):
        mirror.told({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
    with pytest.raises(Unavailable):
        mirror.told({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}})


@pytest.mark.parametrize("event", [{}, {"type": "ADDED"}, {"type": "STRANGE", "object": made("x", 1)}])
def test_what_is_no_event_is_an_error(event: dict[str, Any]) -> None:
    """It is not passed by: the mirror would be behind without knowing."""
    with pytest.raises(Unavailable):
        Mirror(10).told(event)


def test_what_was_known_before_is_not_told_as_a_change() -> None:
    """A server that goes on from an old version tells again what has not changed since; its deletion is news."""
    mirror = Mirror(1)
    mirror.replaced([made("a", 3)], "5")
    assert mirror.told({"type": "ADDED", "object": made("a", 3)}) is None
    assert mirror.get("n", "a") is not None
    gone = mirror.told({"type": "DELETED", "object": made("a", 3)})
    assert gone is not None
    assert gone.now is None


def test_a_full_mirror_knows_that_it_is() -> None:
    """What has no room is counted, what was known stays known, and room that comes free is used."""
    mirror = Mirror(1)
    mirror.replaced([made("a", 1), made("b", 2)], "2")
    assert (len(mirror.objects()), mirror.left_out) == (1, 1)

    mirror.told({"type": "DELETED", "object": made("a", 3)})
    mirror.told({"type": "MODIFIED", "object": made("b", 4)})
    assert (mirror.get("n", "b") is not None, mirror.left_out) == (True, 0)


class Following(RuleBasedStateMachine):
    """A server whose objects change, and a mirror that is told some of it by a watch and finds the rest by lists."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.there: dict[str, dict[str, Any]] = {}
        self.mirror = Mirror(100, group=lambda found: found["metadata"]["labels"]["g"])
        self.told: dict[str, dict[str, Any]] = {}
        """What somebody who only hears the changes knows."""
        self.connected = False

    @rule(name=st.sampled_from("abcd"), group=st.sampled_from("xy"))
    def write(self, name: str, group: str) -> None:
        """Somebody makes or changes an object."""
        self.version += 1
        kind = "MODIFIED" if name in self.there else "ADDED"
        self.there[name] = made(name, self.version, group)
        self._tell(kind, self.there[name])

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Somebody deletes one."""
        self.version += 1
        gone = self.there.pop(data.draw(st.sampled_from(sorted(self.there))))
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", gone)

    @rule()
    def bookmark(self) -> None:
        """The server says how far it is."""
        self._tell("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}})

    @rule()
    def disconnect(self) -> None:
        """The stream breaks, and what happens next is compacted away."""
        self.connected = False

    @rule()
    def relist(self) -> None:
        """The watch lists anew."""
        self._heard(self.mirror.replaced(list(self.there.values()), str(self.version)))
        self.connected = True

    def _tell(self, kind: str, found: dict[str, Any]) -> None:
        if self.connected:
            change = self.mirror.told({"type": kind, "object": found})
            self._heard(() if change is None else (change,))

    def _heard(self, changes: tuple[Change, ...]) -> None:
        for before, now in changes:
            if now is not None:
                self.told[now["metadata"]["name"]] = dict(now)
            elif before is not None:
                del self.told[before["metadata"]["name"]]

    @invariant()
    def it_is_as_the_server_is(self) -> None:
        """Connected, the mirror, its groups, and whoever heard its changes, know what there is; and how far it is."""
        seen = {found["metadata"]["name"]: found for found in self.mirror.objects()}
        assert self.told == seen
        for group in "xy":
            members = {found["metadata"]["name"] for found in self.mirror.group(group)}
            assert members == {name for name, found in seen.items() if found["metadata"]["labels"]["g"] == group}
        if self.connected:
            assert seen == self.there
            assert self.mirror.version == str(self.version)


TestFollowing = Following.TestCase
