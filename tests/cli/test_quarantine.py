"""Versions that no rule may promote: told, barred and released on the command line."""

from __future__ import annotations

import os
import pwd

import pytest

from daemon.commands.exits import Exit
from daemon.core.calls import Failed
from tests.cli.conftest import Household, registered

ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_version_is_barred_by_a_person_and_released_again(household: Household) -> None:
    """Add, list, release: each says what is so now."""
    added = household.json("quarantine", "add", "churn@7", "-m", "leaks", "--by", "ann", "--digest", "abc")
    listed = household.json("quarantine", "list")
    released = household.json("quarantine", "release", "churn@7", "-m", "fixed")

    assert {"event": 2, "by": f"ann ({ME})", "model": "churn", "version": "7", "barred": True} == added
    assert listed == [
        {
            "model": "churn", "created": "", "version": "7", "digest": "abc", "at": "2026-01-05T12:00:00.000001+00:00",
            "run": "", "reason": f"ann ({ME}): leaks", "released": "",
        }
    ]  # fmt: skip
    assert released["barred"] is False
    assert household.json("quarantine") == []
    assert [f"{ME}: fixed"] == [one["released"] for one in household.json("quarantine", "list", "--all")]


def test_a_version_that_a_run_rejected_names_the_run(household: Household) -> None:
    """What a canary found out is listed with its reason."""
    household.submit(registered("9"))
    household.answer("canary", Failed("twice the errors", quarantine=True))

    (barred,) = household.json("quarantine")

    assert (barred["version"], barred["reason"], barred["run"]) == ("9", "twice the errors", household.run_id())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("release", "churn@7", "-m", "x"), Exit.NOT_FOUND),
        (("add", "other@7", "-m", "x"), Exit.NOT_FOUND),
        (("add", "churn", "-m", "x"), Exit.USAGE),
        (("add", "churn@7"), Exit.USAGE),
        (("release", "churn@7"), Exit.USAGE),
    ],
)
def test_what_cannot_be_meant_is_not_said(household: Household, arguments: tuple[str, ...], code: Exit) -> None:
    """Unknown models, versions that are free, missing reasons: nothing is stored."""
    assert code == household.driftd("quarantine", *arguments).exit_code
    assert household.json("events", "--type", "control.changed") == []
