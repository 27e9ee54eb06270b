"""Checks over all rules together, and of what a rule can ever do: duplicates, overlaps, cycles, rules that never fire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from daemon.core.celtree import Comparison
from daemon.core.events import Event, utc
from daemon.core.expressions import Condition, Truth, activation
from daemon.core.rules import Mode, Rule
from daemon.core.spelling import did_you_mean
from daemon.documents import Where
from daemon.findings import Findings
from daemon.rulereading import ReadMonitor, ReadRule
from daemon.rulesteps import Known

_MEASURED = frozenset({"drift.measured", "performance.measured", "quality.measured"})

_CAUSES: Mapping[str, tuple[str, ...]] = {
    "retrain": ("model.registered",),
    "promote": ("model.alias_changed",),
    "rollback": ("model.alias_changed",),
}
"""Verb -> event types that it makes come; every run makes run.finished come besides."""

_CAUSED = frozenset({"run.finished", *(kind for kinds in _CAUSES.values() for kind in kinds)})


def check_all(rules: Sequence[ReadRule], monitors: Sequence[ReadMonitor], known: Known) -> None:
    """Note what is wrong between entries, and what can never be, in the findings of each."""
    _check_names([(read.name, read.findings) for read in rules])
    _check_names([(read.name, read.findings) for read in monitors])
    made = [(read.rule, read.findings) for read in rules if read.rule is not None]
    names = [read.name for read in monitors if read.name]
    for rule, findings in made:
        _check_truth(rule, findings)
        _check_values(rule, findings, names, known)
        _check_comes(rule, findings, monitors, known)
        _check_freeze(rule, findings, known)
    whole = [(rule, findings) for rule, findings in made if not findings.mistakes]
    _check_overlaps(whole)
    _check_cycles(whole)


def _check_names(entries: Iterable[tuple[str, Findings]]) -> None:
    first: dict[str, Findings] = {}
    for name, findings in entries:
        if not name:
            continue
        other = first.setdefault(name, findings)
        if other is not findings:
            place = f"{other.document.file}:{other.place()[0]}"
            findings.wrong(("name",), f"the name is taken by the one at {place}; names are unique over all files")


def _check_truth(rule: Rule, findings: Findings) -> None:
    """Conditions that are always true or false, or contradict one another."""
    nothing = activation(Event("", "", rule.on, "", utc("2026-01-01"), {}))
    for condition in rule.when:
        where = _when(findings, condition)
        if not condition.constant:
            continue
        truth = condition.evaluate(nothing).truth
        if truth is Truth.TRUE:
            findings.doubtful(where, "is always true: it reads nothing of the event")
        else:
            findings.wrong(where, f"is always {truth.value}: the rule can never fire")
    if rule.clear is not None and rule.clear.text.strip() in {condition.text.strip() for condition in rule.when}:
        findings.wrong(("clear",), "is the same as a condition of when: the episode would end as it begins")
    limits: dict[str, list[Comparison]] = {}
    for condition in rule.when:
        for comparison in condition.comparisons:
            earlier = limits.setdefault(comparison.read, [])
            clash = next((other for other in earlier if _exclude(other, comparison)), None)
            if clash is not None:
                message = f"can never fire: {_said(clash)} and {_said(comparison)} exclude each other"
                findings.wrong(_when(findings, condition), message)
            earlier.append(comparison)


def _exclude(one: Comparison, other: Comparison) -> bool:
    """No value is in both."""
    values = (one.value, other.value)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        pair = {one.operator, other.operator}
        return (pair == {"=="} and one.value != other.value) or (pair == {"==", "!="} and one.value == other.value)
    low, high = (one, other) if one.operator in {">", ">="} else (other, one)
    if low.operator in {">", ">="} and high.operator in {"<", "<="}:
        strict = low.operator == ">" or high.operator == "<"
        return bool(low.value > high.value or (strict and low.value == high.value))
    if "==" not in {one.operator, other.operator}:
        return False
    equal, rest = (one, other) if one.operator == "==" else (other, one)
    return not _holds(equal.value, rest.operator, rest.value)


def _holds(value: Any, operator: str, limit: Any) -> bool:
    match operator:
        case "==":
            return bool(value == limit)
        case "!=":
            return bool(value != limit)
        case "<":
            return bool(value < limit)
        case "<=":
            return bool(value <= limit)
        case ">":
            return bool(value > limit)
        case _:
            return bool(value >= limit)


def _said(comparison: Comparison) -> str:
    value = f'"{comparison.value}"' if isinstance(comparison.value, str) else comparison.value
    return f"{comparison.read} {comparison.operator} {value}"


def _check_values(rule: Rule, findings: Findings, monitors: list[str], known: Known) -> None:
    """Names that the event's fields are compared with must exist."""
    config = known.config
    names: dict[str, tuple[str, Iterable[str]]] = {
        "event.monitor": ("monitor", monitors),
        "event.model": ("model", config.models),
        "event.stream": ("stream", config.streams),
        "event.schedule": ("schedule", config.schedules),
        "event.hook": ("webhook", config.webhook.hooks),
    }
    if rule.on == "data.landed":
        names["event.source"] = ("storage source", config.folders)
    if rule.on == "message.received":
        names["event.source"] = ("kafka source", config.topics)
    if rule.on in {"node.lost", "node.ready", "gpu.capacity_changed"}:
        names["event.source"] = ("source of nodes", config.nodes)
    for condition in rule.when:
        for comparison in condition.comparisons:
            what, there = names.get(comparison.read, ("", ()))
            if not what or comparison.operator != "==" or comparison.value in set(there):
                continue
            hint = did_you_mean(str(comparison.value), there) or f"; there are {', '.join(there) or 'none'}"
            findings.wrong(_when(findings, condition), f"there is no {what} {comparison.value}{hint}")


def _check_comes(rule: Rule, findings: Findings, monitors: Sequence[ReadMonitor], known: Known) -> None:
    """Whether the event can come at all, as things are configured."""
    config = known.config
    where = ("absent",) if rule.absent is not None else ("on",)
    model = config.models.get(rule.subject or rule.model)
    stream = config.streams.get(model.stream or "") if model else None
    if rule.on in _MEASURED and model is not None:
        if not any(read.monitor is not None and read.monitor.model == rule.subject for read in monitors):
            findings.doubtful(where, f"no monitor measures {rule.subject}, so {rule.on} never comes")
        elif rule.on == "performance.measured" and stream is not None and stream.fields.label is None:
            findings.doubtful(where, f"stream {model.stream} has no labels, so {rule.on} never comes")
    sources: dict[str, tuple[str, Any]] = {
        "data.landed": ("sources", config.folders),
        "schedule.due": ("schedules", config.schedules),
        "webhook.received": ("webhook.hooks", config.webhook.hooks),
        "message.received": ("sources of kind kafka", config.topics),
        "traffic.measured": ("streams", config.streams),
        **dict.fromkeys(("node.lost", "node.ready", "gpu.capacity_changed"), ("sources of kind nodes", config.nodes)),
        "storm.began": ("storm", config.storm),
    }
    key, there = sources.get(rule.on, ("", True))
    if not there:
        findings.doubtful(where, f"config.yaml has no {key}, so {rule.on} never comes")
    own = any(
        comparison.read == "event.registered_by" and comparison.operator == "!=" and comparison.value == ""
        for condition in rule.when
        for comparison in condition.comparisons
    )
    if own and not rule.include_own:
        findings.doubtful(where, "asks for driftd's own registrations, which do not count without `include_own: true`")


def _check_freeze(rule: Rule, findings: Findings, known: Known) -> None:
    """`ignore_freeze` where nothing would be held back anyway."""
    if not rule.ignore_freeze:
        return
    if not known.config.freeze:
        findings.doubtful(("ignore_freeze",), "means nothing: config.yaml has no freeze", at_key=True)
    elif rule.mode is Mode.OBSERVE or not changes_production(rule, known):
        findings.doubtful(("ignore_freeze",), "means nothing: no freeze holds this rule back", at_key=True)


def changes_production(rule: Rule, known: Known) -> bool:
    """A freeze holds back what it starts, unless it says `ignore_freeze`: it changes traffic, registry or objects, or trains."""
    steps = [known.verbs[step.verb] for step in rule.steps if step.verb in known.verbs]
    return bool(steps) and steps[0].name != "rollback" and any(verb.changes_production for verb in steps)


def _check_overlaps(made: Sequence[tuple[Rule, Findings]]) -> None:
    first: dict[str, tuple[Rule, Findings]] = {}
    for rule, findings in made:
        other, _ = first.setdefault(rule.semantics, (rule, findings))
        if other is rule or Mode.OBSERVE in {rule.mode, other.mode}:
            continue
        place = f"{other.position.file}:{other.position.line}"
        findings.doubtful((), f'fires whenever rule "{other.name}" does ({place})')


def _check_cycles(made: Sequence[tuple[Rule, Findings]]) -> None:
    acting = [(rule, findings) for rule, findings in made if rule.mode is not Mode.OBSERVE and rule.steps]
    listening = [rule for rule, _ in acting if rule.on in _CAUSED]
    edges = {rule.name: [other.name for other in listening if _leads_to(rule, other)] for rule, _ in acting}
    told: set[frozenset[str]] = set()
    for rule, findings in acting:
        cycle = _cycle(rule.name, edges)
        if not cycle or frozenset(cycle) in told:
            continue
        told.add(frozenset(cycle))
        path = " → ".join([*cycle, cycle[0]])
        message = "it starts itself again" if len(cycle) == 1 else f"rules start one another: {path}"
        hint = (
            f'; add event.rule != "{rule.name}"' if rule.on == "run.finished" else "; without include_own it would not"
        )
        findings.doubtful((), message + hint)


def _leads_to(rule: Rule, other: Rule) -> bool:
    """A run of `rule` makes an event come that `other` counts."""
    if other.subject and other.subject != rule.model:
        return False
    if other.on == "run.finished":
        return not any(_excludes(other, rule.name))
    caused = {kind for step in rule.steps for kind in _CAUSES.get(step.verb, ())}
    return other.on in caused and (other.include_own or other.model != rule.model)


def _excludes(rule: Rule, name: str) -> Iterator[bool]:
    """Whether its conditions leave out runs of the rule `name`."""
    for condition in rule.when:
        for comparison in condition.comparisons:
            if comparison.read == "event.rule":
                yield not _holds(name, comparison.operator, comparison.value)


def _cycle(start: str, edges: Mapping[str, list[str]]) -> list[str]:
    """A shortest way from a rule back to itself, or nothing."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop(0)
        for name in edges[path[-1]]:
            if name == start:
                return path
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return []


def _when(findings: Findings, condition: Condition) -> Where:
    raw = findings.document.data["rules"][findings.entry[1]].get("when")
    return ("when", raw.index(condition.text)) if isinstance(raw, list) else ("when",)
