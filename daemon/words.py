"""What an operator's word does to the runs, within the writer's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from daemon.core.events import Event
from daemon.core.holding import Calendar, Holder
from daemon.core.runs import ASKING, Run, Signal, State, onward
from daemon.ledger import Ledger
from daemon.store.rows import micros, run_of, run_row

HELD = "held:"
"""Before `storm` or `freeze`: all runs that are held by it, instead of one run."""
CALM = "storm_calm"
"""Where the store keeps when an operator ended a storm."""


class Moves(Protocol):
    """The moves of runs, as words need them."""

    @property
    def frozen(self) -> Calendar:
        """The freezes of config.yaml."""
        ...

    def move(self, ledger: Ledger, run: Run, signal: Signal, note: str) -> None:
        """Move a run, and do what its new state asks for."""
        ...

    def admit_if_free(self, ledger: Ledger, run: Run, note: str = "") -> bool:
        """Let a waiting run begin, if nothing is in its way."""
        ...

    def wait(self, ledger: Ledger, run: Run) -> None:
        """Let a run wait for its target, a budget, or the end of a freeze; so long and no longer."""
        ...


@dataclass(frozen=True, slots=True)
class _Word:
    """An operator's word, as its event has it."""

    verb: str
    target: str
    by: str
    reason: str
    override: str
    """Why a freeze shall not count."""
    data: Mapping[str, Any]

    @property
    def note(self) -> str:
        """Who, and why."""
        override = f"; the freeze is overridden: {self.override}" if self.override else ""
        return f"by {self.by}: {self.reason}{override}"


def obey(moves: Moves, ledger: Ledger, event: Event) -> None:
    """Do what a `control.changed` says."""
    data = event.data
    verb, target, by, reason, override = (
        str(data.get(name, "")) for name in ("verb", "target", "by", "reason", "override_freeze")
    )
    word = _Word(verb, target, by, reason, override, data)
    if word.verb in {"pause", "resume"} and not word.target:
        ledger.session.run("set_meta", "paused", "yes" if word.verb == "pause" else "no")
        if word.verb == "resume":
            _calm(ledger)
    elif word.verb in {"release", "quarantine"}:
        _bar(ledger, word)
    elif word.target.startswith(HELD):
        _all_held(moves, ledger, word)
    else:
        found = ledger.session.rows("run", word.target)
        run = run_of(found[0]) if found else None
        if run is not None and not run.ended:
            _tell(moves, ledger, run, word)


def _bar(ledger: Ledger, word: _Word) -> None:
    """Put a version into quarantine, or let it out."""
    model, _, version = word.target.partition("@")
    why = f"{word.by}: {word.reason}"
    if word.verb == "release":
        ledger.session.run("release", why, model, version)
        return
    created, digest = str(word.data.get("created", "")), str(word.data.get("digest", ""))
    ledger.session.run("add_quarantine", model, created, version, digest, micros(ledger.now), "", why)


def _tell(moves: Moves, ledger: Ledger, run: Run, word: _Word) -> None:
    """One run and a word about it; a word that does not fit its state changes nothing."""
    if word.verb == "approve" and run.held:
        _let_go(moves, ledger, run, word)
    elif word.verb == "approve" and run.state in ASKING:
        if run.changes and moves.frozen(ledger.now) is not None and not word.override:
            return
        approved = replace(run, approved=run.position, changes=run.changes and not word.override)
        moves.move(ledger, approved, onward(approved), f"approved {word.note}")
    elif word.verb == "reject" and (run.state in ASKING or run.held):
        signal = Signal.REFUSED if run.state in ASKING else Signal.CANCELLED
        moves.move(ledger, run, signal, f"rejected {word.note}")
    elif word.verb in {"reject", "cancel"} and run.state is not State.UNDOING:
        moves.move(ledger, run, Signal.CANCELLED, f"cancelled {word.note}")


def _all_held(moves: Moves, ledger: Ledger, word: _Word) -> None:
    """A word about everything that a storm, or a freeze, holds; with the storm's it is over."""
    holder = word.target.removeprefix(HELD)
    if holder == Holder.STORM.value:
        _calm(ledger)
    for run in held_runs(ledger, holder):
        _tell(moves, ledger, run, word)


def held_runs(ledger: Ledger, holder: str) -> Iterator[Run]:
    """The runs that are held by a storm or a freeze, oldest first, each as it is when its turn comes."""
    for row in ledger.session.rows("live_runs"):
        run = run_of(ledger.session.rows("run", run_of(row).id)[0])
        if not run.ended and run.held == holder:
            yield run


def _let_go(moves: Moves, ledger: Ledger, run: Run, word: _Word) -> None:
    """A held run may begin: at once, or when its target is free, a budget has come back, or the freeze is over."""
    if run.held == Holder.FREEZE.value and not word.override:
        return
    note = f"approved {word.note}"
    approved = 0 if run.asks_first else run.approved
    run = replace(run, held="", approved=approved, changes=run.changes and not word.override, why=note)
    ledger.session.run("put_run", *run_row(run))
    ledger.audit("released", run.id, {"by": word.by, "reason": word.reason, "override_freeze": word.override})
    if not moves.admit_if_free(ledger, run, note):
        moves.wait(ledger, run)


def _calm(ledger: Ledger) -> None:
    """Firings are counted anew from here."""
    ledger.session.run("set_meta", CALM, str(micros(ledger.now)))
