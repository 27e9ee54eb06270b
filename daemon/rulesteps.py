"""The steps of a rule: `do` and `on_failure` as written -> Step, checked against what verbs and templates declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from daemon.config import Config, Model, Stream
from daemon.core.expressions import Template, compile_template, looks_like_template
from daemon.core.fields import EventType
from daemon.core.programs import Parameter
from daemon.core.programs import Template as Program
from daemon.core.rules import Position, Step
from daemon.core.spelling import did_you_mean
from daemon.documents import Where, parse_part
from daemon.findings import Findings
from daemon.templates import fits

Target = Literal["serving", "registry", "training", "none"]


class VerbShape(Protocol):
    """What rules are checked against: the declaration of a verb, without what it does."""

    @property
    def name(self) -> str:
        """As rules write it."""
        ...

    @property
    def inputs(self) -> type[BaseModel]:
        """What may stand under it."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Outputs that an earlier step or the event must give."""
        ...

    @property
    def gives(self) -> tuple[str, ...]:
        """Outputs for later steps."""
        ...

    @property
    def target(self) -> Target:
        """What is locked."""
        ...

    @property
    def changes_production(self) -> bool:
        """A freeze holds back what it does."""
        ...

    @property
    def deadline(self) -> Callable[[Any], float]:
        """Longest that it may take, in seconds, from its inputs."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What rules are checked against."""

    config: Config
    verbs: Mapping[str, VerbShape]
    programs: Mapping[str, Program]
    """Approved templates."""


_SAMPLES: Mapping[str, tuple[Any, ...]] = {
    "string": ("x", "1", "champion"),
    "int": (1, 10, 50, 100, 1000, 0),
    "double": (0.5, 0.01, 1.5, 10.0, 0.0),
    "bool": (True,),
    "time": ("2026-01-01T00:00:00+00:00",),
    "duration": ("10m",),
    "list": ([], ["x"], [1]),
}
"""Values that stand for a template of that type while the inputs around it are checked."""

_FITTING: Mapping[str, frozenset[str]] = {
    "string": frozenset({"string", "time", "duration"}),
    "int": frozenset({"int"}),
    "number": frozenset({"int", "double"}),
    "bool": frozenset({"bool"}),
    "time": frozenset({"time"}),
    "duration": frozenset({"duration"}),
}
"""Type of a template's parameter -> types of an expression that may fill it."""


def read_steps(
    findings: Findings, key: str, entries: tuple[dict[str, Any], ...], kind: EventType | None, known: Known
) -> tuple[tuple[Step, ...], tuple[BaseModel | None, ...]]:
    """The steps under `key`, and their inputs as the verbs read them (None where they are wrong)."""
    steps: list[Step] = []
    inputs: list[BaseModel | None] = []
    for index, entry in enumerate(entries):
        read = _step(findings, (key, index), entry, kind, known)
        if read is not None:
            steps.append(read[0])
            inputs.append(read[1])
    return tuple(steps), tuple(inputs)


def check_steps(
    findings: Findings, model: Model | None, kind: EventType, steps: tuple[Step, ...], known: Known
) -> None:
    """Whether what a step needs is given before it, and what the run touches belongs to a model."""
    given = {"version"} & {field.name for field in kind.fields}
    for index, step in enumerate(steps):
        where = ("do", index, step.verb)
        verb = known.verbs[step.verb]
        missing = [name for name in verb.needs if name not in given]
        if missing:
            givers = sorted(other.name for other in known.verbs.values() if set(missing) & set(other.gives))
            hint = f"; {' or '.join(givers)} gives it" if givers else ""
            message = (
                f"{step.verb} needs {', '.join(missing)}, which neither an earlier step nor {kind.name} gives{hint}"
            )
            findings.wrong(where, message, at_key=True)
        if model is None and (verb.target != "none" or "version" in verb.needs):
            findings.wrong(where, f"{step.verb} works on a model: say `model:` at the top of the file", at_key=True)
        given |= set(verb.gives)
    verbs = [step.verb for step in steps]
    if "canary" in verbs and "promote" not in verbs[verbs.index("canary") :]:
        message = "a canary with no promote after it: the version would never be promoted"
        findings.wrong(("do", verbs.index("canary"), "canary"), message, at_key=True)
    if "promote" in verbs and "canary" not in verbs[: verbs.index("promote")]:
        message = "promotes without a canary: no traffic will have proven the version"
        findings.doubtful(("do", verbs.index("promote"), "promote"), message, at_key=True)


def check_told(findings: Findings, steps: tuple[Step, ...], known: Known) -> None:
    """`on_failure` comes when the run is over and its locks are free: it may tell, not act on the model."""
    for index, step in enumerate(steps):
        if known.verbs[step.verb].target != "none":
            message = f"on_failure only tells (notify, command); a failed run undoes itself, so no {step.verb} here"
            findings.wrong(("on_failure", index, step.verb), message, at_key=True)


def check_guards(
    findings: Findings,
    model: Model,
    stream: Stream | None,
    steps: tuple[Step, ...],
    inputs: tuple[BaseModel | None, ...],
) -> None:
    """Whether the stream holds what each guard, and an evaluation, decides by."""
    for index, (step, read) in enumerate(zip(steps, inputs, strict=True)):
        where = ("do", index, step.verb)
        if step.verb == "evaluate" and (stream is None or stream.fields.label is None):
            findings.wrong(
                where, f"evaluate needs labels, and {_of(model, stream)} has none (fields.label)", at_key=True
            )
        if step.verb != "canary":
            continue
        if stream is None or stream.fields.version is None:
            message = f"a canary is judged by the prediction log, and {_of(model, stream)} does not say the version (fields.version)"
            findings.wrong(where, message, at_key=True)
            continue
        for place, item in enumerate(getattr(read, "guards", ())):
            for guard in (item,) if isinstance(item, str) else tuple(item):
                missing = _undecidable(guard, stream)
                if not missing:
                    continue
                written = ("do", index, "canary", "guards", place)
                findings.wrong(written, f"guard {guard} cannot decide: {_of(model, stream)} has no {missing}")


def _undecidable(guard: str, stream: Stream) -> str:
    """What a guard misses in the stream; empty when nothing."""
    fields = stream.fields
    match guard:
        case "accuracy" if fields.label is None:
            return "labels (fields.label)"
        case "accuracy" | "prediction_shift" if fields.prediction is None and fields.score is None:
            return "score or prediction (fields.score, fields.prediction)"
        case "error_rate" if fields.error is None:
            return "errors (fields.error)"
        case "latency_p95" if fields.latency_ms is None:
            return "latencies (fields.latency_ms)"
        case _:
            return ""


def _of(model: Model, stream: Stream | None) -> str:
    return f"stream {model.stream}" if stream is not None else "the model has no stream, which"


def _step(
    findings: Findings, where: Where, entry: dict[str, Any], kind: EventType | None, known: Known
) -> tuple[Step, BaseModel | None] | None:
    approve = entry.get("approve", False)
    if not isinstance(approve, bool):
        findings.wrong((*where, "approve"), "approve is true or false")
    names = [name for name in entry if name != "approve"]
    unknown = [name for name in names if name not in known.verbs]
    for name in unknown:
        hint = did_you_mean(name, known.verbs) or f"; known are {', '.join(known.verbs)}"
        findings.wrong((*where, name), f"unknown verb {name}{hint}", at_key=True)
    if unknown:
        return None
    if len(names) != 1:
        findings.wrong(where, f"a step is one verb with its inputs; here are {', '.join(names) or 'none'}")
        return None
    verb = known.verbs[names[0]]
    raw = {} if entry[verb.name] is None else entry[verb.name]
    place = (*where, verb.name)
    if not isinstance(raw, dict):
        findings.wrong(place, f"the inputs of {verb.name} are a mapping, e.g. `{verb.name}: {{...}}`")
        return None
    compiled = _compiled(findings, place, raw, kind)
    inputs = _validated(findings, place, compiled, verb)
    _check_program(findings, place, compiled, inputs, known)
    if verb.name == "notify" and isinstance(raw.get("to"), str) and raw["to"] not in known.config.channels:
        channels = known.config.channels
        hint = did_you_mean(raw["to"], channels) or f"; config.yaml has {', '.join(channels) or 'none'}"
        findings.wrong((*place, "to"), f"there is no channel {raw['to']}{hint}")
    line, column = findings.document.key_position((*findings.entry, *place))
    return Step(verb.name, compiled, approve is True, Position(findings.document.file, line, column)), inputs


def _compiled(findings: Findings, where: Where, value: Any, kind: EventType | None) -> Any:
    """The value with its templates compiled."""
    if isinstance(value, dict):
        return {name: _compiled(findings, (*where, name), item, kind) for name, item in value.items()}
    if isinstance(value, list):
        return [_compiled(findings, (*where, index), item, kind) for index, item in enumerate(value)]
    if not looks_like_template(value):
        return value
    if kind is None:
        return _BROKEN
    made = compile_template(kind.name, value)
    if isinstance(made, Template):
        return made
    findings.inside(where, made)
    return _BROKEN


_BROKEN = Template("", "", "any", (), (), None)
"""In place of a template that did not compile, or cannot be: it fits everywhere, so that it is reported once."""


def _validated(findings: Findings, where: Where, compiled: dict[str, Any], verb: VerbShape) -> BaseModel | None:
    """The inputs as the verb reads them, with samples in place of templates."""
    for tried in _sampled(compiled):
        try:
            return verb.inputs.model_validate(tried)
        except ValidationError:
            continue
    inputs = parse_part(findings.document, (*findings.entry, *where), _filled(compiled, 0), verb.inputs)
    assert isinstance(inputs, tuple)
    findings.shape(inputs)
    return None


def _sampled(compiled: dict[str, Any]) -> Iterator[dict[str, Any]]:
    rounds = 12 if _has_template(compiled) else 1
    for index in range(rounds):
        yield _filled(compiled, index)


def _has_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_template(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_template(item) for item in value)
    return isinstance(value, Template)


def _filled(value: Any, index: int) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, index) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, index) for item in value]
    if not isinstance(value, Template):
        return value
    every = tuple(sample for samples in _SAMPLES.values() for sample in samples[:1])
    samples = _SAMPLES.get(value.type, every if value.type == "any" else ({},))
    return samples[index % len(samples)]


def _check_program(
    findings: Findings, where: Where, compiled: dict[str, Any], inputs: BaseModel | None, known: Known
) -> None:
    """The approved template that the step names, and the values for its parameters."""
    name = compiled.get("template", getattr(inputs, "template", None))
    if isinstance(name, Template) and name is not _BROKEN:
        findings.wrong((*where, "template"), "a template is named, never computed from an event")
    if not isinstance(name, str):
        return
    program = known.programs.get(name)
    verb = str(where[-1])
    if program is None:
        fitting = [other.name for other in known.programs.values() if other.verb == verb]
        hint = did_you_mean(name, fitting) or f"; approved for {verb} are {', '.join(fitting) or 'none'}"
        findings.wrong((*where, "template"), f"there is no template {name}{hint}")
        return
    if program.verb != verb:
        findings.wrong((*where, "template"), f"template {name} is for {program.verb}, not for {verb}")
        return
    given = compiled.get("with") or {}
    if isinstance(given, dict):
        _check_parameters(findings, (*where, "with"), program, given)


def _check_parameters(findings: Findings, where: Where, program: Program, given: dict[str, Any]) -> None:
    declared = program.parameters
    for name, value in given.items():
        if name not in declared:
            hint = did_you_mean(name, declared) or f"; it declares {', '.join(declared) or 'none'}"
            findings.wrong((*where, name), f"template {program.name} has no parameter {name}{hint}", at_key=True)
        elif not _fills(declared[name], value):
            given_is = f"an expression that gives {value.type}" if isinstance(value, Template) else repr(value)
            message = f"parameter {name} of {program.name} must be {declared[name].type}, not {given_is}"
            findings.wrong((*where, name), message)
    for name, parameter in declared.items():
        if parameter.required and name not in given:
            findings.wrong(where, f"template {program.name} needs the parameter {name}: {parameter.doc}")


def _fills(parameter: Parameter, value: Any) -> bool:
    if isinstance(value, Template):
        return value.type == "any" or value.type in _FITTING[parameter.type]
    return fits(parameter.type, value)
