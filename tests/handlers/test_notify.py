"""Notifications: signed, said once per id, tried again when that may help, and made of values as they are."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from daemon.config import Channel
from daemon.core.calls import Again, Done, Failed
from handlers import notify


def _channel(kind: str, **more: Any) -> Channel:
    secret = {"value": "s3cret"}
    return Channel.model_validate({"kind": kind, "url": {"value": "http://127.0.0.1:1/x"}, "secret": secret, **more})


@pytest.fixture
def told(world: Any) -> Any:
    """The world with a channel of each kind, whose receiver answers 200."""
    channels = {"hook": _channel("webhook"), "slack": _channel("slack"), "log": Channel(kind="log")}
    world.config = world.config.model_copy(update={"channels": channels})
    world.statuses = [200]
    return world


def test_a_webhook_is_signed_and_carries_its_id(told: Any, call: Any) -> None:
    """The receiver can check the signature over id, time and body, and drop a repeat by its id."""
    outcome = notify.run(call("notify", {"to": "hook", "text": "hello"}), told)
    _url, body, headers = told.posts[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    signature = base64.b64encode(hmac.digest(b"s3cret", signed, hashlib.sha256)).decode()

    assert isinstance(outcome, Done)
    assert headers["webhook-signature"] == f"v1,{signature}"
    assert headers["Idempotency-Key"] == "call-notify"
    assert json.loads(body)["text"] == "hello"


def test_a_repeated_message_has_the_same_id_and_body(told: Any, call: Any) -> None:
    """A call that comes twice sends the same bytes under the same id."""
    asked = call("notify", {"to": "hook"}, {"version": "2"})
    notify.run(asked, told)
    notify.run(asked, told)

    assert told.posts[0][1] == told.posts[1][1]
    assert told.posts[0][2]["webhook-id"] == told.posts[1][2]["webhook-id"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, Done), (204, Done), (404, Failed), (401, Failed), (429, Again), (500, Again), (503, Again)],
)
def test_what_a_receiver_answers_decides_whether_to_try_again(told: Any, call: Any, status: int, outcome: type) -> None:
    """Overload and server errors are tried again, a refusal is not."""
    told.statuses = [status]

    assert isinstance(notify.run(call("notify", {"to": "hook"}), told), outcome)


def test_a_receiver_that_comes_back_is_told(told: Any, call: Any) -> None:
    """Three refusals of service later, the message arrives."""
    told.statuses = [503, 503, 503, 200]

    assert isinstance(told.drive(notify.run, call("notify", {"to": "hook"})), Done)
    assert len(told.posts) == 4


def test_a_receiver_that_does_not_answer_is_tried_again(told: Any, call: Any) -> None:
    """No answer is no refusal."""
    told.away = {"http"}

    assert isinstance(notify.run(call("notify", {"to": "hook"}), told), Again)


def test_values_are_text_and_nothing_else(told: Any, call: Any) -> None:
    """A value can neither mention a channel nor make a link, and template braces stay as they are."""
    notify.run(call("notify", {"to": "slack", "text": "<!channel> & {{ run }} <https://x|y>"}), told)

    assert json.loads(told.posts[0][1]) == {
        "text": "&lt;!channel&gt; &amp; {{ run }} &lt;https://x|y&gt;", "mrkdwn": False,
    }  # fmt: skip


def test_the_default_text_has_the_facts(told: Any, call: Any) -> None:
    """Without a text of its own a message says what happened, to which run and model, and what the run knows."""
    text = notify.described(call("notify", {"to": "log"}, {"verified": "proven", "canary": {"a": 1}}))

    assert "model.registered of car-loan" in text
    assert "run run1 of car-loan" in text
    assert "verified: proven" in text
    assert "canary" not in text


def test_the_log_is_a_channel_too(told: Any, call: Any, caplog: Any) -> None:
    """A channel of kind log needs nothing around it."""
    outcome = notify.run(call("notify", {"to": "log", "text": "hello"}), told)

    assert isinstance(outcome, Done)
    assert "hello" in caplog.text


def test_an_unknown_channel_is_a_failure(told: Any, call: Any) -> None:
    """A message to nobody is not silently dropped."""
    assert isinstance(notify.run(call("notify", {"to": "nobody"}), told), Failed)
