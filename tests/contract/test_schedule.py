"""Schedules: due times, what is missed, and clocks that jump."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.config import Schedule
from daemon.core.schema import check_data
from daemon.duetimes import COUNTED, MOST, DueTimes, due_times
from daemon.sourceparts import cron_mistakes
from daemon.sources.schedule import ScheduleSource, event_of, plan
from tests.contract.desk import Clock, Desk, eventually, running


def at(text: str) -> datetime:
    """A time in UTC, of 2026: `03-29 01:30`."""
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC)


def cron(line: str, zone: str = "UTC") -> DueTimes:
    """The due times of a crontab line."""
    return due_times(Schedule(cron=line, timezone=zone))


def following(times: DueTimes, after: datetime, count: int) -> list[str]:
    """The next due times, as `month-day hour:minute` in UTC."""
    found: list[str] = []
    while len(found) < count:
        due = times.next(after)
        assert due is not None
        found.append(f"{due:%m-%d %H:%M}")
        after = due
    return found


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        pytest.param("0 3 * * *", "01-01 02:00", ["01-01 03:00", "01-02 03:00"], id="daily"),
        pytest.param("0 3 * * 0", "01-01 00:00", ["01-04 03:00", "01-11 03:00"], id="0 is Sunday"),
        pytest.param("0 3 * * 7", "01-01 00:00", ["01-04 03:00", "01-11 03:00"], id="7 is Sunday too"),
        pytest.param("0 3 * * 1-5", "01-02 12:00", ["01-05 03:00", "01-06 03:00"], id="Monday to Friday"),
        pytest.param("0 3 * * fri-mon", "01-01 12:00", ["01-02 03:00", "01-03 03:00", "01-04 03:00", "01-05 03:00", "01-09 03:00"], id="around the week"),
        pytest.param("0 3 * * */3", "01-01 00:00", ["01-03 03:00", "01-04 03:00", "01-07 03:00"], id="steps count from Sunday"),
        pytest.param("0 3 * * 1,SAT", "01-01 00:00", ["01-03 03:00", "01-05 03:00"], id="a list, names in any case"),
        pytest.param("0 3 13 * 5", "01-01 12:00", ["01-02 03:00", "01-09 03:00", "01-13 03:00", "01-16 03:00"], id="either day suffices"),
        pytest.param("0 3 1 jan-NOV/5 *", "01-01 12:00", ["06-01 03:00", "11-01 03:00", "01-01 03:00"], id="steps behind names"),
        pytest.param("0 3 * * 3/2", "01-01 12:00", ["01-02 03:00", "01-07 03:00", "01-09 03:00"], id="steps from a day to the week's end"),
        pytest.param("*/20 9-10 * * *", "01-01 09:30", ["01-01 09:40", "01-01 10:00", "01-01 10:20", "01-01 10:40", "01-02 09:00"], id="steps and ranges"),
    ],
)  # fmt: skip
def test_a_crontab_line_means_what_it_means_in_crontab(line: str, after: str, expected: list[str]) -> None:
    """2026 begins on a Thursday."""
    assert expected == following(cron(line), at(after), len(expected))


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        pytest.param("30 2 * * *", "03-27 12:00", ["03-28 01:30", "03-29 01:30", "03-30 00:30"], id="skipped hour, fixed"),
        pytest.param("*/30 * * * *", "03-29 00:00", ["03-29 00:30", "03-29 01:00", "03-29 01:30"], id="skipped hour, any"),
        pytest.param("30 2 * * *", "10-23 12:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"], id="repeated hour, fixed"),
        pytest.param("30 * * * *", "10-25 00:00", ["10-25 00:30", "10-25 01:30", "10-25 02:30"], id="repeated hour, any"),
    ],
)  # fmt: skip
def test_a_time_of_day_is_due_once_a_day_when_clocks_change(line: str, after: str, expected: list[str]) -> None:
    """In Berlin the hour from 2 to 3 is missing on 29 March and comes twice on 25 October; elapsed times go on."""
    assert expected == following(cron(line, "Europe/Berlin"), at(after), len(expected))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_a_daily_schedule_is_due_365_times_in_a_year(zone: str) -> None:
    """At any hour, whatever the zone does to its clocks."""
    for hour in range(24):
        due, count = cron(f"30 {hour} * * *", zone).between(at("01-01 12:00"), at("01-01 12:00") + timedelta(days=365))
        assert count == len(due) == 365


@given(
    every=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=400)),
    after=st.integers(0, 10 * 365 * 86400),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
)
def test_an_interval_is_exact_whatever_its_length(every: timedelta, after: datetime, zone: str) -> None:
    """Due times are the same from wherever one looks, a whole number of intervals from the start, and never skipped."""
    times = due_times(Schedule(every=every, start="2019-06-01T09:00", timezone=zone))
    moment = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=after)
    first = times.next(moment)
    assert first is not None
    assert moment < first <= moment + every
    assert times.next(first) == first + every
    assert times.between(first - timedelta(microseconds=1), first) == ([first], 1)
    assert times.between(first, first) == ([], 0)
    hour = 7 if zone == "Europe/Berlin" else 9
    assert (first - datetime(2019, 6, 1, hour, tzinfo=UTC)) % every == timedelta(0)


@settings(deadline=None, max_examples=40)
@given(
    line=st.sampled_from(["*/20 * * * *", "7 2 * * *", "0 0 1 * 1"]),
    cuts=st.lists(st.integers(0, 4 * 86400), max_size=4),
    start=st.sampled_from(["03-27 12:00", "10-23 12:00", "12-30 12:00"]),
)
def test_looking_in_any_pieces_finds_every_time_once(line: str, cuts: list[int], start: str) -> None:
    """However a daemon's looks fall, the due times between them add up, across changes of clock and year."""
    times = cron(line, "Europe/Berlin")
    moments = [at(start) + timedelta(seconds=cut) for cut in sorted([0, *cuts, 4 * 86400])]
    pieces = sum(times.between(one, other)[1] for one, other in pairwise(moments))
    assert times.between(moments[0], moments[-1])[1] == pieces


HOURLY = due_times(Schedule(every=timedelta(hours=1)))


@pytest.mark.parametrize(
    ("misfire", "now", "expected"),
    [
        pytest.param("skip", "01-01 12:00:05", [("12", 0)], id="skip: the last one is still on time"),
        pytest.param("skip", "01-01 12:30", [], id="skip: all are late"),
        pytest.param("once", "01-01 12:30", [("12", 2)], id="once: one for all"),
        pytest.param("all", "01-01 12:30", [("10", 0), ("11", 0), ("12", 0)], id="all: one each"),
    ],
)
def test_times_that_passed_while_down_go_by_the_schedules_policy(
    misfire: Any, now: str, expected: list[tuple[str, int]]
) -> None:
    """None of them, one event for all, or one each; in any case they are handled."""
    planned = plan("s", HOURLY, misfire, at("01-01 09:30"), at(now))
    assert expected == [(event.data["due"][11:13], event.data["missed"]) for event in planned.events]
    assert planned.after == at("01-01 12:00")


@pytest.mark.parametrize(
    ("times", "counted"),
    [
        pytest.param(due_times(Schedule(every=timedelta(minutes=1))), 30 * 24 * 60, id="interval"),
        pytest.param(cron("* * * * *"), COUNTED, id="crontab"),
    ],
)
def test_a_long_absence_makes_at_most_a_thousand_events(times: DueTimes, counted: int) -> None:
    """The first one stands for all that were dropped."""
    planned = plan("s", times, "all", at("01-01 00:00"), at("01-31 00:00"))
    assert len(planned.events) == MOST
    assert planned.events[0].data["missed"] == counted - MOST
    assert planned.after == at("01-31 00:00")
    assert [planned.after] * 2 == [
        planned.events[-1].time,
        times.between(planned.after - timedelta(minutes=1), planned.after)[0][0],
    ]


def test_a_line_that_was_dense_once_still_has_its_last_time() -> None:
    """Counting is given up in a busy December; the last time, at the end of it, is found all the same."""
    due, count = cron("* * * 12 *").between(at("11-01 00:00"), datetime(2027, 6, 1, tzinfo=UTC))
    assert (due[-1], count) == (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), COUNTED)


def test_the_event_of_a_time_has_an_id_of_the_time() -> None:
    """Whoever finds it and whenever, it is the same event, with data as the catalogue says."""
    event = event_of("nightly", at("01-01 03:00"), 2)
    assert (event.id, event.source, event.subject) == (
        "nightly@2026-01-01T03:00:00+00:00",
        "schedule:nightly",
        "nightly",
    )
    assert check_data(event.type, event.data) == []
    assert event.id == event_of("nightly", at("01-01 03:00"), 0).id


def test_a_clock_that_is_set_back_repeats_nothing(clock: Clock, desk: Desk) -> None:
    """What it comes by again is known, and what is new after it is due on time."""
    source = ScheduleSource("s", Schedule(every=timedelta(minutes=1)), clock)
    with running(source, desk):
        eventually(lambda: desk.cursor(source.name))
        clock.move(minutes=1)
        eventually(lambda: len(desk.events("schedule.due")) == 1)
        clock.move(hours=-1)
        eventually(lambda: source.health().alive_at == clock())
    again = ScheduleSource("s", Schedule(every=timedelta(minutes=1), misfire="all"), clock)
    with running(again, desk):
        clock.move(seconds=1)
        eventually(lambda: again.health().alive_at == clock())
        clock.move(seconds=-1)
        for _ in range(2):
            clock.move(minutes=1)
            eventually(lambda: desk.events("schedule.due")[-1]["due"] == clock().isoformat())
        clock.move(minutes=60)
        eventually(lambda: desk.cursor(source.name)["after"] == clock().isoformat())
    due = [event["due"] for event in desk.events("schedule.due")]
    assert len(due) == len(set(due)) == 62  # from 11:02 to 12:03


@st.composite
def cron_parts(draw: st.DrawFn, low: int, high: int) -> str:
    """What may stand between two commas: some of it makes no sense."""
    number = st.integers(max(low - 1, 0), high + 1).map(str)
    word = st.sampled_from(["jan", "nov", "sun", "sat", "day", ""])
    value = draw(number | word)
    span = draw(st.sampled_from(["*", value, f"{value}-{draw(number | word)}"]))
    return span + draw(st.just("") | st.integers(0, high + 1).map(lambda step: f"/{step}"))


@given(st.tuples(*(
    st.lists(cron_parts(low, high), min_size=1, max_size=2).map(",".join)
    for low, high in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
)).map(" ".join))  # fmt: skip
def test_every_crontab_line_that_is_checked_can_be_planned(line: str) -> None:
    """What `driftd check` finds nothing wrong with is a schedule to its source, and nothing else is."""
    if mistake := next(cron_mistakes(line), ""):
        with pytest.raises(ValueError, match=re.escape(mistake)):
            cron(line)
    else:
        cron(line)


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        pytest.param(Schedule(cron="0 25 * * *"), "hour '25' cannot be read; it takes 0 to 23", id="hour"),
        pytest.param(Schedule(cron="0 3 * *"), "of 4 fields", id="fields"),
        pytest.param(
            Schedule(cron="0 3 * * someday"),
            "day of week 'someday' cannot be read; it takes 0 to 7 or sun to sat",
            id="weekday",
        ),
        pytest.param(Schedule(cron="0 3 * * 8"), "day of week '8'", id="no eighth day"),
        pytest.param(Schedule(cron="0 3 * * 1/0"), "day of week '1/0'", id="step"),
        pytest.param(Schedule(cron="0 3 * nov-feb *"), "month 'nov-feb'", id="months do not go around"),
        pytest.param(Schedule(cron="0 3 * * *", timezone="Mars/Olympus"), "no time zone", id="zone"),
        pytest.param(Schedule(), "either", id="nothing"),
        pytest.param(Schedule(cron="0 3 * * *", every=timedelta(hours=1)), "either", id="both"),
        pytest.param(Schedule(every=timedelta(seconds=0.5)), "the shortest is 1s", id="too often"),
        pytest.param(Schedule(every=timedelta(hours=1), start="noon"), "write a time", id="start"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_said_and_stops_nothing(
    schedule: Schedule, why: str, clock: Clock, desk: Desk
) -> None:
    """Its source waits quietly beside its stored problem."""
    source = ScheduleSource("s", schedule, clock)
    with running(source, desk):
        ((place, reason),) = eventually(lambda: desk.problems("config"))
        assert place == "schedule:s"
        assert why in reason
        assert why in source.health().problem


def test_a_schedule_that_never_comes_due_says_so(clock: Clock, desk: Desk) -> None:
    """The 31st of February is a line that can be read."""
    source = ScheduleSource("s", Schedule(cron="0 0 31 2 *"), clock)
    with running(source, desk):
        eventually(lambda: source.health().problem == "this schedule never comes due")
