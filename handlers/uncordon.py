"""uncordon: take a cordon of driftd away from a node again."""

from __future__ import annotations

from dataclasses import asdict

from daemon.handling import Answer, Call, Context, Done, Inputs, Outcome, Verb
from handlers.parts.jobs import origin
from handlers.parts.settled import settled

__all__ = ["VERB", "run"]


class Uncordon(Inputs):
    """What a rule writes under `uncordon:`."""

    node: str
    """Name of the node, e.g. `"{{ event.node }}"`."""


VERB = Verb(
    name="uncordon",
    doc="Take driftd's own cordon of a node away, and read it back; somebody else's is left alone.",
    inputs=Uncordon,
    target="none",
    deadline=lambda _inputs: 300.0,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Do it; the same again changes nothing."""
    inputs = Uncordon.model_validate(dict(call.inputs))
    read = asdict(context.nodes.uncordon(inputs.node, origin(call)))
    return Done(answers=(Answer("cluster", "read_back", read),))
