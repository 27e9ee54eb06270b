"""cordon: keep new pods away from a node of the cluster; what runs there goes on."""

from __future__ import annotations

from dataclasses import asdict

from daemon.handling import Answer, Call, Context, Done, Inputs, Outcome, Verb
from handlers.parts.jobs import origin
from handlers.parts.settled import settled

__all__ = ["VERB", "run"]


class Cordon(Inputs):
    """What a rule writes under `cordon:`."""

    node: str
    """Name of the node, e.g. `"{{ event.node }}"`."""


VERB = Verb(
    name="cordon",
    doc="Keep new pods away from a node of the cluster, and read it back; what runs there goes on.",
    inputs=Cordon,
    target="none",
    deadline=lambda _inputs: 300.0,
)


@settled
def run(call: Call, context: Context) -> Outcome:
    """Do it; the same again changes nothing."""
    inputs = Cordon.model_validate(dict(call.inputs))
    read = asdict(context.nodes.cordon(inputs.node, origin(call)))
    return Done(answers=(Answer("cluster", "read_back", read),))
