"""notify: tell somebody, through a channel of config.yaml.

Messages are made of values as they are: nothing in an event is interpreted, neither as a template nor as markup.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from datetime import datetime
from typing import Any

from daemon.handling import (
    Again,
    Answer,
    Call,
    Channel,
    Context,
    Done,
    Failed,
    Inputs,
    Outcome,
    Refused,
    Verb,
    canonical,
)
from handlers.parts.settled import patience, settled

PASSING = frozenset({408, 425, 429})
"""Answers in the 400s that mean: later."""
SECONDS = 900.0
_log = logging.getLogger("driftd.notify")


class Notify(Inputs):
    """What a rule writes under `notify:`."""

    to: str
    """A channel of config.yaml."""
    text: str = ""
    """What to say; default: the facts of the event and the run."""


VERB = Verb(
    name="notify",
    doc="Send a message to a channel of config.yaml: signed webhook, Slack-compatible webhook, or the log.",
    inputs=Notify,
    target="none",
    deadline=lambda _inputs: SECONDS,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Send the message. A repeated call sends it again under the same id: the receiver drops the second."""
    inputs = Notify.model_validate(dict(call.inputs))
    channel = context.config.channels.get(inputs.to)
    if channel is None:
        raise Refused("config", "channels", f"there is no channel {inputs.to!r}")
    text = inputs.text or described(call)
    if channel.kind == "log":
        _log.warning("%s", text)
        return Done(answers=(Answer("log", "notify", {"to": inputs.to, "text": text}),))
    if channel.url is None:
        raise Refused("config", "channels", f"channel {inputs.to!r} has no url")
    body = slack(text) if channel.kind == "slack" else webhook(call, text)
    status = context.post(channel.url.value.get_secret_value(), body, headers(call, channel, body, context.now))
    told = Answer(channel.kind, "post", {"to": inputs.to, "status": status, "text": text})
    if 200 <= status < 300:
        return Done(answers=(told,))
    why = f"channel {inputs.to} answered {status}"
    if status >= 500 or status in PASSING:
        wait = patience(call)
        if (call.deadline - context.now).total_seconds() <= wait:
            return Failed(f"{why} until its time was up", answers=(told,))
        return Again(wait, why, call.state, answers=(told,))
    return Failed(why, answers=(told,))


def described(call: Call) -> str:
    """The facts in lines: the event, then what the run knows."""
    trigger = call.trigger
    lines = [f"{trigger.type} of {trigger.subject or trigger.source} at {trigger.time.isoformat()}"]
    lines += [f"{name}: {value}" for name, value in sorted(trigger.data.items()) if _plain(value)]
    lines += [f"run {call.run}" + (f" of {call.model}" if call.model else "")]
    lines += [f"{name}: {value}" for name, value in sorted(call.given.items()) if _plain(value)]
    return "\n".join(lines)


def slack(text: str) -> bytes:
    """A Slack-compatible payload. `&`, `<` and `>` are escaped, so a value can neither mention nor link."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return canonical({"text": escaped, "mrkdwn": False})


def webhook(call: Call, text: str) -> bytes:
    """The payload of a plain webhook; the same for every attempt."""
    trigger = call.trigger
    event = {"type": trigger.type, "subject": trigger.subject, "source": trigger.source, "id": trigger.id}
    facts = {name: value for name, value in call.given.items() if _plain(value)}
    message = {
        "id": call.id, "run": call.run, "model": call.model, "text": text, "given": facts,
        "event": {**event, "time": trigger.time.isoformat(), "data": dict(trigger.data)},
    }  # fmt: skip
    return canonical(message)


def headers(call: Call, channel: Channel, body: bytes, now: datetime) -> dict[str, str]:
    """The idempotency key and, for a channel with a secret, the signature as Standard Webhooks defines it
    (standardwebhooks.com): `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`.

    The time is that of sending, because receivers refuse old ones; the id stays the same over all attempts.
    """
    stamp = str(int(now.timestamp()))
    made = {
        "Content-Type": "application/json",
        "Idempotency-Key": call.id,
        "webhook-id": call.id,
        "webhook-timestamp": stamp,
    }
    if channel.kind == "webhook" and channel.secret is not None:
        signed = call.id.encode() + b"." + stamp.encode() + b"." + body
        secret = channel.secret.value.get_secret_value().encode()
        made["webhook-signature"] = "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return made


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) and value != ""
