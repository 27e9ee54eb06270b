"""The parts of config.yaml that are about KServe's payload logger: what its events say, and where it may post them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

from pydantic import Field

from daemon.core.spelling import did_you_mean
from daemon.documents import Where
from daemon.parts import Duration, Part, Secret

PREDICTION = "prediction"
"""What a response says is called so, or `prediction.NAME` or `prediction.0`."""
MODEL = ("model_name", "model_version")
"""What V2 responses say of their model."""
_OWN = ("id", "time", *MODEL)
"""What the events themselves have under these names."""
_PRIVATE = (
    "but posts lie on the disk as they come until they are measured; send the events through a topic, or leave private "
    "fields out of the model's inputs"
)


class Kserve(Part):
    """format kserve: what the events do not say themselves."""

    inputs: tuple[str, ...] = ()
    """The input columns by position, where rows are lists or one tensor of several columns; else they have names."""
    component: str = "predictor"
    """Whose events count: with a transformer, both log."""
    within: Duration = Field(default=timedelta(minutes=1), ge=timedelta(seconds=1), le=timedelta(hours=1))
    """How long a request waits for its response, and a response for its request, in event time."""


class PayloadHook(Part):
    """A place where KServe's payload logger posts the events of a stream of files: /streams/NAME/TOKEN.

    The logger can neither sign nor repeat, so an event is on the disk before it is answered.
    """

    token: Secret | None = None
    """The last part of the path; whoever knows it may post."""
    open: bool = False
    """Without a token: whoever reaches the port may post, at /streams/NAME."""
    max_bytes: int = Field(default=4_000_000, ge=1, le=6_000_000)
    """Longest body of an event."""
    keep: Duration = timedelta(hours=1)
    """How long a file of events stays once it was measured."""
    spool_mb: int = Field(default=1024, ge=1)
    """How much all files of events may have; beyond that posts are answered 503, and lost: the logger does not repeat."""


def is_prediction(name: str) -> bool:
    """A field of this name is what a response says."""
    return name == PREDICTION or name.startswith(f"{PREDICTION}.")


def wrong_with_format(kserve: Kserve | None, is_kserve: bool, roles: Mapping[str, str | None]) -> Iterator[str]:
    """What is wrong with a stream's format; `roles`: its fields by what they are for, features as `features NAME`."""
    if kserve is not None and not is_kserve:
        yield "has a part kserve but is not of format kserve"
    if not is_kserve:
        return
    inputs = () if kserve is None else kserve.inputs
    if len(set(inputs)) < len(inputs):
        yield "names a column twice in kserve.inputs"
    for role, name in roles.items():
        if name is None:
            continue
        if role in {"prediction", "score"} and not is_prediction(name):
            yield f"has fields.{role} {name!r}; what a response says is called prediction, prediction.NAME or prediction.0"
        if role in {"version", "model"} and not name.startswith("ce.") and name not in MODEL:
            yield (
                f"has fields.{role} {name!r}; events say it as ce.ATTRIBUTE (ce.endpoint, ce.annotations.NAME, …), V2 "
                f"responses as {' or '.join(MODEL)}"
            )
        if role.startswith("features ") and (is_prediction(name) or name in _OWN or name.startswith("ce.")):
            yield f"has a feature {name!r}; events of the payload logger have something else under this name"
        if inputs and role.startswith("features ") and name not in inputs:
            yield f"has a feature {name!r} that kserve.inputs does not name{did_you_mean(name, inputs)}"


def contradictions(
    hooks: Mapping[str, PayloadHook], streams: Mapping[str, tuple[str, str, str, bool]]
) -> Iterator[tuple[Where, str]]:
    """What is wrong between hooks and streams; of a stream: kind, format, `complete`, and whether it has private fields."""
    for name, hook in hooks.items():
        where: Where = ("webhook", "streams", name)
        if (hook.token is None) != hook.open:
            yield (
                where,
                f"webhook stream {name} needs either a token or open: true, since the payload logger cannot sign",
            )
        if name not in streams:
            yield where, f"webhook stream {name}: there is no stream {name}{did_you_mean(name, streams)}"
            continue
        kind, form, complete, is_private = streams[name]
        if kind != "files" or form != "kserve":
            yield where, f"webhook stream {name}: stream {name} must be of kind files and of format kserve"
        if complete == "marker":
            yield where, f"webhook stream {name}: stream {name} waits for markers, and nobody writes them"
        if is_private:
            yield where, f"webhook stream {name}: stream {name} has privacy, {_PRIVATE}"
