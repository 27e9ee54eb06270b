"""Freezes of config.yaml: when one is on, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import load_config
from daemon.core.errors import ConfigError
from daemon.freezes import calendar
from daemon.limitparts import Freeze
from daemon.verbs import load_verbs

BERLIN = ZoneInfo("Europe/Berlin")


def on(moment: str, **freezes: dict[str, Any]) -> tuple[str, str, bool] | None:
    """The freeze that is on at a time of Berlin: name, end (there), and whether it skips."""
    parts = {name: Freeze.model_validate({"timezone": "Europe/Berlin", **how}) for name, how in freezes.items()}
    found = calendar(parts)(datetime.fromisoformat(moment).replace(tzinfo=BERLIN))
    return found and (found.name, found.until.astimezone(BERLIN).strftime("%Y-%m-%dT%H:%M"), found.skips)


YEAR = {"from": "2026-12-20", "until": "2027-01-03"}
WEEKEND = {"cron": "0 18 * * fri", "lasts": "62h"}


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-12-19T23:59:59", None),
        ("2026-12-20T00:00", "2027-01-04T00:00"),
        ("2027-01-03T23:59:59", "2027-01-04T00:00"),
        ("2027-01-04T00:00", None),
    ],
)
def test_dates_are_whole_days_there(moment: str, until: str | None) -> None:
    """From the first day's midnight to the end of the last day, in the freeze's own time zone."""
    found = on(moment, year=YEAR)
    assert (found and found[1]) == until


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-01-09T17:59:59", None),
        ("2026-01-09T18:00", "2026-01-12T08:00"),
        ("2026-01-12T07:59:59", "2026-01-12T08:00"),
        ("2026-01-12T08:00", None),
    ],
)
def test_a_crontab_line_and_how_long_it_lasts(moment: str, until: str | None) -> None:
    """Each time it begins it lasts so long: the beginning is frozen, the end is not."""
    found = on(moment, weekend=WEEKEND)
    assert (found and found[1]) == until


def test_both_together() -> None:
    """A crontab line counts from the first date to the last only."""
    both = {**WEEKEND, "from": "2026-01-10", "until": "2026-01-11T12:00"}
    assert on("2026-01-09T20:00", both=both) is None
    assert on("2026-01-10T20:00", both=both) == ("both", "2026-01-11T12:00", False)
    assert on("2026-01-11T12:00", both=both) is None
    assert on("2026-01-16T20:00", both=both) is None


def test_where_several_are_on() -> None:
    """The one that lasts longest is told; that any of them skips decides."""
    assert on("2026-12-25T20:00", year=YEAR, weekend=WEEKEND) == ("year", "2027-01-04T00:00", False)
    skips = on("2026-12-25T20:00", year=YEAR, weekend={**WEEKEND, "firings": "skip"})
    assert skips == ("year", "2027-01-04T00:00", True)
    assert on("2026-12-21T20:00", year=YEAR, weekend={**WEEKEND, "firings": "skip"}) == (
        "year",
        "2027-01-04T00:00",
        False,
    )


@given(
    hour=st.integers(0, 23), weekday=st.integers(0, 6), lasts=st.integers(1, 400),
    minutes=st.integers(0, 60 * 24 * 28),
)  # fmt: skip
def test_a_crontab_freeze_is_what_its_words_say(hour: int, weekday: int, lasts: int, minutes: int) -> None:
    """Looking back minute by minute for a beginning finds the same freeze, and the same end."""
    freeze = Freeze.model_validate({"cron": f"0 {hour} * * {weekday}", "lasts": f"{lasts}h"})
    now = datetime(2026, 2, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    found = calendar({"f": freeze})(now)
    hours = [now.replace(minute=0) - timedelta(hours=back) for back in range(lasts + 1)]
    begun = [
        one
        for one in hours
        if one.hour == hour and one.isoweekday() % 7 == weekday and now - one < timedelta(hours=lasts)
    ]
    assert (found and found.until) == (begun[0] + timedelta(hours=lasts) if begun else None)


def test_mistakes_in_freezes_and_storms(tmp_path: Path) -> None:
    """Every contradiction has its place."""
    (tmp_path / "config.yaml").write_text(
        """\
home: state
channels: {oncall: {kind: log}}
storm: {firings: 10, within: 0s, notify: oncal}
freeze:
  a: {cron: "0 18 * * fri"}
  b: {from: 2026-12-20}
  c: {from: 2026-12-20, until: 2026-12-19}
  d: {until: soon}
  e: {until: 2026-12-20, timezone: Mars}
  f: {cron: "0 25 * * *", lasts: 400d}
"""
    )
    with pytest.raises(ConfigError) as told:
        load_config(tmp_path / "config.yaml", {})
    assert [f"{one.line}: {one.message.split(';')[0]}" for one in told.value.mistakes] == [
        "3: a storm needs a time longer than nothing",
        "3: there is no channel oncal",
        "5: freeze a needs both cron and lasts, or neither",
        "6: freeze b never ends: say `until`, or `cron` and `lasts`",
        "7: freeze c ends before it begins",
        "8: freeze d has the time 'soon'",
        "9: freeze e has an unknown timezone 'Mars'",
        "10: freeze f has a cron whose hour '25' cannot be read",
        "10: freeze f lasts for no time, or for more than a year",
    ]


def test_which_verbs_a_freeze_holds() -> None:
    """What trains, serves, registers or changes objects of the cluster; not what tells, predicts or keeps pods off a node."""
    held = {name for name, loaded in load_verbs().items() if loaded.verb.changes_production}
    assert held == {"retrain", "tune", "canary", "promote", "soak", "rollback", "apply"}
