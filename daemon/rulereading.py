"""One rule file -> its rules and monitors, checked as far as one entry can be checked by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.config import Model, Stream
from daemon.core.canonical import canonical
from daemon.core.events import CATALOGUE
from daemon.core.expressions import Condition, compile_condition
from daemon.core.fields import EventType, Field, Kind
from daemon.core.monitors import METHODS, FeatureKind, Monitor, Window
from daemon.core.rules import Mode, OnUnknown, Position, Rule, WhenBusy
from daemon.core.spelling import did_you_mean
from daemon.documents import Document, Where, parse, parse_part, parse_text
from daemon.findings import Findings
from daemon.ruleforms import MonitorForm, RuleForm
from daemon.rulesteps import Known, check_guards, check_steps, check_told, read_steps

INTERNAL = frozenset({"timer.due", "rules.loaded"})
"""Event types that driftd makes for itself."""


class _Shape(BaseModel):
    """The outside of a rule file; its entries are read one by one, so that one mistake hides no other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    owner: str = ""
    monitors: tuple[Any, ...] = ()
    rules: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadRule:
    """A rule with what was found in it; with mistakes the rule is what could be made of it, or None."""

    name: str
    rule: Rule | None
    findings: Findings


@dataclass(frozen=True, slots=True)
class ReadMonitor:
    """A monitor with what was found in it."""

    name: str
    monitor: Monitor | None
    findings: Findings


@dataclass(frozen=True, slots=True)
class ReadFile:
    """One rule file."""

    rules: tuple[ReadRule, ...]
    monitors: tuple[ReadMonitor, ...]
    findings: Findings


@dataclass(frozen=True, slots=True)
class _About:
    """What a file's head says, looked up."""

    name: str
    model: Model | None
    stream: Stream | None
    owner: str

    @property
    def head(self) -> str:
        """As the first line of a rule's text: what is not written in the rule and yet decides."""
        return f"# model: {self.name or 'none'}, owner: {self.owner or 'none'}\n"


def read_file(document: Document, known: Known) -> ReadFile:
    """Everything in a rule file."""
    findings = Findings(document, (), "file")
    shape = parse(document, _Shape)
    if not isinstance(shape, _Shape):
        findings.mistakes.extend(shape)
        return ReadFile((), (), findings)
    config = known.config
    model = config.models.get(shape.model or "")
    if shape.model is not None and model is None:
        hint = did_you_mean(shape.model, config.models) or f"; config.yaml has {', '.join(config.models) or 'none'}"
        findings.wrong(("model",), f"there is no model {shape.model}{hint}")
        return ReadFile((), (), findings)
    stream = config.streams.get(model.stream or "") if model else None
    about = _About(shape.model or "", model, stream, shape.owner or (model.owner if model else ""))
    return ReadFile(
        tuple(_rule(document, index, raw, about, known) for index, raw in enumerate(shape.rules)),
        tuple(_monitor(document, index, raw, about) for index, raw in enumerate(shape.monitors)),
        findings,
    )


def _entry(document: Document, key: str, index: int, raw: Any) -> tuple[str, Findings]:
    name = str(raw.get("name", "")) if isinstance(raw, dict) else ""
    label = f'{key.removesuffix("s")} "{name}"' if name else f"{key.removesuffix('s')} {index + 1}"
    return name, Findings(document, (key, index), label)


def _monitor(document: Document, index: int, raw: Any, about: _About) -> ReadMonitor:
    name, findings = _entry(document, "monitors", index, raw)
    form = parse_part(document, findings.entry, raw, MonitorForm)
    if not isinstance(form, MonitorForm):
        findings.shape(form)
        return ReadMonitor(name, None, findings)
    if about.model is None:
        findings.wrong((), "a monitor measures a model: say `model:` at the top of the file")
    elif about.stream is None:
        findings.wrong((), f"model {about.name} has no stream in config.yaml, so there is nothing to measure")
    else:
        _check_columns(findings, form, about.stream)
    _check_methods(findings, form)
    window = Window(form.window.rows, form.window.every, form.window.min_rows or 1)
    methods: dict[FeatureKind, str] = dict(form.methods)
    monitor = Monitor(
        form.name, about.name, window, form.segments, form.reference, form.trailing, methods, form.alpha, form.floor,
        form.coverage,
    )  # fmt: skip
    return ReadMonitor(name, monitor, findings)


def _check_columns(findings: Findings, form: MonitorForm, stream: Stream) -> None:
    columns = _columns(stream)
    for place, segment in enumerate(form.segments):
        if segment not in columns:
            hint = did_you_mean(segment, columns)
            findings.doubtful(
                ("segments", place), f"{segment} is no declared field of the stream; it is read as it comes{hint}"
            )
        elif stream.privacy.get(segment) == "drop":
            findings.wrong(("segments", place), f"column {segment} is dropped by the stream's privacy")


def _check_methods(findings: Findings, form: MonitorForm) -> None:
    for kind, method in form.methods.items():
        if method not in METHODS:
            hint = did_you_mean(method, METHODS) or f"; known are {', '.join(METHODS)}"
            findings.wrong(("methods", kind), f"unknown method {method}{hint}")
        elif kind not in METHODS[method]:
            findings.wrong(("methods", kind), f"method {method} does not take {kind} columns")


def _rule(document: Document, index: int, raw: Any, about: _About, known: Known) -> ReadRule:
    name, findings = _entry(document, "rules", index, raw)
    form, broken = _form(findings, raw)
    if form is None:
        return ReadRule(name, None, findings)
    kind = None if broken & {"on", "absent"} else _kind(findings, form)
    _check_times(findings, form, kind)
    steps, inputs = read_steps(findings, "do", form.do, kind, known)
    failure, _ = read_steps(findings, "on_failure", form.on_failure, kind, known)
    check_told(findings, failure, known)
    if "do" not in broken:
        _check_aims(findings, form)
    if kind is None:
        return ReadRule(name, None, findings)
    if len(steps) == len(form.do):
        check_steps(findings, about.model, kind, steps, known)
    if about.model is not None:
        check_guards(findings, about.model, about.stream, steps, inputs)
    for field in form.for_each:
        _check_key(findings, kind, field)
    silent = form.absent is not None
    line, column = findings.place()
    rule = Rule(
        name=form.name,
        model=about.name,
        on=kind.name,
        subject=_subject(findings, form, kind, about, known),
        when=_conditions(findings, kind, form, about),
        clear=None if form.clear is None else _condition(findings, ("clear",), kind, form.clear, about),
        hold=None if silent else form.for_,
        count=form.count,
        absent=form.for_.duration if silent and form.for_ is not None else None,
        repeat=form.repeat,
        cooldown=form.cooldown or timedelta(),
        limit=form.limit,
        on_unknown=OnUnknown(form.on_unknown),
        stale_after=form.stale_after,
        mode=Mode(form.mode),
        when_busy=WhenBusy(form.when_busy),
        include_own=form.include_own,
        for_each=form.for_each,
        steps=steps,
        on_failure=failure,
        owner=about.owner,
        position=Position(document.file, line, column),
        text=about.head + _written(document, findings.entry, raw),
        ignore_freeze=form.ignore_freeze,
    )
    return ReadRule(name, rule, findings)


def _written(document: Document, entry: Where, raw: Any) -> str:
    """The entry as written; where aliases bring in what is written elsewhere, with what they make of it."""
    text = document.text(entry)
    if "*" not in text or parse_text(text, "").data == raw:
        return text
    return f"{text}\n# read as: {canonical(raw).decode()}"


def _form(findings: Findings, raw: Any) -> tuple[RuleForm | None, set[str]]:
    """The form of a rule; where keys are wrong, the form without them and their names, so that the rest is checked too."""
    form = parse_part(findings.document, findings.entry, raw, RuleForm)
    if isinstance(form, RuleForm):
        return form, set()
    findings.shape(form)
    if not isinstance(raw, dict):
        return None, set()
    try:
        RuleForm.model_validate(raw)
    except ValidationError as error:
        broken = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        kept = {key: value for key, value in raw.items() if key not in broken}
        try:
            return RuleForm.model_validate({"name": "unnamed", **kept}), broken
        except ValidationError:
            return None, broken
    return None, set()


def _kind(findings: Findings, form: RuleForm) -> EventType | None:
    """The event type that the rule is about."""
    key = "absent" if form.absent is not None else "on"
    if form.on is not None and form.absent is not None:
        findings.wrong(("absent",), "a rule has either on or absent", at_key=True)
    name = form.absent if form.absent is not None else form.on
    if name is None:
        findings.wrong((), "it says neither `on` (an event type) nor `absent`")
        return None
    if name in INTERNAL:
        findings.wrong((key,), f"{name} is made by driftd for itself; rules cannot listen to it")
        return None
    if name not in CATALOGUE:
        known = [other for other in CATALOGUE if other not in INTERNAL]
        hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
        findings.wrong((key,), f"unknown event type {name}{hint}")
        return None
    return CATALOGUE[name]


def _check_times(findings: Findings, form: RuleForm, kind: EventType | None) -> None:
    """`for`, `count`, `absent`, `cooldown`, `limit` and their neighbours against each other."""
    if form.absent is not None:
        if form.for_ is None or form.for_.duration is None:
            findings.wrong(("absent",), "absent needs `for` with a duration: how long it must be silent", at_key=True)
        for key in ("clear", "count"):
            if getattr(form, key) is not None:
                findings.wrong(
                    (key,), f"{key} means nothing with absent: the event that comes ends the silence", at_key=True
                )
    elif form.for_ is not None and form.for_.windows is not None and kind is not None and not _has_windows(kind):
        findings.wrong(("for",), f"{kind.name} has no windows; write a duration or `count: n within t`")
    if form.count is not None and form.for_ is not None and form.absent is None:
        findings.wrong(("count",), "a rule has either for or count", at_key=True)
    if form.repeat is not None and form.cooldown is not None and form.repeat < form.cooldown:
        findings.doubtful(("repeat",), "is shorter than cooldown, which decides")
    if form.limit is not None and form.cooldown is not None:
        most = math.ceil(form.limit.per / form.cooldown)
        if most <= form.limit.firings:
            message = f"is never reached: with this cooldown there are at most {most} firings in that time"
            findings.doubtful(("limit",), message)
    if form.absent is None and form.for_ is not None and form.for_.duration and form.stale_after < form.for_.duration:
        findings.doubtful(("for",), "is longer than stale_after: unknowns in between make it start over")


def _has_windows(kind: EventType) -> bool:
    return any(field.name == "window" for field in kind.fields)


def _conditions(findings: Findings, kind: EventType, form: RuleForm, about: _About) -> tuple[Condition, ...]:
    single = isinstance(findings.document.data["rules"][findings.entry[1]].get("when"), str)
    made = (
        _condition(findings, ("when",) if single else ("when", index), kind, text, about)
        for index, text in enumerate(form.when)
    )
    return tuple(condition for condition in made if condition is not None)


def _condition(
    findings: Findings, where: tuple[str | int, ...], kind: EventType, text: str, about: _About
) -> Condition | None:
    made = compile_condition(kind.name, text)
    if isinstance(made, tuple):
        findings.inside(where, made)
        return None
    _check_keys(findings, where, kind, made, about)
    return made


def _check_keys(
    findings: Findings, where: tuple[str | int, ...], kind: EventType, condition: Condition, about: _About
) -> None:
    """Keys of `event.columns` that are written out must be columns that the stream declares."""
    if about.stream is None or not about.stream.fields.features:
        return
    measured = {name for name in about.stream.fields.features if about.stream.privacy.get(name) != "drop"}
    for read in condition.reads:
        if len(read.steps) < 2 or read.root != "event" or read.steps[0] != "columns" or read.steps[1] is None:
            continue
        key = read.steps[1]
        if key not in measured and any(f.name == "columns" and f.kind is Kind.RECORDS for f in kind.fields):
            hint = did_you_mean(key, measured) or f"; it has {', '.join(sorted(measured))}"
            findings.wrong(
                where, f"{read.text}: stream {about.model.stream if about.model else ''} has no column {key}{hint}"
            )


def _check_aims(findings: Findings, form: RuleForm) -> None:
    if not form.do and form.mode != "observe":
        findings.wrong((), "it has no steps: say `do`, or `mode: observe` to record only")
    if form.on_unknown == "notify" and not form.on_failure:
        findings.doubtful(("on_unknown",), "tells nobody: there is no on_failure")
    if form.on_unknown == "notify" and form.mode == "observe":
        findings.doubtful(("on_unknown",), "tells nobody: a rule that observes starts nothing")


def _check_key(findings: Findings, kind: EventType, name: str) -> None:
    """A `for_each` field must be a single value of the event."""
    fields: tuple[Field, ...] = kind.fields
    found: Field | None = None
    for part in name.removeprefix("event.").split("."):
        found = next((field for field in fields if field.name == part), None)
        fields = found.fields if found is not None and found.kind is Kind.RECORD else ()
    where = ("for_each",)
    if found is None:
        hint = did_you_mean(name, [field.name for field in kind.fields])
        findings.wrong(where, f"{kind.name} has no field {name}{hint}")
    elif found.kind not in {Kind.STRING, Kind.INT, Kind.BOOL}:
        findings.wrong(where, f"{name} is a {found.kind.value}; things are remembered apart by texts and whole numbers")


def _subject(findings: Findings, form: RuleForm, kind: EventType, about: _About, known: Known) -> str:
    """What the event must be about: written, or the file's model for events about models."""
    config = known.config
    of_model = any(field.name == "model" and field.required for field in kind.fields)
    if form.subject is None:
        return about.name if of_model else ""
    if of_model and about.name and form.subject != about.name:
        findings.wrong(("subject",), f"{kind.name} is about models, and this file is about {about.name}")
    places: dict[str, tuple[str, Any]] = {
        "data.landed": ("storage source", config.folders),
        "schedule.due": ("schedule", config.schedules),
    }
    what, names = places.get(kind.name, ("model", config.models) if of_model else ("", None))
    if names is not None and form.subject not in names:
        hint = did_you_mean(form.subject, names) or f"; config.yaml has {', '.join(names) or 'none'}"
        findings.wrong(("subject",), f"there is no {what} {form.subject}{hint}")
    return form.subject


def _columns(stream: Stream) -> list[str]:
    fields = stream.fields
    roles = (fields.unit, fields.version, fields.model, fields.prediction)
    return [*fields.features, *(role for role in roles if role)]
