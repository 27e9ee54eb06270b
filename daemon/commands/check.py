"""`driftd check`: every mistake in config.yaml, the templates and the rules, as file:line:column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from daemon.commands.exits import Exit
from daemon.commands.printing import AsJson, print_json, print_line
from daemon.config import load_config
from daemon.core.errors import ConfigError, Mistake
from daemon.rulefiles import RuleFolder
from daemon.verbs import load_verbs


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check config.yaml, the approved templates and all rules. Exit code 1 when there is a mistake; warnings are told."""
    rules = monitors = 0
    warnings: tuple[Mistake, ...] = ()
    try:
        config = load_config(context.obj, with_secrets=False)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        verbs = {name: loaded.verb for name, loaded in load_verbs().items()}
        checked = RuleFolder(config, verbs).check(with_commit=False)
        mistakes, warnings = checked.mistakes, checked.loaded.warnings
        rules, monitors = len(checked.loaded.rules.rules), len(checked.loaded.monitors)
    if as_json:
        print_json({
            "ok": not mistakes, "rules": rules, "monitors": monitors,
            "mistakes": _listed(mistakes), "warnings": _listed(warnings),
        })  # fmt: skip
    else:
        for warning in warnings:
            print_line(f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}")
        for mistake in mistakes:
            print_line(str(mistake))
        print_line(_summary(len(mistakes), rules, monitors))
    if mistakes:
        raise typer.Exit(Exit.FOUND)


def _listed(found: Iterable[Mistake]) -> list[dict[str, Any]]:
    return [{"file": m.file, "line": m.line, "column": m.column, "message": m.message} for m in found]


def _summary(mistakes: int, rules: int, monitors: int) -> str:
    if mistakes:
        return f"{mistakes} {'mistake' if mistakes == 1 else 'mistakes'}: none of the rules would be loaded."
    return f"All is well: {rules} rules, {monitors} monitors."
