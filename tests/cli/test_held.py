"""Storms and freezes on the command line: what is held, why, and the words that let it go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.commands.exits import Exit
from tests.cli import conftest
from tests.cli.conftest import Household, nightly

YEARS = f"{{until: {(datetime.now(UTC) + timedelta(days=4000)).date()}}}"

RULES = """
model: churn
rules:
""" + "".join(
    f"""
  - name: train-{name}
    on: schedule.due
    when_busy: queue
    do:
      - retrain: {{template: tabular-train}}
"""
    for name in "abcd"
)


@pytest.fixture
def storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two firings are a storm, and four rules fire every night."""
    monkeypatch.setattr(conftest, "CONFIG", conftest.CONFIG + "storm: {firings: 2, within: 1h, notify: oncall}\n")
    monkeypatch.setattr(conftest, "RULES", RULES)


@pytest.fixture
def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production is frozen for years; four rules fire every night."""
    monkeypatch.setattr(conftest, "CONFIG", conftest.CONFIG + f"freeze: {{move: {YEARS}}}\n")
    monkeypatch.setattr(conftest, "RULES", RULES)


@pytest.mark.usefixtures("storm")
def test_what_a_storm_holds_is_told_and_let_go(household: Household) -> None:
    """status, runs, decisions and explain say so; approve of one starts it, of all the rest, and rules on."""
    household.submit(nightly())
    status = household.json("status")["store"]
    assert len(status["held_by_storm"]) == 2
    listed = household.driftd("runs").output
    assert listed.count("held (storm)") == 2
    assert "storm guard" in listed
    decision = household.json("decisions")[0]
    assert decision["admission"] == "held: a storm: 3 firings within 1h, 2 are allowed"
    explained = household.driftd("explain", str(decision["seq"])).output
    assert (
        f"held (storm): a storm: 3 firings within 1h, 2 are allowed; `driftd approve {decision['run'][:8]}`"
        in explained
    )
    assert "is held before its start" in household.driftd("explain", decision["rule"], "--why-not").output
    assert "2 runs are held" in household.driftd("resume").output

    one = household.json("approve", decision["run"])
    assert (one["changed"], one["state"]) == (True, "pending")
    assert "approved by" in one["why"]
    rest = household.json("approve", "--held", "storm")
    assert [run["changed"] for run in rest] == [True]
    assert household.json("status")["store"]["held_by_storm"] == []
    assert household.driftd("approve", "--held", "storm").exit_code == Exit.REFUSED


@pytest.mark.usefixtures("storm")
def test_what_a_storm_holds_is_discarded(household: Household) -> None:
    """Reject of all that is held ends each, and says so of each."""
    household.submit(nightly())
    output = household.driftd("reject", "--held", "storm", "-m", "the table was empty").output
    assert output.count("cancelled: rejected by") == 2
    assert output.count("the table was empty") == 2


@pytest.mark.usefixtures("freeze")
def test_a_freeze_is_overridden_with_a_reason(household: Household) -> None:
    """Without a reason nothing changes and the way is told; with one the run starts, and it is in the audit."""
    household.submit(nightly())
    runs = household.json("status")["store"]["held_by_freeze"]
    assert len(runs) == 4
    assert household.json("status")["store"]["freeze"].startswith("production is frozen (move) until ")
    refused = household.driftd("approve", runs[0])
    assert refused.exit_code == Exit.REFUSED
    assert "--override-freeze REASON" in refused.output
    done = household.json("approve", runs[0], "--override-freeze", "incident 7")
    assert (done["state"], done["changed"]) == ("running", True)
    assert "the freeze is overridden: incident 7" in household.driftd("audit", "show", "--run", runs[0]).output
    assert len(household.json("status")["store"]["held_by_freeze"]) == 3
    assert household.driftd("reject", "--held", "freeze").exit_code == 0


def test_one_run_or_all_that_is_held(household: Household) -> None:
    """Neither, or both, is a mistake of usage."""
    assert household.driftd("approve").exit_code == Exit.USAGE
    assert household.driftd("approve", "x", "--held", "storm").exit_code == Exit.USAGE


def test_check_tells_what_may_be_held(tmp_path: Path, household: Household) -> None:
    """Which rules a freeze holds back, whether one is on, and where ignore_freeze means nothing."""
    text = conftest.RULES.replace("    mode: approve", "    ignore_freeze: true")
    (tmp_path / "rules" / "churn.yaml").write_text(text)
    warned = household.json("check")
    assert [one["message"] for one in warned["warnings"] if "ignore_freeze" in one["message"]] == []
    assert any("means nothing: config.yaml has no freeze" in one["message"] for one in warned["warnings"])
    config = conftest.CONFIG + f"storm: {{firings: 7}}\nfreeze: {{move: {YEARS}}}\n"
    (tmp_path / "config.yaml").write_text(config)
    told = household.json("check")
    assert told["guards"]["heeds_freeze"] == ["canary-registered"]
    assert told["guards"]["storm"] == "7 within 30m"
    assert any("no freeze holds this rule back" in one["message"] for one in told["warnings"])
    output = household.driftd("check").output
    assert "production is frozen (move) until" in output
    assert "Rules that one holds back: canary-registered" in output
