"""`driftd check`: every mistake in config.yaml, the templates and the rules, as file:line:column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import typer

from daemon.commands.exits import Exit
from daemon.commands.printing import AsJson, print_json, print_line
from daemon.config import Config, load_config
from daemon.core.durations import write_duration
from daemon.core.errors import ConfigError, Mistake
from daemon.core.rules import Mode, RuleSet
from daemon.freezes import calendar
from daemon.rulecheck import changes_production
from daemon.rulefiles import RuleFolder
from daemon.rulesteps import Known
from daemon.verbs import load_verbs


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check config.yaml, the approved templates and all rules. Exit code 1 when there is a mistake; warnings are told."""
    rules = monitors = 0
    warnings: tuple[Mistake, ...] = ()
    guards: dict[str, Any] = {}
    try:
        config = load_config(context.obj, with_secrets=False)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        verbs = {name: loaded.verb for name, loaded in load_verbs().items()}
        checked = RuleFolder(config, verbs).check(with_commit=False)
        mistakes, warnings = checked.mistakes, checked.loaded.warnings
        rules, monitors = len(checked.loaded.rules.rules), len(checked.loaded.monitors)
        guards = _guards(config, Known(config, verbs, {}), checked.loaded.rules)
    if as_json:
        print_json({
            "ok": not mistakes, "rules": rules, "monitors": monitors,
            "mistakes": _listed(mistakes), "warnings": _listed(warnings), "guards": guards,
        })  # fmt: skip
    else:
        for warning in warnings:
            print_line(f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}")
        for mistake in mistakes:
            print_line(str(mistake))
        for line in _told(guards):
            print_line(line)
        print_line(_summary(len(mistakes), rules, monitors))
    if mistakes:
        raise typer.Exit(Exit.FOUND)


def _guards(config: Config, known: Known, rules: RuleSet) -> dict[str, Any]:
    """What may hold runs back before their start, and which rules' runs."""
    frozen = calendar(config.freeze)(datetime.now(UTC))
    acting = [rule for rule in rules.rules if rule.mode is not Mode.OBSERVE and changes_production(rule, known)]
    storm = f"{config.storm.firings} within {write_duration(config.storm.within)}" if config.storm else ""
    return {
        "storm": storm, "freezes": list(config.freeze), "frozen": frozen.why if frozen else "",
        "heeds_freeze": [rule.name for rule in acting if not rule.ignore_freeze] if config.freeze else [],
        "ignores_freeze": [rule.name for rule in acting if rule.ignore_freeze],
    }  # fmt: skip


def _told(guards: Mapping[str, Any]) -> Iterator[str]:
    if guards.get("storm"):
        yield f"storm: {guards['storm']}; what fires beyond is held until somebody lets it go"
    if guards.get("freezes"):
        now = guards["frozen"] or "none is on now"
        held, free = (", ".join(guards[name]) or "none" for name in ("heeds_freeze", "ignores_freeze"))
        yield f"freezes: {', '.join(guards['freezes'])}; {now}. Rules that one holds back: {held}; that ignore it: {free}"


def _listed(found: Iterable[Mistake]) -> list[dict[str, Any]]:
    return [{"file": m.file, "line": m.line, "column": m.column, "message": m.message} for m in found]


def _summary(mistakes: int, rules: int, monitors: int) -> str:
    if mistakes:
        return f"{mistakes} {'mistake' if mistakes == 1 else 'mistakes'}: none of the rules would be loaded."
    return f"All is well: {rules} rules, {monitors} monitors."
