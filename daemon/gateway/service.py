"""The gateway as one thing: targets, their state, their logs and the backends, and what may be asked of it.

Every change is durable before it counts: a restart finds what the last answer said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.core.errors import BadInput, Conflict, Refused, Unavailable
from daemon.gateway.backends import Backends
from daemon.gateway.log import PredictionLog, Segment, count_served, recover
from daemon.gateway.scoring import Answer, Asked, Place, failure, score
from daemon.gateway.split import Split
from daemon.gateway.state import Deployment, TargetState, load, save
from daemon.gateway.targets import Target, read_targets, target_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TICK = 0.25


class Service:
    """One gateway on one home folder. Everything runs on one event loop; disk waits are in threads."""

    def __init__(self, home: Path, backends: Backends, segment_seconds: float) -> None:
        """Raises BadInput when the saved state or targets.json is damaged."""
        self.problem = ""
        """What is wrong with targets.json; empty when all is well."""
        self._home = home
        self._backends = backends
        self._segment_seconds = segment_seconds
        self._state_path = home / "gateway" / "state.json"
        self._state = load(self._state_path)
        self._targets = read_targets(home)
        self._targets_changed = self._targets_mtime()
        self._logs: dict[str, PredictionLog] = {}
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self.counts: Counter[tuple[str, str, int]] = Counter()
        """Requests by target, versions and status."""

    def start(self) -> None:
        """Close what a killed gateway left open and have every deployed version loaded."""
        for name in {*self._targets, *self._state}:
            recover(self._target(name).folder, name, self._home / "dead-letter" / "gateway")
        for name, state in self._state.items():
            for version, deployment in state.versions.items():
                self._backends.deploy(name, version, deployment)

    async def stop(self) -> None:
        """Close the logs, end the backends. `keep_logs` returns then."""
        self._stopping.set()
        await asyncio.gather(*self._retiring)
        await self._backends.close()

    async def score(self, target: str, body: bytes, asked: Asked) -> Answer:
        """Answer a scoring request."""
        state = self._state.get(target)
        if state is None:
            return failure(404, f"no version was ever deployed for a target {target}")
        place = Place(self._target(target), state.split, self._log(target))
        try:
            answer = await score(place, self._backends, body, asked)
        except BadInput as error:
            answer = failure(400, str(error))
        self.counts[target, answer.versions, answer.status] += 1
        return answer

    async def deploy(self, target: str, version: str, deployment: Deployment) -> dict[str, Any]:
        """Have a version loaded, with no traffic; Conflict when it is deployed from another address."""
        for name in (target, version):
            if not _NAME.fullmatch(name):
                raise Refused("gateway", "deploy", f"{name!r} cannot name a target or version")
        async with self._changing:
            state = self._of(target)
            known = state.versions.get(version)
            if known is not None and known.model_uri != deployment.model_uri:
                raise Conflict("gateway", "deploy", f"{target} {version} is deployed from {known.model_uri}")
            if known is None:
                await self._save(target, state.deployed(version, deployment))
                self._backends.deploy(target, version, deployment)
        return self.traffic(target)

    async def retire(self, target: str, version: str) -> dict[str, Any]:
        """Unload a version; Refused while it has traffic. What it has begun it finishes."""
        async with self._changing:
            state = self._of(target)
            if version in state.split.weights:
                raise Refused(
                    "gateway", "retire", f"{target} {version} has {state.split.weights[version]:g} % of traffic"
                )
            if version in state.versions:
                await self._save(target, state.retired(version))
                task = asyncio.create_task(self._backends.retire(target, version))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
        return self.traffic(target)

    async def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> dict[str, Any]:
        """Split requests anew. Conflict for another epoch, Refused for weight on a version that is not ready."""
        async with self._changing:
            state = self._of(target)
            split = state.split.shifted(weights, epoch, by)
            if split is not state.split:
                for version in split.weights:
                    if not self._backends.ready(target, version):
                        why = self._backends.problem(target, version) or "it is not deployed or still loading"
                        raise Refused("gateway", f"shift {target}", f"version {version} is not ready: {why}")
                await self._save(target, replace(state, split=split))
        return self.traffic(target)

    def traffic(self, target: str) -> dict[str, Any]:
        """The split now."""
        state = self._of(target)
        problems = {version: self._backends.problem(target, version) for version in state.versions}
        return {
            "weights": state.split.weights,
            "epoch": state.split.epoch,
            "by": state.split.by,
            "ready": {version: self._backends.ready(target, version) for version in state.versions},
            "problems": {version: problem for version, problem in problems.items() if problem},
        }

    async def served(self, target: str, since: datetime) -> dict[str, int]:
        """Records by version since a moment, from the log; Unavailable when records of that time were lost."""
        log, own = self._logs.get(target), self._target(target)
        if log is not None and (log.waiting or (log.lost_at and datetime.fromisoformat(log.lost_at) >= since)):
            why = (
                f"{log.waiting} records wait for room on the disk, {log.lost} were lost (last {log.lost_at or 'never'})"
            )
            raise Unavailable("gateway", f"served {target}", why, log.problem)
        return await asyncio.to_thread(count_served, own.folder, target, since, own.fields["version"])

    def health(self) -> dict[str, Any]:
        """How it is doing, for people and for the daemon's side."""
        logs = {
            name: {"waiting": log.waiting, "lost": log.lost, "lost_at": log.lost_at, "problem": log.problem}
            for name, log in self._logs.items()
        }
        unhealthy = self.problem or any(log["problem"] or log["lost"] for log in logs.values())
        return {
            "status": "impaired" if unhealthy else "ok",
            "pid": os.getpid(),
            "home": str(self._home),
            "problem": self.problem,
            "targets": {name: self.traffic(name)["ready"] for name in self._state},
            "logs": logs,
        }

    async def keep_logs(self) -> None:
        """Close segments when their time is over, retry what found no room, read targets.json when it changed."""
        opened: dict[str, float] = {}
        unclosed: list[tuple[PredictionLog, Segment]] = []
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(_TICK, self._segment_seconds / 4))
            now = time.monotonic()
            for name, log in self._logs.items():
                log.retry(datetime.now(UTC))
                if self._stopping.is_set() or now - opened.get(name, 0.0) >= self._segment_seconds:
                    opened[name] = now
                    if (segment := log.detach()) is not None:
                        unclosed.append((log, segment))
            while unclosed:
                log, segment = unclosed[0]
                if not await asyncio.to_thread(log.close, segment):
                    break
                unclosed.pop(0)
            self._reload_targets()
        for log in self._logs.values():
            log.give_up(datetime.now(UTC))

    def _reload_targets(self) -> None:
        changed = self._targets_mtime()
        if changed == self._targets_changed:
            return
        self._targets_changed = changed
        try:
            self._targets = read_targets(self._home)
        except BadInput as error:
            self.problem = f"{error}; the last good one stays"
            return
        self.problem = ""
        for name, log in self._logs.items():
            log.move(self._target(name).folder)

    def _targets_mtime(self) -> int:
        path = self._home / "gateway" / "targets.json"
        return path.stat().st_mtime_ns if path.exists() else 0

    def _of(self, target: str) -> TargetState:
        """The target's state; nothing deployed and nothing served when it was never heard of."""
        return self._state.get(target) or TargetState(Split(target))

    def _target(self, name: str) -> Target:
        return self._targets.get(name) or target_of(name, self._home, {})

    def _log(self, name: str) -> PredictionLog:
        if name not in self._logs:
            self._logs[name] = PredictionLog(name, self._target(name).folder)
        return self._logs[name]

    async def _save(self, target: str, state: TargetState) -> None:
        changed = {**self._state, target: state}
        try:
            await asyncio.to_thread(save, self._state_path, changed)
        except OSError as error:
            raise Unavailable("gateway", "save", str(error)) from error
        self._state = changed
