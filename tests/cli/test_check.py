"""`driftd check` and `driftd start` on files with mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from daemon.commands.exits import Exit
from tests.cli.conftest import CONFIG, ROOT, RULES, Household


def test_good_files_are_counted(household: Household) -> None:
    """The shape of `driftd check --json`."""
    guards = {"storm": "", "freezes": [], "frozen": "", "heeds_freeze": [], "ignores_freeze": []}
    found = {"ok": True, "rules": 3, "monitors": 1, "mistakes": [], "warnings": [], "guards": guards}
    assert household.json("check") == found
    assert household.driftd("check").stdout == "All is well: 3 rules, 1 monitors.\n"


def test_every_mistake_has_its_place(household: Household) -> None:
    """Mistakes in two files come at once, as file:line:col."""
    rules = household.folder / "rules"
    (rules / "churn.yaml").write_text(RULES.replace("event.drifted_columns >= 1", "event.drifted_colums >= 1"))
    (rules / "other.yaml").write_text("model: nobody\nrules: []\n")

    told = household.json("check", exit_code=Exit.FOUND)

    assert told["ok"] is False
    assert {mistake["file"] for mistake in told["mistakes"]} == {"rules/churn.yaml", "rules/other.yaml"}
    (typo,) = [mistake for mistake in told["mistakes"] if "drifted_colums" in mistake["message"]]
    assert (typo["line"], typo["column"]) == (11, 15)
    assert "did you mean drifted_columns?" in typo["message"]
    assert "rules/churn.yaml:11:15: " in household.driftd("check").stdout


def test_mistakes_in_the_configuration_are_told_the_same_way(household: Household) -> None:
    """Without a configuration the rules are not looked at."""
    (household.folder / "config.yaml").write_text(CONFIG.replace("task: binary", "task: guessing"))

    told = household.json("check", exit_code=Exit.FOUND)

    assert told["rules"] == 0
    assert [mistake["line"] for mistake in told["mistakes"]] == [5]


def test_other_commands_name_the_mistakes_of_the_configuration(household: Household) -> None:
    """A broken config.yaml ends every command with its mistakes and code 1."""
    (household.folder / "config.yaml").write_text("home: [\n")

    result = household.driftd("events")

    assert result.exit_code == Exit.FOUND
    assert result.stderr.startswith(f"{household.folder}/config.yaml:2:1: is not YAML")


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path, household: Household) -> None:
    """The path is named."""
    (household.folder / "config.yaml").unlink()

    result = household.driftd("check")

    assert result.exit_code == Exit.FOUND
    assert "config.yaml" in result.output


def test_the_daemon_does_not_start_on_a_broken_configuration(tmp_path: Path) -> None:
    """`python -m daemon start` prints the mistakes and ends with 1."""
    (tmp_path / "config.yaml").write_text("home: here\nnonsense: 1\n")
    command = [sys.executable, "-m", "daemon", "--config", str(tmp_path / "config.yaml"), "start"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == Exit.FOUND
    assert "config.yaml:2:1: " in done.stderr
    assert "Traceback" not in done.stderr
