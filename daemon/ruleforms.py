"""What a rule file may say, as forms: keys, types and small languages such as `2 of 3 windows`.

A form is the text with its shape checked; `rulereading.py` turns it into rules and monitors. The JSON Schema for editors
is made from the forms.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from daemon.core.durations import parse_duration
from daemon.core.monitors import FeatureKind
from daemon.core.rules import Count, For, Limit

_WINDOWS = re.compile(r"(?:(\d+)\s+of\s+)?(\d+)\s+windows?")
_PER = re.compile(r"(\d+)\s+(within|per)\s+(\S+)")


def parse_for(value: Any) -> For:
    """`10m`, `2 windows` or `2 of 3 windows`; ValueError says what is expected."""
    text = str(value).strip()
    found = _WINDOWS.fullmatch(text)
    if not found:
        try:
            duration = parse_duration(text)
        except ValueError:
            raise ValueError(f"{value!r}: write a duration (10m), `2 windows` or `2 of 3 windows`") from None
        if duration <= timedelta():
            raise ValueError("must be longer than nothing")
        return For(duration=duration)
    windows = int(found[2])
    hits = int(found[1]) if found[1] else windows
    if not 1 <= hits <= windows <= 1000:
        raise ValueError(f"{value!r}: at least 1, and no more than there are windows (at most 1000)")
    return For(hits=hits, windows=windows)


def parse_count(value: Any) -> Count:
    """`3 within 1h`."""
    hits, span = _per(value, "within", "3 within 1h")
    return Count(hits, span)


def parse_limit(value: Any) -> Limit:
    """`2 per 24h`."""
    firings, span = _per(value, "per", "2 per 24h")
    return Limit(firings, span)


def _per(value: Any, word: str, example: str) -> tuple[int, timedelta]:
    found = _PER.fullmatch(str(value).strip())
    if not found or found[2] != word:
        raise ValueError(f"{value!r}: write it like `{example}`")
    span = parse_duration(found[3])
    if not 1 <= int(found[1]) <= 1000 or span <= timedelta():
        raise ValueError(f"{value!r}: from 1 to 1000, within a time longer than nothing")
    return int(found[1]), span


def _positive(value: Any) -> timedelta:
    duration = parse_duration(value)
    if duration <= timedelta():
        raise ValueError("must be longer than nothing")
    return duration


def _text(example: str, pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_DURATION_PATTERN = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"
Duration = Annotated[timedelta, BeforeValidator(_positive), _text("10m", _DURATION_PATTERN)]
ForText = Annotated[
    For, BeforeValidator(parse_for), _text("2 of 3 windows", r"^(\d+ of )?\d+ windows?$|^(\d+(\.\d+)?(ms|s|m|h|d|w))+$")
]
CountText = Annotated[Count, BeforeValidator(parse_count), _text("3 within 1h", r"^\d+ within \S+$")]
LimitText = Annotated[Limit, BeforeValidator(parse_limit), _text("2 per 24h", r"^\d+ per \S+$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=63)]


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class WindowForm(_Form):
    """How rows become windows: `{rows: 1000}` or `{every: 10m, min_rows: 500}`."""

    rows: Annotated[int, Field(ge=50, le=1_000_000)] | None = None
    """So many rows each."""
    every: Duration | None = None
    """So much event time each."""
    min_rows: Annotated[int, Field(ge=1)] | None = None
    """With `every`: a window with fewer rows goes on for another stretch."""

    @model_validator(mode="after")
    def _one(self) -> WindowForm:
        if (self.rows is None) == (self.every is None):
            raise ValueError("needs either rows or every")
        if self.min_rows is not None and self.every is None:
            raise ValueError("min_rows goes with every")
        return self


class MonitorForm(_Form):
    """One entry of `monitors`: what of the model's prediction stream is measured."""

    name: Name
    """Unique over all files."""
    window: WindowForm
    segments: tuple[str, ...] = ()
    """Columns by whose values each window is also measured apart."""
    reference: Literal["fixed", "trailing"] = "fixed"
    """What the champion logged at its training, or the windows before this one."""
    trailing: Annotated[int, Field(ge=1, le=100)] = 8
    """How many earlier windows a trailing reference has."""
    methods: dict[FeatureKind, str] = {}
    """Per kind of column the score; default `psi`."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """A column drifts when its adjusted p-value is at most this ..."""
    floor: Annotated[float, Field(ge=0)] = 0.1
    """... and its effect at least this."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.95
    """A window's performance is told when so many of its labels have come, or the stream's horizon has passed."""


class RuleForm(_Form):
    """One rule."""

    name: Name
    """Unique over all files; cooldowns and limits are remembered by it."""
    on: str | None = None
    """The event type that it listens to."""
    subject: str | None = None
    """Only events about this: a storage source, a schedule, a webhook; for models it is the file's model."""
    when: Annotated[tuple[str, ...], BeforeValidator(_many)] = ()
    """CEL conditions over `event`; all must hold."""
    clear: str | None = None
    """CEL condition that ends the episode; default: when `when` is false."""
    for_: ForText | None = Field(default=None, alias="for")
    """How long it must hold: a duration, `2 windows`, `2 of 3 windows`; with `absent` how long it must be silent."""
    count: CountText | None = None
    """How often it must hold: `3 within 1h`."""
    absent: str | None = None
    """Instead of `on`: the event type whose absence for so long (`for`) fires the rule."""
    repeat: Duration | None = None
    """In an episode, fire again after so long."""
    cooldown: Duration | None = None
    """After a firing, none for so long."""
    limit: LimitText | None = None
    """At most so many firings: `2 per 24h`."""
    on_unknown: Literal["hold", "notify", "act"] = "hold"
    """When the condition cannot be known: leave things as they are, also tell `on_failure`, or take it for true."""
    stale_after: Duration = timedelta(hours=24)
    """After so long without knowing, what was known before is forgotten."""
    mode: Literal["observe", "approve", "enforce"] = "enforce"
    """Only record, wait for a person before the first step, or act."""
    when_busy: Literal["skip", "queue", "replace"] = "skip"
    """What to do when another run holds the target."""
    include_own: bool = False
    """Also count events that runs on the same model caused."""
    ignore_freeze: bool = False
    """Change production even during a freeze of config.yaml; rollbacks do so anyway."""
    for_each: Annotated[tuple[str, ...], BeforeValidator(_many)] = ()
    """Fields of the event by whose values things are remembered apart, besides monitor and segment."""
    do: tuple[dict[str, Any], ...] = ()
    """The steps, in order: `- verb: {inputs}`, with `approve: true` beside the verb to wait for a person."""
    on_failure: tuple[dict[str, Any], ...] = ()
    """What is done when the run fails, is inconclusive or rolled back."""


class FileForm(_Form):
    """A rule file."""

    model: str | None = None
    """The model that the file is about, as config.yaml names it."""
    owner: str = ""
    """Who looks after these rules."""
    monitors: tuple[MonitorForm, ...] = ()
    rules: tuple[RuleForm, ...] = ()
