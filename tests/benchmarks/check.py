"""`driftd check` on 200 rules, the interpreter's start included.

`python -m tests.benchmarks.check [NAME]` prints the figures whose names start so. The reference is the start of an
interpreter that imports the libraries which no such command can do without, measured in turn with the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson

ROOT = Path(__file__).parents[2]
RULES = 200
ROUNDS = 9
Figure = dict[str, Any]

_CONFIG = f"""
home: home
templates: {ROOT}/handlers/templates
models:
  {{models}}
streams:
  {{streams}}
channels:
  oncall: {{{{kind: log}}}}
"""

_RULE = """
  - name: {model}-rule-{number}
    on: drift.measured
    when:
      - event.drifted_columns >= {columns}
      - event.estimated_loss_ratio >= 1.{number}
    clear: event.drifted_columns == 0
    for: 2 of 3 windows
    cooldown: 6h
    limit: 2 per 24h
    do:
      - retrain: {{template: tabular-train}}
      - evaluate: {{against: champion, metric: accuracy, margin: 0.01}}
    on_failure:
      - notify: {{to: oncall}}
"""


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    if "check.200_rules_s".startswith(prefix):
        yield check()


def check() -> Figure:
    """Seconds by the clock, the median of some rounds."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), models=10)
        command = (sys.executable, "-m", "daemon", "--config", f"{folder}/config.yaml", "check")
        bare = (sys.executable, "-c", "import typer, yaml, cel_expr_python")
        _took(command)  # compiles what has never been imported, and fills the page cache
        rounds = [(_took(command), _took(bare)) for _ in range(ROUNDS)]
    return {
        "name": "check.200_rules_s", "value": round(median(mine for mine, _ in rounds), 3), "unit": "s",
        "reference": {
            "name": "start of an interpreter that imports typer, yaml and cel_expr_python",
            "value": round(median(other for _, other in rounds), 3),
        },
        "best": round(min(mine for mine, _ in rounds), 3),
    }  # fmt: skip


def _write(folder: Path, models: int) -> None:
    """A configuration of some models, and as many rule files with all the rules."""
    names = [f"model-{number}" for number in range(models)]
    fields = "{id: id, version: version, prediction: guess, score: score, label: label, features: {age: number}}"
    config = _CONFIG.format(
        models="\n  ".join(f"{name}: {{task: binary, registered: {name}, stream: {name}}}" for name in names),
        streams="\n  ".join(f"{name}: {{predictions: {name}/p, labels: {name}/l, fields: {fields}}}" for name in names),
    )
    (folder / "config.yaml").write_text(config)
    (folder / "rules").mkdir()
    each = RULES // models
    for name in names:
        head = f"model: {name}\nmonitors:\n  - name: {name}-inputs\n    window: {{rows: 1000}}\nrules:\n"
        rules = (_RULE.format(model=name, number=number + 10, columns=number % 5 + 1) for number in range(each))
        (folder / "rules" / f"{name}.yaml").write_text(head + "".join(rules))


def _took(command: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return took


if __name__ == "__main__":
    for figure in figures(sys.argv[1] if len(sys.argv) > 1 else ""):
        print(orjson.dumps(figure).decode())
