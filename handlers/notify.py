"""notify: tell somebody, through a channel of config.yaml."""

from __future__ import annotations

from daemon.handling import Inputs, Verb


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
    deadline=lambda _inputs: 900.0,
)
