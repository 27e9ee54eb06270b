"""The payload logger's events as records: each row of a call whose both halves came, with the columns that the stream wants.

A row's id is `CE-ID/ROW` and its time the response's, so it lies in the slice of its response; it comes with the half that
came last. What waits for its other half is state, to be stored with the progress behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daemon.core.columns import Integers
from daemon.core.errors import BadInput
from daemon.monitors.payloads.halves import TIME, Half, Wanted, half_of
from daemon.monitors.payloads.pairs import Counts, Pairs
from daemon.monitors.plan import StreamPlan
from daemon.monitors.records import Malformed, Raw
from daemon.sources.envelopes import opened

_AHEAD = 3_600_000_000
"""So far (µs) may a ce-time be ahead of when its event was written down: by it all others are held to wait too long."""
_COMPLAINTS = {
    "unanswered": "requests came without a response: they failed (only answers with status 200 are logged), or the "
    "response was lost, or lies in another partition; their rows are not measured",
    "unasked": "responses came without a request: it was lost or lies in another partition (both need one key), or the "
    "logger's mode is not `all`; their rows are not measured",
    "crowded": "calls under way at once had the same ce-id, so their requests and responses cannot be told apart; callers "
    "that send Ce-Id must give each call its own; they are not measured",
}
"""What is told of what cannot be measured, by its count."""


class KServeFormat:
    """One partition, or the files of a stream, whose values are lines as in `envelopes`. `stored`: what `state` gave."""

    def __init__(self, plan: StreamPlan, stored: bytes = b"") -> None:
        self._wanted = Wanted(plan)
        dropped = {name for name, level in plan.privacy.items() if level == "drop"} - {plan.fields.id}
        self._columns = tuple(name for name in plan.columns if name not in dropped)
        self._pairs = Pairs(plan.within_us, stored)
        self._told = _counted(self._pairs.counts)

    @property
    def unpaired(self) -> int:
        """Halves that were given up since the stream began."""
        counts = self._pairs.counts
        return counts.unpaired + counts.crowded

    @property
    def counts(self) -> Counts:
        """What became of all events."""
        return self._pairs.counts

    @property
    def waiting(self) -> int:
        """Halves that wait."""
        return len(self._pairs)

    def decode(self, values: Sequence[bytes], lines: Sequence[int], landed: Integers | None, /) -> list[Raw]:
        """See Format. `landed` must be there."""
        assert landed is not None
        rows = _Rows(self._columns)
        for value, line, at in zip(values, lines, landed.tolist(), strict=True):
            try:
                fault = self._take(value, line, at, rows)
            except BadInput as error:
                fault = str(error)
            if fault:
                rows.malformed.append(Malformed(line, fault, value))
        return [rows.raw(lines[0] if len(lines) else 0, len(values))]

    def idle(self) -> None:
        """Nothing came for a while: who waits, waits in vain."""
        self._pairs.give_up()

    def state(self) -> bytes:
        """What is needed to go on from here."""
        return self._pairs.to_bytes()

    def complaints(self) -> list[str]:
        """What could not be measured since the last call, and why."""
        now = _counted(self._pairs.counts)
        told, self._told = self._told, now
        return [_COMPLAINTS[name] for name, count in now.items() if count > told[name]]

    def _take(self, value: bytes, line: int, landed: int, rows: _Rows) -> str:
        """Take an event in; why it cannot be used, or nothing. Raises BadInput when it is no event of the logger."""
        half = half_of(opened(value), self._wanted)
        if half is None:
            self._pairs.counts.other += 1
            return ""
        if half.at > landed + _AHEAD:
            return "its ce-time lies too far in the future"
        partner = self._pairs.add(half)
        if partner is None:
            return _own_fault(half)
        request, response = (half, partner) if half.side == "request" else (partner, half)
        return _own_fault(half) or self._pair(request, response, line, rows)

    def _pair(self, request: Half, response: Half, line: int, rows: _Rows) -> str:
        counts = self._pairs.counts
        if request.is_empty:
            counts.other += 2
            return ""
        counts.paired += 1
        if request.fault:
            return ""  # which is told already
        if response.fault:
            return f"the response: {response.fault}"
        if request.rows != response.rows:
            return f"the request has {request.rows} rows, its response {response.rows}"
        rows.add(request, response, line)
        return ""


def _own_fault(half: Half) -> str:
    """Why a request cannot be used. Of a response only its request tells whether it should have been a prediction."""
    return f"the request: {half.fault}" if half.fault and half.side == "request" else ""


class _Rows:
    """Rows that come together."""

    def __init__(self, names: Sequence[str]) -> None:
        self.malformed: list[Malformed] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in names}
        self._lines: list[int] = []

    def add(self, request: Half, response: Half, line: int) -> None:
        """The rows of a call."""
        count = request.rows
        self._lines += [line] * count
        for name, column in self._columns.items():
            found = request.columns.get(name) or response.columns.get(name)
            if found is not None:
                column.extend(found)
            else:
                column.extend([response.at if name == TIME else None] * count)

    def raw(self, start: int, read: int) -> Raw:
        """All of them."""
        return Raw(start, read, self._columns, self._lines, tuple(self.malformed), text=False, is_safe=True)


def _counted(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COMPLAINTS}
