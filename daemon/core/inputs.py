"""A step's inputs for one event: what the rule wrote under the verb, with its expressions evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.core.expressions import Activation, Template
from daemon.core.rules import Step


def complete_inputs(
    steps: tuple[Step, ...], values: Activation, streak_start: str
) -> tuple[tuple[tuple[Step, Mapping[str, Any]], ...], str]:
    """The steps with their expressions evaluated; the second says which one is unknown, and is empty when none is."""
    resolved = []
    for step in steps:
        inputs, missing = _evaluated(step.inputs, values, streak_start)
        if missing:
            return (), f"{step.verb}: {missing}"
        resolved.append((step, inputs))
    return tuple(resolved), ""


def known_inputs(
    steps: tuple[Step, ...], values: Activation, streak_start: str
) -> tuple[tuple[Step, Mapping[str, Any]], ...]:
    """The same where an unknown value must not stop the step: it is left out."""
    return tuple((step, _evaluated(step.inputs, values, streak_start)[0]) for step in steps)


def _evaluated(value: Any, values: Activation, streak_start: str) -> tuple[Any, str]:
    if isinstance(value, Template):
        result = value.evaluate(values, streak_start)
        return result.value, result.unknown
    if isinstance(value, Mapping):
        pairs = {name: _evaluated(item, values, streak_start) for name, item in value.items()}
        missing = next((why for _, why in pairs.values() if why), "")
        return {name: item for name, (item, why) in pairs.items() if not why}, missing
    if isinstance(value, list | tuple):
        items = [_evaluated(item, values, streak_start) for item in value]
        return [item for item, why in items if not why], next((why for _, why in items if why), "")
    return value, ""
