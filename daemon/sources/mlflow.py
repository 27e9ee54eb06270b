"""The MLflow registry: `model.registered`, `model.alias_changed` and `model.deleted`, by polling with a stored cursor.

Polling is the truth: MLflow's webhooks get lost, and say nothing of deletions (they may `wake` the poll). What is sought
has no change time to ask for, so each poll reads the state of the models in config.yaml and compares it with the cursor,
which moves in the transaction of the events. Between two polls only the last state of an alias can be seen, but every
version that lives long enough to be seen is registered exactly once.

The cursor: {registered name: null (does not exist) | {
    created   the registered model's creation time; another one means that it was deleted and made anew
    above     every version up to this number was handled
    ahead     handled versions above it: they stand behind one that is still PENDING_REGISTRATION
    live      all versions that exist
    aliases   alias -> version
    turns     changes of aliases seen, so that each has an id of its own even when an alias goes to and fro
    movers    alias -> the run of ours that moved it last, as far as was seen: a run moves an alias to a version once
}}
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson

from daemon.clients.base import ModelVersion, RegisteredModel, Registry
from daemon.config import Model
from daemon.core.canonical import content_id
from daemon.core.errors import ClientError, Unavailable
from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, Intake
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

SOURCE = "registry:mlflow"
AGAIN_S = 2.0
"""The first pause after a registry that did not answer; it doubles up to the poll interval."""
_SLICE_S = 0.5

State = Mapping[str, Any]
"""What the cursor holds about one registered name."""


@dataclass(frozen=True, slots=True)
class Mover:
    """A run of ours that moved an alias."""

    run: str
    chain: tuple[str, ...]
    """The runs that led to it, oldest first, itself last."""


Movers = Mapping[tuple[str, str], Mover]
"""By registered name and alias. Aliases that somebody else moved are not in it."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened between the cursor and now."""

    events: tuple[Event, ...]
    cursor: dict[str, Any]
    problems: tuple[Problem, ...]
    again: bool = False
    """A model was made anew: its versions were asked for above a number of the old one, so ask again at once."""


def above(cursor: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, int]:
    """Per registered name, the number above which versions are wanted: what `Registry.models` takes."""
    return {name: ((cursor or {}).get(name) or {"above": 0})["above"] for name in names}


def changes(
    cursor: Mapping[str, Any] | None,
    snapshot: Sequence[RegisteredModel],
    watched: Mapping[str, Sequence[str]],
    now: datetime,
    movers: Movers = MappingProxyType({}),
) -> Changes:
    """What the events are that lead from `cursor` to `snapshot`: a pure function.

    `watched` is registered name -> models of config.yaml that go by it. A name that the cursor does not know (all of
    them, without a cursor) gives no events: its present state is where watching begins.
    """
    found = {model.name: model for model in snapshot}
    events: list[Event] = []
    problems: list[Problem] = []
    after: dict[str, Any] = {}
    again = False
    for name, models in sorted(watched.items()):
        model = found.get(name)
        if cursor is None or name not in cursor:
            after[name] = None if model is None else _baseline(model)
            continue
        before: State | None = cursor[name]
        step = _Step(name, models, model.created if model else "", now)
        if before is not None and (model is None or before["created"] != model.created):
            events += _Step(name, models, before["created"], now).deleted("")
            after[name] = None
            again = again or model is not None
            continue
        if model is None:
            after[name] = None
            continue
        fresh = _fresh(before, model)
        events += [event for version in fresh if version.status == "READY" for event in step.registered(version)]
        problems += [_failed(version) for version in fresh if version.status == "FAILED_REGISTRATION"]
        moved = _moved(before, model)
        turns = before["turns"] if before else 0
        for turn, (alias, version, previous) in enumerate(moved, start=turns):
            mover = movers.get((name, alias))
            events += step.alias_changed(alias, version, previous, turn, mover.chain if mover else ())
        gone = sorted(set(before["live"]) - model.live, key=int) if before else []
        events += [event for version in gone for event in step.deleted(version)]
        handled = {int(version.version) for version in fresh} | set(before["ahead"] if before else ())
        after[name] = {
            **_state(model, before["above"] if before else 0, handled, turns + len(moved)),
            "movers": {
                **(before.get("movers", {}) if before else {}),
                **{alias: movers[name, alias].run for alias, _, _ in moved if (name, alias) in movers},
            },
        }
    return Changes(tuple(events), after, tuple(problems), again)


class MlflowSource:
    """The source of the registry: looks every `poll` seconds, or when woken."""

    def __init__(
        self, registry: Registry, models: Mapping[str, Model], poll: float, clock: Callable[[], datetime]
    ) -> None:
        self.name = SOURCE
        self._registry = registry
        self._watched = watched(models)
        self._poll = poll
        self._clock = clock
        self._pulse = Pulse(clock)
        self._wake = threading.Event()

    def wake(self) -> None:
        """Somebody says that the registry has changed: look now. Safe to call from any thread, as often as one likes."""
        self._wake.set()

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Look at the registry until `stop` is set."""
        cursor = intake.cursor(self.name)
        pause = AGAIN_S
        while not stop.is_set():
            self._wake.clear()
            try:
                snapshot = self._registry.models(above(cursor, list(self._watched)))
                movers = self._movers(cursor, snapshot)
            except ClientError as error:
                self._pulse.ails(f"the registry does not answer: {error}")
                if not isinstance(error, Unavailable):
                    deliver(intake, Batch(problems=(Problem("registry", self.name, str(error)),)), stop, self._pulse)
                self._rest(min(pause, self._poll), stop)
                pause *= 2
                continue
            pause = AGAIN_S
            self._pulse.alive()
            found = changes(cursor, snapshot, self._watched, self._clock(), movers)
            if found.events or found.problems or found.cursor != cursor:
                moved = (Cursor(self.name, found.cursor),)
                if deliver(intake, Batch(found.events, moved, problems=found.problems), stop, self._pulse) is None:
                    return
            cursor = found.cursor
            if not found.again:
                self._rest(self._poll, stop)

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _movers(self, cursor: Mapping[str, Any] | None, snapshot: Sequence[RegisteredModel]) -> Movers:
        """Who of ours moved the aliases that have changed, by the tags of the versions that they point to now."""
        movers: dict[tuple[str, str], Mover] = {}
        for model in snapshot:
            before: State | None = (cursor or {}).get(model.name)
            if before is None or before["created"] != model.created:
                continue
            for alias, version, previous in _moved(before, model):
                if version in model.live:
                    tags = self._registry.version(model.name, version).tags
                    mover = mover_of(tags, alias, previous, before.get("movers", {}).get(alias, ""))
                    if mover is not None:
                        movers[model.name, alias] = mover
        return movers

    def _rest(self, seconds: float, stop: threading.Event) -> None:
        while seconds > 0 and not stop.is_set() and not self._wake.wait(min(seconds, _SLICE_S)):
            seconds -= _SLICE_S


def watched(models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Registered name -> the models of config.yaml that go by it."""
    names: dict[str, tuple[str, ...]] = {}
    for name, model in sorted(models.items()):
        names[model.registered] = (*names.get(model.registered, ()), name)
    return names


@dataclass(frozen=True, slots=True)
class _Step:
    """Makes the events of one registered name, one for each model that goes by it."""

    registered_name: str
    models: Sequence[str]
    created: str
    now: datetime

    def registered(self, version: ModelVersion) -> Iterator[Event]:
        """A version is there and ready."""
        run = version.tags.get("driftd.run", "")
        data: dict[str, Any] = {"version": version.version, "created": self.created, "registered_by": run}
        if digest := version.tags.get("driftd.digest"):
            data["digest"] = digest
        if version.run_id:
            data["run"] = version.run_id
        return self._events(
            "model.registered", [version.version], {**data, "tags": dict(version.tags)}, chain_of(version)
        )

    def alias_changed(
        self, alias: str, version: str, previous: str, turn: int, chain: tuple[str, ...]
    ) -> Iterator[Event]:
        """An alias points to another version than before, or to one where there was none, or to none."""
        data = {"alias": alias, "version": version, "previous": previous}
        return self._events("model.alias_changed", [alias, version, turn], data, chain)

    def deleted(self, version: str) -> Iterator[Event]:
        """A version is gone; empty: the registered model with all of them."""
        return self._events("model.deleted", [version], {"version": version})

    def _events(
        self, kind: str, what: list[Any], data: Mapping[str, Any], chain: tuple[str, ...] = ()
    ) -> Iterator[Event]:
        for model in self.models:
            named = {"model": model, "registry": self.registered_name, **data}
            number = content_id(kind, self.registered_name, self.created, model, *what)
            yield Event(number, SOURCE, kind, model, self.now, named, chain)


def chain_of(version: ModelVersion) -> tuple[str, ...]:
    """The driftd runs that led to this version, oldest first, the one that registered it last: from its tags.

    Whoever can register a version can write its tags; a chain that is not a JSON list of strings counts as none.
    """
    run = version.tags.get("driftd.run", "")
    try:
        told = orjson.loads(version.tags.get("driftd.chain", "[]"))
    except orjson.JSONDecodeError:
        told = []
    chain = tuple(told) if isinstance(told, list) and all(isinstance(item, str) for item in told) else ()
    return chain if not run or run in chain else (*chain, run)


def mover_of(tags: Mapping[str, str], alias: str, previous: str, credited: str) -> Mover | None:
    """The run of ours that moved the alias from `previous` to the version with these tags; None when it was somebody else.

    `credited` is the run whose move of this alias was seen last. Its tag stays on the version, so when the alias comes
    back there later, that was somebody else. A tag that is none of ours, or of another move, counts as none.
    """
    try:
        told = orjson.loads(tags.get(f"driftd.moved.{alias}", "null"))
        run, chain, came_from = told["run"], told["chain"], told["from"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    named = isinstance(run, str) and isinstance(chain, list) and all(isinstance(item, str) for item in chain)
    if not named or came_from != previous or run in {"", credited}:
        return None
    return Mover(run, (*(item for item in chain if item != run), run))


def _baseline(model: RegisteredModel) -> dict[str, Any]:
    ready = {int(version.version) for version in model.versions if version.status != "PENDING_REGISTRATION"}
    return _state(model, 0, ready, 0)


def _fresh(before: State | None, model: RegisteredModel) -> list[ModelVersion]:
    """The versions that were not handled and no longer wait for their upload, ascending."""
    done, ahead = (before["above"], set(before["ahead"])) if before else (0, set())
    return [
        version
        for version in model.versions
        if int(version.version) > done
        and int(version.version) not in ahead
        and version.status != "PENDING_REGISTRATION"
    ]


def _moved(before: State | None, model: RegisteredModel) -> list[tuple[str, str, str]]:
    """Alias, version and previous version of each alias that changed."""
    old: Mapping[str, str] = before["aliases"] if before else {}
    names = sorted(old.keys() | model.aliases.keys())
    pairs = [(name, model.aliases.get(name, ""), old.get(name, "")) for name in names]
    return [(name, version, previous) for name, version, previous in pairs if version != previous]


def _state(model: RegisteredModel, done: int, handled: set[int], turns: int) -> dict[str, Any]:
    waiting = [int(version.version) for version in model.versions if version.status == "PENDING_REGISTRATION"]
    top = max([done, *handled])
    # A version that still waits must be read again, so the number stays under it.
    number = min([top, *(item - 1 for item in waiting)])
    return {
        "created": model.created,
        "above": max(number, done),
        "ahead": sorted(item for item in handled if item > number),
        "live": sorted(model.live, key=int),
        "aliases": dict(model.aliases),
        "turns": turns,
    }


def _failed(version: ModelVersion) -> Problem:
    reason = "the upload of this version failed; it is passed over, register it again"
    return Problem("registry", f"{version.name} version {version.version}", reason)
