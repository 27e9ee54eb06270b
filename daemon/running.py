"""Runs inside the writer's transaction: a firing becomes a run, an outcome moves it, its end frees what it held.

What may happen is in `core/runs.py` and `core/admission.py`; this module reads and writes the rows around them. Every
function works on the `Ledger` of one transaction, so a run, its locks, its calls, its events and its audit records appear
together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from daemon import storms
from daemon.config import Config
from daemon.core.admission import DAY, Admitted, Allowance, Allowances, admit, takes_over
from daemon.core.calls import Again, Answer, Done, Failed, Outcome, Working
from daemon.core.canonical import canonical, content_id
from daemon.core.events import Event, Recorded
from daemon.core.holding import Calendar, Guards, Hold, Holder, StormLimit, frozen_back, hold_back
from daemon.core.problems import Problem
from daemon.core.rules import Mode, Rule, Step, WhenBusy
from daemon.core.runs import (
    AFTER_STEP,
    ASKING,
    UNDO_STEP,
    Run,
    RunStep,
    Signal,
    State,
    onward,
    run_id,
)
from daemon.core.verdicts import Decision, Firing
from daemon.freezes import calendar
from daemon.handling import Verb
from daemon.ledger import Ledger
from daemon.outcomes import OF_VERSION, audit_firing, audit_outcome, given_after, settled
from daemon.store.rows import StoredCall, call_of, micros, moment, run_of, run_row
from daemon.words import CALM, obey

APPROVAL = timedelta(hours=24)
"""How long a run waits for a person."""
QUEUE = timedelta(hours=36)
"""How long a run waits for its target, or for a budget: longer than a day, after which every budget has come back."""
QUEUE_LOOK = timedelta(minutes=15)
"""How often a queued run looks whether its budget has come back."""
HELD = timedelta(hours=72)
"""How long a run that a storm holds waits for a person: longer than a weekend."""
MOST_HELD = 1000
"""Runs that a storm, or a freeze, holds at most."""
FROZEN_LOOK = timedelta(hours=6)
"""How often a run that a freeze holds looks whether it is over already."""

_PRIORITY = {"rollback": 0, "promote": 2, "canary": 3, "soak": 3}
"""Rollbacks first; what holds traffic before what does not."""


@dataclass(frozen=True, slots=True)
class Running:
    """The moves of runs, for one configuration."""

    config: Config
    verbs: Mapping[str, Verb]
    frozen: Calendar = field(init=False)
    """The freezes of config.yaml."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frozen", calendar(self.config.freeze))

    # -- a firing

    def begin(self, ledger: Ledger, decision: Decision, recorded: Recorded) -> tuple[str, str]:
        """Start the run of a firing: what came of it, and the run's id (empty when nothing was started)."""
        firing = decision.firing
        assert firing is not None  # the ledger asks for firings only
        assert ledger.rules is not None  # they decided
        rule = ledger.rules.by_name[decision.rule]
        try:
            run = self._planned(rule, decision, firing, recorded)
        except ValidationError as error:
            why = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
            ledger.problem(Problem("rule", f"{rule.position.file}:{rule.position.line}", f"rule {rule.name}: {why}"))
            return f"invalid: {why}", ""
        if firing.notice:
            self._notice(ledger, rule, decision, recorded, run)
            return "notice", run.id
        runs = self._runs(ledger)
        admission = admit(run, runs, self._allowances(), recorded.at)
        holders = tuple(other for other in runs if other.id in admission.holders)
        busy = admission.verdict is Admitted.BUSY
        replaces = busy and takes_over(run, holders, replace=rule.when_busy is WhenBusy.REPLACE)
        queues = admission.verdict in {Admitted.BUSY, Admitted.BUDGET} and rule.when_busy is WhenBusy.QUEUE
        starts = admission.verdict is Admitted.YES or replaces or queues
        hold = hold_back(run, runs, self._guards(ledger), recorded.at) if starts else None
        said = f"held: {hold.why}" if hold else f"{admission.verdict.value} {admission.why}".strip()
        audit_firing(ledger, rule, decision, recorded, run, said)
        if hold is not None:
            return self._hold(ledger, run, hold, sum(other.held == hold.by.value for other in runs))
        if admission.verdict is Admitted.YES:
            self._admit(ledger, self._created(ledger, run))
            return "admitted", run.id
        if replaces:
            self._waiting(ledger, replace(run, replaces=admission.holders[0]))
            for holder in admission.holders:
                self.cancel(ledger, holder, f"run {run.id[:8]} of rule {rule.name} takes its target over")
            return "replaces", run.id
        if queues:
            self._waiting(ledger, replace(run, why=admission.why))
            return "queued", run.id
        return f"{admission.verdict.value}: {admission.why}", ""

    def _hold(self, ledger: Ledger, run: Run, hold: Hold, held: int) -> tuple[str, str]:
        """Keep the run of a firing that must not start yet; how many are kept already is bounded."""
        if hold.skips:
            return f"{hold.by.value}: {hold.why}", ""
        if held >= MOST_HELD:
            why = f"{hold.why}; {held} runs are held already, and this one is not kept"
            ledger.problem(
                Problem("rule", f"rule {run.rule}", f"{hold.by.value}: {held} runs are held, no more are kept")
            )
            return f"{hold.by.value}: {why}", ""
        run = replace(run, held=hold.by.value, storm=hold.storm, why=hold.why)
        if hold.by is Holder.FREEZE:
            self._waiting(ledger, run)
            return f"held: {hold.why}", run.id
        ledger.session.run("put_run", *run_row(run))
        ledger.timer(content_id("held", run.id), ledger.now + HELD, f"{run.id}|0", "held")
        if hold.begins(run):
            guard = self.config.storm
            ledger.follow(storms.began(run, hold, ledger.now))
            if guard is not None and guard.notify is not None:
                step = self._step("notify", {"to": guard.notify, "text": storms.told(run, hold)}, approve=False)
                notice = storms.notice(run, hold, step, ledger.now)
                ledger.session.run("put_run", *run_row(notice))
                self._call(ledger, notice, AFTER_STEP)
        return f"held: {hold.why}", run.id

    def _planned(self, rule: Rule, decision: Decision, firing: Firing, recorded: Recorded) -> Run:
        steps = self._steps(firing.steps)
        if rule.mode is Mode.APPROVE and steps:
            steps = (replace(steps[0], approve=True), *steps[1:])
        name = run_id(rule.name, decision.key, firing.trigger, recorded.seq)
        data = firing.trigger.data
        given = {name: data[name] for name in ("version", *OF_VERSION) if data.get("version") and data.get(name)}
        targets = {target for step in steps for target in self._targets(step.verb, rule.model)}
        changes = not rule.ignore_freeze and any(self.verbs[step.verb].changes_production for step in steps)
        return Run(
            name, rule.name, rule.revision, rule.model, decision.key, firing.trigger, recorded.seq,
            tuple(sorted(targets)), steps, self._steps(firing.on_failure), (*firing.trigger.chain, name), recorded.at,
            given=given, changes=changes,
        )  # fmt: skip

    def _steps(self, steps: tuple[tuple[Step, Mapping[str, Any]], ...]) -> tuple[RunStep, ...]:
        """The steps with their deadlines; a canary with a soak brings the soak after its promotion."""
        planned: list[RunStep] = []
        soak: Mapping[str, Any] | None = None
        for step, inputs in steps:
            planned.append(self._step(step.verb, inputs, step.approve))
            if step.verb == "canary" and inputs.get("soak"):
                soak = inputs
            if step.verb == "promote" and soak is not None:
                planned.append(self._step("soak", {"duration": soak["soak"]}, approve=False))
                soak = None
        return tuple(planned)

    def _step(self, verb: str, inputs: Mapping[str, Any], approve: bool) -> RunStep:
        shape = self.verbs[verb]
        seconds = shape.deadline(shape.inputs.model_validate(dict(inputs)))
        return RunStep(verb, inputs, approve, shape.traffic, seconds)

    def _targets(self, verb: str, model: str) -> tuple[str, ...]:
        shape, entry = self.verbs[verb], self.config.models.get(model)
        if shape.target == "none" or entry is None:
            return ()
        if shape.target == "serving":
            return (f"serving:{entry.serving or model}",)
        return (f"registry:{entry.registered}",) if shape.target == "registry" else (f"training:{model}",)

    # -- moves

    def settle(self, ledger: Ledger, call: StoredCall, outcome: Outcome, epoch: int) -> bool:
        """What a handler answered. False when the call is not waited for any more: the answer is noted, and ignored."""
        now = ledger.now
        status, due, attempt, state, note = settled(call, outcome, now)
        changed = ledger.session.run(
            "settle_call",
            status,
            micros(due),
            attempt,
            canonical(state).decode(),
            note,
            call.id,
            epoch,
            micros(call.lease),
        )
        audit_outcome(ledger, call, outcome, accepted=bool(changed))
        if not changed:
            return False
        if isinstance(outcome, Done | Working) and outcome.events:
            ledger.record(outcome.events)
        if isinstance(outcome, Working | Again):
            return True
        ledger.drop_timer(_deadline_name(call.id))
        run = self._run(ledger, call.run)
        if run is None or call.step >= AFTER_STEP or run.ended:
            return True
        if isinstance(outcome, Done):
            given = given_after(run.given, outcome.outputs)
            if call.step == UNDO_STEP or run.state is State.UNDOING:
                # How it came to this stays the reason; that traffic is back is what follows from it.
                restored = str(outcome.outputs.get("why", ""))
                why = "; ".join(part for part in (run.why, restored) if part)
                self.move(ledger, replace(run, given=given), Signal.LAST_DONE, why)
                return True
            forward = replace(run, given=given, position=run.position + 1)
            self.move(ledger, forward, onward(forward), "")
            return True
        if isinstance(outcome, Failed) and outcome.quarantine:
            self._quarantine(ledger, run, outcome)
        signal = Signal.FAILED if isinstance(outcome, Failed) else Signal.INCONCLUSIVE
        self.move(ledger, run, signal, f"{call.verb}: {outcome.why}")
        return True

    def close(self, ledger: Ledger, call: StoredCall, outcome: Outcome, epoch: int) -> bool:
        """What became of ending the work of a call that is no longer needed: done with, or `Again`."""
        again = isinstance(outcome, Again)
        due = ledger.now + timedelta(seconds=outcome.after if isinstance(outcome, Again) else 0.0)
        changed = ledger.session.run(
            "close_call", "ending" if again else "dropped", micros(due), call.attempt + again, call.id, epoch,
            micros(call.lease),
        )  # fmt: skip
        if not again:
            audit_outcome(ledger, call, outcome, accepted=bool(changed))
        return bool(changed)

    def cancel(self, ledger: Ledger, run: str, why: str) -> None:
        """Cancel a run, undoing what it did to traffic; a rollback that is under way goes on."""
        found = self._run(ledger, run)
        if found is None or found.ended or found.state is State.UNDOING:
            return
        self.move(ledger, found, Signal.CANCELLED, why)

    def handle(self, ledger: Ledger, recorded: Recorded) -> None:
        """What an event means beside the rules: a person's word, or a run's deadline."""
        event = recorded.event
        if event.type == "timer.due" and event.data.get("rule") == "":
            self._expire(ledger, event.data)
        elif event.type == "control.changed":
            obey(self, ledger, event)

    def _expire(self, ledger: Ledger, data: Mapping[str, Any]) -> None:
        name, _, step = str(data["key"]).rpartition("|")
        run = self._run(ledger, name)
        if run is None or (run.ended and int(step) < AFTER_STEP):
            return
        if data["why"] == "deadline":
            rows = ledger.session.rows("call", run.call_id(int(step)))
            if not rows or call_of(rows[0]).status not in {"due", "claimed"}:
                return
            ledger.session.run("drop_call", "its deadline has passed", micros(ledger.now), run.call_id(int(step)))
            if int(step) < AFTER_STEP:
                note = call_of(rows[0]).note
                self.move(ledger, run, Signal.EXPIRED, f"{call_of(rows[0]).verb}: no end by its deadline ({note})")
            return
        if data["why"] == "held":
            if run.held == Holder.STORM.value:
                self.move(ledger, run, Signal.EXPIRED, "a storm held it, and nobody let it go in time")
            return
        if data["why"] == "queue":
            if run.state is State.PENDING and not self.admit_if_free(ledger, run):
                self._look_later(ledger, run)
            return
        if data["why"] == "lock" and run.state is State.PENDING and frozen_back(run, self._guards(ledger)):
            self.wait(ledger, run)  # the freeze was made longer
            return
        waits = run.state in ASKING if data["why"] == "approval" else run.state is State.PENDING
        if waits and (data["why"] == "lock" or run.position == int(step)):
            self.move(ledger, run, Signal.EXPIRED, f"nobody came: its {data['why']} was not given in time")

    # -- what a move brings with it

    def _created(self, ledger: Ledger, run: Run) -> Run:
        ledger.session.run("put_run", *run_row(run))
        ledger.begun.append((run.id, run.trigger))
        return run

    def _waiting(self, ledger: Ledger, run: Run) -> None:
        """A run that cannot begin yet."""
        self._created(ledger, run)
        self.wait(ledger, run)

    def wait(self, ledger: Ledger, run: Run) -> None:
        """It waits so long and no longer, from the end of a freeze on, and looks now and then."""
        frozen = self.frozen(ledger.now) if frozen_back(run, self._guards(ledger)) else None
        due = (frozen.until if frozen else ledger.now) + QUEUE
        ledger.timer(content_id("lock", run.id, due), due, f"{run.id}|0", "lock")
        self._look_later(ledger, run)

    def _admit(self, ledger: Ledger, run: Run, note: str = "") -> None:
        for target in run.targets:
            ledger.session.run("take_lock", target, run.id, micros(ledger.now))
        self.move(ledger, run, onward(run), note)

    def move(self, ledger: Ledger, run: Run, signal: Signal, note: str) -> None:
        """Move a run and do what its new state asks for: a call, a question, or the end."""
        before, run = run, run.moved(signal, ledger.now, note)
        ledger.session.run("put_run", *run_row(run))
        ledger.audit(
            "run", run.id, {"signal": signal.value, "from": before.state.value, "state": run.state.value, "note": note}
        )
        if before.state in {State.RUNNING, State.SERVING} and signal not in _FORWARD:
            ledger.session.run("drop_call", note, micros(ledger.now), run.call_id(before.position))
        if run.ended:
            self._end(ledger, run)
        elif run.state in ASKING:
            name = content_id("approval", run.id, run.position)
            ledger.timer(name, ledger.now + APPROVAL, f"{run.id}|{run.position}", "approval")
        elif run.state is State.UNDOING and signal not in _FORWARD:
            self._call(ledger, run, UNDO_STEP)
        else:
            self._call(ledger, run, run.position)

    def _call(self, ledger: Ledger, run: Run, number: int) -> None:
        step, name, now = run.step(number), run.call_id(number), ledger.now
        deadline = now + timedelta(seconds=step.seconds)
        priority = _PRIORITY.get(step.verb, 5)
        ledger.session.run(
            "add_call", name, run.id, number, step.verb, priority, micros(now), micros(deadline)
        )  # fmt: skip
        ledger.timer(_deadline_name(name), deadline, f"{run.id}|{number}", "deadline")
        ledger.audit(
            "call", run.id, {"call": name, "step": number, "verb": step.verb, "inputs": dict(step.inputs),
                             "given": dict(run.given), "deadline": deadline.isoformat()},
        )  # fmt: skip

    def _end(self, ledger: Ledger, run: Run) -> None:
        ledger.session.run("drop_locks", run.id)
        data = {
            "model": run.model, "run": run.id, "rule": run.rule, "state": run.state.value, "reason": run.why,
            "version": str(run.given.get("version", "")),
        }  # fmt: skip
        ledger.ended.append(run.id)
        for number in run.afterwards():
            self._call(ledger, run, number)
        # Those who waited come before those who hear of the end; of those who waited, a rollback comes first.
        pending = [run_of(row) for row in ledger.session.rows("live_runs")]
        for waiting in sorted(pending, key=lambda run: not run.rolls_back):
            if waiting.state is State.PENDING:
                self.admit_if_free(ledger, waiting)
        ledger.follow(Event(run.id, "driftd:runs", "run.finished", run.model, ledger.now, data, run.chain))

    def admit_if_free(self, ledger: Ledger, run: Run, note: str = "") -> bool:
        """Let a waiting run begin, if nothing is in its way; else say in it what it waits for."""
        if run.held == Holder.STORM.value:
            return False
        hold = frozen_back(run, self._guards(ledger))
        admission = admit(run, self._runs(ledger), self._allowances(), ledger.now)
        if hold is None and admission.verdict is Admitted.YES:
            self._admit(ledger, replace(run, held=""), note)
            return True
        held, why = (hold.by.value, hold.why) if hold else ("", admission.why)
        if held != run.held or note:
            run = replace(run, held=held, why=f"{note}; {why}" if note else why)
            ledger.session.run("put_run", *run_row(run))
        return False

    def _look_later(self, ledger: Ledger, run: Run) -> None:
        """Ask again soon; of a freeze, when it ends (it may have been made shorter meanwhile)."""
        frozen = self.frozen(ledger.now) if frozen_back(run, self._guards(ledger)) else None
        due = min(frozen.until, ledger.now + FROZEN_LOOK) if frozen else ledger.now + QUEUE_LOOK
        ledger.timer(content_id("queue", run.id, due), due, f"{run.id}|0", "queue")

    def _notice(self, ledger: Ledger, rule: Rule, decision: Decision, recorded: Recorded, run: Run) -> None:
        """`on_unknown: notify`: a run without steps, whose `on_failure` tells."""
        told = run.moved(Signal.LAST_DONE, ledger.now, decision.why)
        ledger.session.run("put_run", *run_row(told))
        audit_firing(ledger, rule, decision, recorded, told, "notice")
        for offset in range(len(told.on_failure)):
            self._call(ledger, told, AFTER_STEP + offset)

    def _quarantine(self, ledger: Ledger, run: Run, outcome: Failed) -> None:
        facts = {**run.given, **outcome.barred}
        version = str(facts.get("version", ""))
        if not version:
            return
        created, digest = str(facts.get("created", "")), str(facts.get("digest", ""))
        ledger.session.run(
            "add_quarantine", run.model, created, version, digest, micros(ledger.now), run.id, outcome.why
        )
        ledger.audit(
            "quarantine", run.id,
            {"model": run.model, "version": version, "created": created, "digest": digest, "reason": outcome.why},
        )  # fmt: skip

    # -- reading, and the audit

    def _run(self, ledger: Ledger, name: str) -> Run | None:
        rows = ledger.session.rows("run", name)
        return run_of(rows[0]) if rows else None

    def _runs(self, ledger: Ledger) -> tuple[Run, ...]:
        """All live runs, and those that ended no longer ago than any allowance looks back."""
        back = max(DAY, self.config.breaker.reset, self.config.storm.within if self.config.storm else DAY)
        return tuple(run_of(row) for row in ledger.session.rows("runs_since", micros(ledger.now - back)))

    def _allowances(self) -> Allowances:
        verbs = {
            verb: Allowance(budget.concurrent, budget.per_target, budget.per_day)
            for verb, budget in self.config.budgets.items()
        }
        return Allowances(verbs, self.config.breaker.failures, self.config.breaker.reset)

    def _guards(self, ledger: Ledger) -> Guards:
        """What may hold runs back now."""
        storm, calm = self.config.storm, ledger.session.rows("meta", CALM)
        return Guards(
            StormLimit(storm.firings, storm.within) if storm else None,
            moment(int(calm[0][0])) if calm else None,
            self.frozen(ledger.now),
        )


_FORWARD = frozenset({
    Signal.ADMITTED, Signal.ADMITTED_TRAFFIC, Signal.ADMITTED_ROLLBACK, Signal.STEP_DONE, Signal.STEP_DONE_TRAFFIC,
    Signal.STEP_DONE_ROLLBACK, Signal.LAST_DONE, Signal.ASKED, Signal.APPROVED, Signal.APPROVED_TRAFFIC,
    Signal.APPROVED_ROLLBACK,
})  # fmt: skip
"""Signals that go on with the rule's own steps; the others break off."""


def _deadline_name(call: str) -> str:
    return content_id("deadline", call)


def crashed(error: Exception) -> Failed:
    """The outcome of a handler that raised something it should not have."""
    return Failed(f"the handler broke: {type(error).__name__}: {error}", answers=(Answer("driftd", "handler", {}),))
