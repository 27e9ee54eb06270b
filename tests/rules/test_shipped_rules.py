"""What is shipped: the rules, their templates, and what is generated for their authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.config import load_config
from daemon.core.events import CATALOGUE
from daemon.rulefiles import Checked, RuleFolder
from daemon.ruleschema import pages, schema
from daemon.verbs import load_verbs

ROOT = Path(__file__).parents[2]
VERBS = {name: loaded.verb for name, loaded in load_verbs().items()}


@pytest.fixture(scope="module")
def shipped() -> Checked:
    """The shipped rules, checked against the shipped configuration."""
    return RuleFolder(load_config(ROOT / "config.yaml", {}), VERBS).check()


def test_the_shipped_rules_are_without_mistakes_and_warnings(shipped: Checked) -> None:
    """Nothing to tell about what is shipped."""
    assert [str(found) for found in (*shipped.mistakes, *shipped.loaded.warnings)] == []


def test_the_shipped_rules_show_each_kind_of_cause(shipped: Checked) -> None:
    """Drift, performance, landed data, registration, schedule, and a silent source."""
    rules = shipped.loaded.rules.rules
    listened = {rule.on for rule in rules if rule.absent is None}
    silent = {rule.on for rule in rules if rule.absent is not None}

    assert {"drift.measured", "performance.measured", "data.landed", "model.registered", "schedule.due"} <= listened
    assert silent == {"data.landed"}


def test_a_retraining_s_own_registration_starts_no_second_canary(shipped: Checked) -> None:
    """The rule that tries registered versions counts those of others only."""
    rule = shipped.loaded.rules.by_name["car-loan-check-registered"]

    assert (rule.include_own, [step.verb for step in rule.steps]) == (False, ["canary", "promote"])


@pytest.mark.parametrize("name", ["schema.json", "events.md"])
def test_generated_files_are_fresh(name: str) -> None:
    """`python -m daemon.ruleschema rules` would change nothing."""
    assert (ROOT / "rules" / name).read_text() == pages(VERBS)[name]


def test_the_schema_knows_every_event_type_verb_and_key() -> None:
    """Editors complete what rules may say, each with its meaning."""
    made: dict[str, Any] = schema(VERBS)
    rule = made["$defs"]["RuleForm"]["properties"]
    steps = made["$defs"]["Step"]["anyOf"]

    assert {one["const"] for one in rule["on"]["anyOf"]} == set(CATALOGUE) - {"timer.due", "rules.loaded"}
    assert {step["required"][0] for step in steps} == set(VERBS)
    assert [key for key, said in rule.items() if "description" not in said and key != "name"] == []
