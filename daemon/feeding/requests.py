"""Rows as requests to a model gateway, at a pace, a bounded number at a time."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from daemon.feeding.files import Labels, Pace
from daemon.feeding.table import Table

CHUNK = 1000
"""Rows turned into requests at once."""


@dataclass(slots=True)
class Answered:
    """What became of the requests."""

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that failed, by status or fault."""
    versions: Counter[str] = field(default_factory=Counter)
    """Requests answered, by the version that did."""
    late: int = 0
    """Requests that waited for a free place: the pace could not be kept."""

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    concurrency: int
    timeout: float
    """Seconds; a request that takes longer has failed."""


async def play_requests(table: Table, target: Target, labels: Labels, pace: Pace) -> tuple[int, Answered]:
    """Send one row after the other until the last, SIGTERM or SIGINT; the row after the last one, and the answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    answered = Answered()
    limits = httpx.Limits(max_connections=target.concurrency, max_keepalive_connections=target.concurrency)
    async with httpx.AsyncClient(timeout=target.timeout, limits=limits, trust_env=False) as client:
        position = await _send_all(table, _Sender(client, target, answered, table), labels, pace, stop)
    labels.finish(position)
    return position, answered


@dataclass(slots=True)
class _Sender:
    """Sends single rows."""

    client: httpx.AsyncClient
    target: Target
    answered: Answered
    table: Table

    async def send(self, row: Mapping[str, Any]) -> None:
        fields = self.table.fields
        headers = {"content-type": "application/json", "x-driftd-id": str(row[fields.id])}
        if fields.unit is not None and row.get(fields.unit) is not None:
            headers["x-driftd-unit"] = str(row[fields.unit])
        body = orjson.dumps({"dataframe_records": [row]})
        try:
            answer = await self.client.post(self.target.url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self.answered.failures[type(error).__name__] += 1
            return
        if answer.is_success:
            self.answered.versions[answer.headers.get("x-driftd-version", "")] += 1
        else:
            self.answered.failures[str(answer.status_code)] += 1


async def _send_all(table: Table, sender: _Sender, labels: Labels, pace: Pace, stop: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    began, start = loop.time(), table.first
    last, position = start + len(table.rows), start
    places = asyncio.Semaphore(sender.target.concurrency)
    under_way: set[asyncio.Task[None]] = set()
    while position < last and not stop.is_set():
        for row in table.requests(position, min(position + CHUNK, last)):
            due = began + (position - start) / pace.rows_per_s if pace.rows_per_s else 0.0
            if await _stopped(stop, due - loop.time()):
                break
            if places.locked():
                sender.answered.late += 1
            await places.acquire()
            task = asyncio.create_task(sender.send(row))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _task: places.release())
            sender.answered.sent += 1
            position += 1
            labels.follow(position)
    if under_way:
        await asyncio.wait(under_way)
    return position


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; whether it is to stop."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return stop.is_set()
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
