"""The acts of the story, each a function of the stage; what must be true after each is checked, not assumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.core.runs import Run, State
from daemon.story.onkafka import TOPIC, Log, log_of
from daemon.story.people import MODEL
from daemon.story.stage import Stage, StoryFailed

CHANGE = 25_000
"""The row of the analysis half at which the applicants change."""
LAST = 50_000
QUIET_RATE = 2_500
"""Rows per second before the change (several years of applications in ten seconds)."""
RATE = 300
"""Rows per second after it, in files..."""
LOGGED = 34_000
"""... up to this row; the rest are requests to the gateway."""
REQUESTS = 80
"""Requests per second once a canary is on."""
OPEN = 750
"""So many rows may wait for the end of their slice and window, with topics; of files none do after 25,000 rows."""
BATCH = 250
"""Rows per prediction-log file."""
LABEL_LAG = 500
"""Labels come so many rows after their predictions."""


@dataclass(slots=True)
class Seen:
    """What the story has seen so far, for the summary."""

    champion: str = ""
    fired_at_row: int = 0
    fired_at: str = ""
    requests: dict[str, int] = field(default_factory=dict)
    runs: list[tuple[str, Run]] = field(default_factory=list)
    """What was expected of it, and the run."""
    log: Log | None = None
    """With a broker: what its topics hold at the end."""


def first_model(stage: Stage, seen: Seen) -> None:
    """A champion is trained and registered, and the old serving system answers the rows to come."""
    stage.person("champion")
    seen.champion = str(stage.done("champion", 120)["version"])
    stage.tell(f"version {seen.champion} is the champion")
    stage.person("predict", str(_table(stage)))
    stage.done("predict", 120)


def daemon_starts(stage: Stage) -> None:
    """The daemon on config.yaml and rules/ as shipped."""
    stage.play("daemon", "daemon", "start")
    stage.wait("the daemon's first event", lambda: stage.newest("rules.loaded"), 60)


def quiet(stage: Stage) -> None:
    """25,000 rows in which nothing changes: no retraining may start."""
    _feed(stage, "quiet", "stream", 0, CHANGE, QUIET_RATE)
    stage.done("quiet", 120)
    measured = CHANGE - (0 if stage.broker is None else OPEN)
    stage.wait(f"row {measured} to be measured", lambda: stage.rows_measured() >= measured, 60)
    started = [run for run in stage.runs() if any(step.verb == "retrain" for step in run.steps)]
    if started:
        raise StoryFailed(f"a retraining started before row {CHANGE}: run {started[0].id[:8]}, {started[0].why}")
    stage.tell(f"rows 0 to {CHANGE - 1}: no retraining")


def change(stage: Stage, seen: Seen) -> Run:
    """The applicants change: the rule fires, a job trains, the new version is evaluated, and a canary begins."""
    _feed(stage, "changed", "stream", CHANGE, LOGGED, RATE)
    run: Run = stage.wait("a retraining", lambda: _retraining(stage), 90)
    seen.fired_at_row = stage.row_after(run.trigger.data["window"])
    seen.fired_at = run.trigger.time.isoformat()
    stage.tell(
        f"rule {run.rule} fired after row {seen.fired_at_row}, {seen.fired_at_row - CHANGE} rows into the change"
    )
    if seen.fired_at_row <= CHANGE:
        raise StoryFailed(f"rule {run.rule} fired on a window that ends before row {CHANGE}: {run.why}")
    stage.wait("the canary", lambda: _now(stage, run).state is State.SERVING or _now(stage, run).ended, 300)
    stage.end("changed")
    _must(stage, run, State.SERVING, seen, "promoted")
    return _now(stage, run)


def canary(stage: Stage, seen: Seen, run: Run) -> None:
    """Real requests, really split; then the promotion and its soak."""
    _feed(stage, "requests", "gateway", int(stage.last_words("changed")["next"]), LAST, REQUESTS)
    stage.wait("the promotion", lambda: _now(stage, run).ended, 240)
    _must(stage, run, State.PROMOTED, seen, "promoted")
    seen.runs.append(("promoted", _now(stage, run)))
    stage.tell(f"version {run.given['version']} is promoted")


def bad_version(stage: Stage, seen: Seen, who: str) -> None:
    """Somebody registers a bad version: its canary must reject it, and traffic must go back, proven."""
    stage.person(who)
    version = str(stage.done(who, 120)["version"])
    stage.tell(f"somebody registered version {version} ({who})")
    run: Run = stage.wait(f"a run about version {version}", lambda: stage.run_for(version), 60)
    stage.wait("its end", lambda: _now(stage, run).ended, 240)
    _must(stage, run, State.ROLLED_BACK, seen, "rolled back")
    ended = _now(stage, run)
    if ended.given.get("verified") != "proven":
        raise StoryFailed(f"the rollback of run {run.id[:8]} is not proven: {ended.given.get('verified')}")
    seen.runs.append(("rolled back", ended))
    stage.tell(f"version {version}: {ended.why}")


def read_to_the_end(stage: Stage, seen: Seen) -> None:
    """No more requests come: all records are read, those too that the gateway has logged."""
    stage.end("requests")
    assert stage.broker is not None
    broker, fed = stage.broker, int(stage.last_words("changed")["next"])

    def is_read() -> bool:
        seen.log = log_of(broker, stage.figures())
        return seen.log is not None and seen.log.lag == 0 and seen.log.sent[TOPIC] >= fed + stage.rows_logged()

    stage.wait("all predictions to be sent and read", is_read, 60)


def _retraining(stage: Stage) -> Run | None:
    found = [run for run in stage.runs() if any(step.verb == "retrain" for step in run.steps)]
    return found[0] if found else None


def _now(stage: Stage, run: Run) -> Run:
    return next(other for other in stage.runs() if other.id == run.id)


def _must(stage: Stage, run: Run, state: State, seen: Seen, expected: str) -> None:
    now = _now(stage, run)
    if now.state is not state:
        seen.runs.append((expected, now))
        raise StoryFailed(f"run {run.id[:8]} of {run.rule} is {now.state.value}, not {expected}: {now.why}")


def _table(stage: Stage) -> Path:
    return stage.config.home / "story" / "analysis.csv"


def _feed(stage: Stage, name: str, to: str, first: int, last: int, rate: int) -> Any:
    return stage.play(
        name, "daemon", "feed", MODEL, "--data", str(_table(stage)),
        "--labels", str(stage.data / "synthetic_car_loan_analysis_target.csv"),
        "--to", to, "--rows", f"{first}:{last}", "--rate", str(rate), "--batch", str(BATCH),
        "--label-lag", str(LABEL_LAG), "--json",
    )  # fmt: skip
