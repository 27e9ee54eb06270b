"""/metrics over real HTTP: what Prometheus reads agrees with the status and the store, and nothing of it is unbounded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from daemon.core.calls import Again, Call, Done, Outcome
from daemon.core.events import CATALOGUE
from daemon.core.problems import Problem
from daemon.core.verdicts import Verdict
from daemon.dispatcher import Dispatcher
from daemon.handling import Context
from daemon.monitors.closer import SliceMonitor
from daemon.monitors.group import GroupSession
from daemon.monitors.session import Times
from daemon.monitors.stream import StreamMonitor
from daemon.tally import START_S, Durations
from daemon.verbs import Loaded
from daemon.web.metrics import KEPT, OUTCOMES, PASSED
from tests.builders import landed, measured, rule, rules
from tests.contract.desk import eventually
from tests.monitors.lab import plan
from tests.web.conftest import TRAIN, Site, sample, samples

EACH = rules(rule(on="data.landed", when=(), model="", steps=()), rule("drift", model=""))


def test_what_is_scraped_agrees_with_the_status(site: Site) -> None:
    """Places, epoch, pause and rules are those of `driftd status`; all counters are those of what was handed in."""
    site.writer.load(EACH, {})
    site.submit(*(landed(number) for number in range(5)), measured(1, 1))
    site.submit(landed(1), problems=(Problem("record", "a.csv:1", "bad"), Problem("record", "a.csv:2", "bad")))
    site.submit(problems=(Problem("record", "a.csv:1", "bad"),))
    scraped, status = site.scrape(), site.condition.status()
    for name, told in {
        "ready": status["ready"], "paused": status["paused"], "leader_epoch": status["epoch"], "event_seq": status["seq"],
        "audit_seq": status["audit"]["seq"], "rules": status["rules"]["count"], "queue_batches": status["queued"],
    }.items():  # fmt: skip
        assert scraped[sample(name)] == told, name
    assert scraped[sample("events_total", type="data.landed")] == 5
    assert scraped[sample("events_total", type="problem.recorded")] == 2
    assert scraped[sample("problems_total", kind="record")] == 3
    assert scraped[sample("decisions_total", verdict="fired")] == 6
    assert scraped[sample("undecidable_events_total")] == 0
    assert sum(value for (name, _), value in scraped.items() if name == "driftd_events_total") == status["seq"]
    assert scraped[sample("build_info", version=status["version"], python=_python(scraped))] == 1


def _python(scraped: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> str:
    (labels,) = (labels for name, labels in scraped if name == "driftd_build_info")
    return dict(labels)["python"]


def test_counters_begin_at_zero_with_the_process(site: Site, tmp_path: Path) -> None:
    """As Prometheus expects of counters; what the store has in all goes on."""
    site.submit(landed(1), landed(2))
    site.close()
    again = Site(tmp_path, site.clock)
    again.open()
    scraped = samples(again.metrics.text("")[0].decode())
    assert scraped[sample("events_total", type="data.landed")] == 0
    assert scraped[sample("event_seq")] == 4
    assert scraped[sample("leader_epoch")] == 2
    again.close()


def test_both_formats_are_what_prometheus_reads(site: Site) -> None:
    """Plain text unless OpenMetrics is asked for; every family has driftd's or the process's name, words, and one unit."""
    site.quiet_source()
    site.submit(landed(1))
    answer = site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(plain(answer.text))
    wanted = site.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert wanted.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name.removesuffix("_info") for family in families}
    assert {family.name for family in openmetrics(wanted.text)} == names
    for family in families:
        assert re.fullmatch(r"(driftd|process)_[a-z_]+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "counter":
            assert all(one.name.endswith("_total") for one in family.samples), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_no_label_is_made_of_what_came_in(site: Site) -> None:
    """Types, kinds and verbs that nobody knows are one series together, however many there are."""
    site.submit(*(replace(landed(number), type=f"made.up{number}") for number in range(50)))
    site.submit(problems=tuple(Problem(f"made-up-{number}", "x", "y") for number in range(50)))
    for number in range(50):
        site.writer.tally.answered(f"verb-{number}", "done", 1.0)
    scraped = site.scrape()
    assert scraped[sample("events_total", type="other")] == scraped[sample("undecidable_events_total")] == 50
    assert scraped[sample("problems_total", kind="other")] == 50
    assert scraped[sample("calls_total", verb="other", outcome="done")] == 50
    text = site.get("/metrics").text
    assert not re.search(r"made[.-]", text)
    assert "verb-" not in text
    assert len(scraped) < 250


def test_what_can_happen_is_there_before_it_happens(site: Site) -> None:
    """Zeros, so that an increase from nothing is one."""
    scraped = site.scrape()
    for kind in CATALOGUE.keys() - {"rules.loaded"}:
        assert scraped[sample("events_total", type=kind)] == 0
    for verdict in Verdict:
        assert scraped[sample("decisions_total", verdict=verdict.value)] == 0
    for outcome in OUTCOMES:
        assert scraped[sample("calls_total", verb="train", outcome=outcome)] == 0
    assert scraped[sample("runs", state="stuck")] == 0


def test_handlers_are_timed_and_their_outcomes_counted(site: Site) -> None:
    """From when a call was due to its start, and to its answer; runs by their state, and how long a due call has waited."""
    answers: list[Callable[[], Outcome]] = [lambda: Again(60.0, "not yet"), Done, lambda: 1 / 0]  # type: ignore[list-item, return-value]

    def run(_call: Call, _context: Context) -> Outcome:
        return answers.pop(0)()

    site.writer.load(rules(rule(on="data.landed", when=(), model="")), {})
    for number in range(3):
        site.submit(landed(number))
    site.clock.move(seconds=20)
    assert site.scrape()[sample("unhandled_event_age_seconds", waits_for="handler")] == pytest.approx(20, abs=0.1)
    dispatcher = Dispatcher(
        site.writer, {"train": Loaded(TRAIN, run, None)}, lambda _call: cast("Context", None), workers=1
    )
    dispatcher.start()
    eventually(lambda: not answers)
    eventually(lambda: site.scrape()[sample("runs", state="running")] == 1)
    dispatcher.stop()
    scraped = site.scrape()
    outcomes = {outcome: scraped[sample("calls_total", verb="train", outcome=outcome)] for outcome in OUTCOMES}
    assert outcomes == {**dict.fromkeys(OUTCOMES, 0.0), "again": 1, "done": 1, "failed": 1}
    assert (scraped[sample("runs", state="succeeded")], scraped[sample("runs", state="failed")]) == (1, 1)
    assert scraped[sample("handler_start_seconds_count")] == 3
    assert scraped[sample("handler_start_seconds_sum")] == pytest.approx(60, abs=1)
    assert scraped[sample("handler_start_seconds_bucket", le="10.0")] == 0
    assert scraped[sample("handler_start_seconds_bucket", le="60.0")] == 3
    assert scraped[sample("handler_seconds_count", verb="train")] == 3
    assert scraped[sample("unhandled_event_age_seconds", waits_for="handler")] == 0


def test_lag_and_age_are_those_of_the_source(site: Site) -> None:
    """In records and seconds; what a source does not know is left out, and nothing unread has no age."""
    shop, folder = site.quiet_source("kafka:shop"), site.quiet_source("storage:inbox")
    shop.pulse.behind(7, site.clock())
    site.clock.move(seconds=30)
    folder.pulse.ails("the folder is gone")
    scraped = site.scrape()
    assert scraped[sample("source_lag_records", source="kafka:shop")] == 7
    assert scraped[sample("source_unread_age_seconds", source="kafka:shop")] == 30
    assert sample("source_lag_records", source="storage:inbox") not in scraped
    assert sample("source_unread_age_seconds", source="storage:inbox") not in scraped
    assert scraped[sample("source_problem", source="storage:inbox")] == 1
    assert scraped[sample("source_alive_timestamp_seconds", source="kafka:shop")] == site.clock().timestamp() - 30
    shop.pulse.behind(0, None)
    assert site.scrape()[sample("source_unread_age_seconds", source="kafka:shop")] == 0


def no_log(_plan: object, _came: object, _went: object) -> NoReturn:
    """No log is opened here."""
    raise AssertionError


def test_every_figure_of_a_stream_has_a_metric(site: Site, tmp_path: Path) -> None:
    """Whatever the sessions of a stream count is scraped under a name of its own."""
    plans = [plan(tmp_path), plan(tmp_path, format="kserve")]
    told = [StreamMonitor(one, {}, 0, lambda *_: {}).figures() for one in plans]  # type: ignore[arg-type, return-value]
    told.append(SliceMonitor(plan(tmp_path, kind="kafka"), {}, 0, lambda *_: {}).figures())  # type: ignore[arg-type, return-value]
    told.append(GroupSession(plan(tmp_path, kind="kafka"), no_log, Times(lambda: 0, lambda: 0.0)).figures())
    shown = {name: number for number, name in enumerate(sorted({name for figures in told for name in figures}), 1)}
    site.stream(tmp_path).figures[0, "windows"] = shown
    scraped = site.scrape()
    assert shown.keys() == KEPT.keys() | PASSED.keys()
    for figure, number in shown.items():
        name = f"stream_{KEPT[figure][0]}" if figure in KEPT else f"stream_{PASSED[figure][0]}_total"
        assert scraped[sample(name, stream="car-loan")] == number


def test_a_duration_is_counted_under_the_bound_that_it_does_not_pass() -> None:
    """`le` is inclusive; what is longer than all bounds, and what a clock that went back makes, are counted too."""
    durations = Durations(START_S)
    for seconds in (-1.0, 0.0, START_S[0], START_S[0] * 1.01, START_S[-1], START_S[-1] + 1):
        durations.add(seconds)
    assert durations.counts == [3, 1, *[0] * (len(START_S) - 3), 1, 1]


def test_a_store_that_cannot_be_read_costs_its_own_figures_only(site: Site) -> None:
    """The others are there, and say what is wrong."""
    site.store._idle.clear()
    (site.folder / "store.db").rename(site.folder / "elsewhere.db")
    (site.folder / "store.db").mkdir()
    scraped = site.scrape()
    assert sample("runs", state="stuck") not in scraped
    assert sample("unhandled_event_age_seconds", waits_for="handler") not in scraped
    assert scraped[sample("ready")] == 1
    (site.folder / "store.db").rmdir()
    (site.folder / "elsewhere.db").rename(site.folder / "store.db")
