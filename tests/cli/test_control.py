"""The control socket, from both ends."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemon.control import MAX_BYTES, NAME, Controls, ControlServer, ask
from daemon.core.errors import BadInput, ConfigError, Mistake, Refused, StoreBusy, Unavailable
from daemon.intake import Batch, Receipt
from tests.builders import T0
from tests.cli.conftest import Household

ME = pwd.getpwuid(os.getuid()).pw_name


def word(verb: str = "pause", number: int = 0, **more: Any) -> dict[str, Any]:
    """A request with an operator's word."""
    return {"op": "event", "id": f"word-{number}", "verb": verb, "reason": "because", **more}


def raw(home: Path, text: bytes) -> dict[str, Any]:
    """The answer to whatever is sent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(home / NAME))
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = orjson.loads(connection.makefile("rb").readline())
    return answer


def test_a_word_is_a_durable_event_by_whom_the_kernel_says(household: Household) -> None:
    """The answer comes when the event is stored, attributed to the peer."""
    answer = ask(household.home, word())
    (event,) = household.json("events", "--type", "control.changed")

    assert answer["seq"] == event["seq"]
    assert event["source"] == f"operator:{ME}"
    assert event["data"] == {"verb": "pause", "target": "", "by": ME, "reason": "because"}


def test_a_claimed_name_stands_beside_the_real_one(household: Household) -> None:
    """Who says to be somebody else is kept with the name that the kernel knows."""
    assert f"ann ({ME})" == ask(household.home, word(by="ann"))["by"]


def test_the_same_request_again_is_the_same_event(household: Household) -> None:
    """A request that is sent twice is stored once, and both answers name it."""
    first, again = ask(household.home, word()), ask(household.home, word())

    assert (first["fresh"], again["fresh"]) == (True, False)
    assert first["seq"] == again["seq"]


def test_only_the_owner_may_connect(household: Household) -> None:
    """The socket has mode 0600."""
    assert stat.S_IMODE((household.home / NAME).stat().st_mode) == 0o600


def test_status_is_what_the_daemon_says(household: Household) -> None:
    """The status comes as it is given."""
    assert ask(household.home, {"op": "status"})["status"] == {"ready": True, "epoch": 1}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"nonsense\n", "one line of JSON"),
        (b"[]\n", 'with "op"'),
        (b'{"op": "dance"}\n', "no operation 'dance'"),
        (b'{"op": "event", "id": "1", "verb": "dance"}\n', "no verb 'dance'"),
        (b'{"op": "event", "verb": "pause"}\n', "needs an id"),
        (b'{"op": "event", "id": 7, "verb": "pause"}\n', "id must be a text"),
        (b'{"op": "status"}', "no end"),
        (b'{"op": "status", "x": "' + b"x" * MAX_BYTES + b'"}\n', "at most"),
    ],
)
def test_a_request_that_is_none_is_refused_with_its_reason(household: Household, sent: bytes, why: str) -> None:
    """Bad input gets an answer, and changes nothing."""
    answer = raw(household.home, sent)

    assert answer["ok"] is False
    assert why in answer["why"]
    assert household.json("events", "--type", "control.changed") == []


def test_an_asker_that_says_nothing_holds_up_nobody(household: Household) -> None:
    """Connections are served side by side."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(household.home / NAME))

        assert ask(household.home, {"op": "status"}, 5.0)["ok"] is True


def test_without_a_daemon_the_asker_is_told_how_to_start_it(tmp_path: Path) -> None:
    """No socket, no daemon."""
    with pytest.raises(Unavailable, match="driftd start"):
        ask(tmp_path, {"op": "status"})


def test_a_socket_that_a_dead_daemon_left_behind_is_no_daemon(household: Household) -> None:
    """Nobody listens: the same as none, and the next daemon takes its place."""
    path = household.home / "left" / NAME
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    with pytest.raises(Unavailable, match="no daemon runs"):
        ask(path.parent, {"op": "status"})
    server = ControlServer(path.parent, household.server._controls)
    server.start()
    try:
        assert ask(path.parent, {"op": "status"})["ok"] is True
    finally:
        server.stop()


def test_a_home_with_a_long_path_has_a_socket_too(household: Household, tmp_path: Path) -> None:
    """The kernel's limit on socket addresses is not a limit on the home's path."""
    home = tmp_path / ("long" * 30) / "home"
    server = ControlServer(home, household.server._controls)
    server.start()
    try:
        assert ask(home, {"op": "status"})["ok"] is True
    finally:
        server.stop()


def test_a_server_that_stopped_leaves_no_socket(household: Household) -> None:
    """After a stop there is nothing to connect to."""
    household.server.stop()

    assert not (household.home / NAME).exists()


def test_a_lost_answer_is_asked_for_again_under_the_same_id(tmp_path: Path) -> None:
    """The connection breaks after the request was read: the client sends the very same request once more."""
    seen: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / NAME))
    listener.listen()

    def serve() -> None:
        for answer in (b"", b'{"ok": true, "seq": 7}\n'):
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.makefile("rb").readline())
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ask(tmp_path, word())["seq"] == 7
    finally:
        thread.join(10)
        listener.close()
    assert seen[0] == seen[1]


class _Full:
    """An intake whose disk is full."""

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """Never."""
        raise StoreBusy("the disk is full")


def test_what_the_daemon_cannot_do_comes_back_as_its_own_error(tmp_path: Path) -> None:
    """Busy, refused and mistaken are three different answers."""

    def mistaken() -> dict[str, Any]:
        raise ConfigError((Mistake("rules/a.yaml", 3, 5, "no such field"),))

    controls = Controls(_Full(), dict, mistaken, lambda: None, lambda: T0)  # type: ignore[arg-type]
    server = ControlServer(tmp_path, controls)
    server.start()
    try:
        with pytest.raises(StoreBusy, match="full"):
            ask(tmp_path, word())
        with pytest.raises(BadInput, match=r"rules/a\.yaml:3:5: no such field"):
            ask(tmp_path, {"op": "reload"})
        with pytest.raises(Refused, match="no verb"):
            ask(tmp_path, word("dance"))
    finally:
        server.stop()


def test_stop_is_answered_before_it_is_done(household: Household) -> None:
    """Who asks the daemon to stop hears that it will."""
    assert ask(household.home, {"op": "stop"}) == {"ok": True}
    assert household.stopped.wait(10)
