"""The payload logger's events as records: each row of a call whose both halves came, with the columns that the stream wants.

A row's id is `CE-ID/ROW` and its time the response's, so it lies in the slice of its response; it comes with the half that
came last. What waits for its other half is state, to be stored with the progress behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemon.core.columns import Integers
from daemon.core.errors import BadInput
from daemon.monitors.payloads.columnar import BodyDecoder
from daemon.monitors.payloads.gathered import Calls
from daemon.monitors.payloads.halves import TYPES, Half, Wanted, half_of
from daemon.monitors.payloads.pairs import Counts, Pairs
from daemon.monitors.payloads.places import Place
from daemon.monitors.plan import StreamPlan
from daemon.monitors.records import Malformed, Raw
from daemon.sources.envelopes import Envelope, opened

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
        # Hashes are made one by one anyway.
        plain = "hash" in plan.privacy.values() or plan.privacy.get(plan.fields.id, "keep") != "keep"
        self._decoders = {} if plain else {side: BodyDecoder(side, self._wanted) for side in TYPES.values()}

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
        calls = Calls(self._columns, self._wanted.plan.numbers)
        events = list(map(_event, values))
        places = self._places(events)
        waiting: list[tuple[Half, Envelope]] = []
        for row, (event, line, at) in enumerate(zip(events, lines, landed.tolist(), strict=True)):
            try:
                half = half_of(event, self._wanted, places.get(row)) if isinstance(event, Envelope) else event
                fault = half if isinstance(half, str) else self._take(half, line, at, calls)
            except BadInput as error:
                fault, half = str(error), None
            if fault:
                calls.malformed.append(Malformed(line, fault, values[row]))
            if isinstance(half, Half) and half.decoded is not None and isinstance(event, Envelope):
                waiting.append((half, event))
        made = calls.raw(lines[0] if len(lines) else 0, len(values))
        self._settle(waiting)
        return [made]

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

    def _places(self, events: Sequence[Envelope | str]) -> dict[int, Place]:
        """Where the rows of those bodies are that can be decoded together, by the events' numbers."""
        found: dict[int, Place] = {}
        for side, decoder in self._decoders.items():
            mine = [
                (row, event.data)
                for row, event in enumerate(events)
                if isinstance(event, Envelope) and event.data and TYPES.get(event.attributes.get("type", "")) == side
            ]
            places = decoder.places([body for _, body in mine])
            found |= {row: place for (row, _), place in zip(mine, places, strict=True) if place is not None}
        return found

    def _settle(self, halves: Iterable[tuple[Half, Envelope]]) -> None:
        """Decode the bodies alone of those halves that go on waiting: what is stored of them is the same either way."""
        for half, envelope in halves:
            if self._pairs.waits(half):
                alone = half_of(envelope, self._wanted)
                assert alone is not None
                self._pairs.settle(half, alone)

    def _take(self, half: Half | None, line: int, landed: int, calls: Calls) -> str:
        """Take a half in; why it cannot be used, or nothing. None: of a component that is not looked at."""
        if half is None:
            self._pairs.counts.other += 1
            return ""
        if half.at > landed + _AHEAD:
            return "its ce-time lies too far in the future"
        partner = self._pairs.add(half)
        if partner is None:
            return _own_fault(half)
        request, response = (half, partner) if half.side == "request" else (partner, half)
        return _own_fault(half) or self._pair(request, response, line, calls)

    def _pair(self, request: Half, response: Half, line: int, calls: Calls) -> str:
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
        calls.add(request, response, line)
        return ""


def _event(value: bytes) -> Envelope | str:
    """The event, or why there is none."""
    try:
        return opened(value)
    except BadInput as error:
        return str(error)


def _own_fault(half: Half) -> str:
    """Why a request cannot be used. Of a response only its request tells whether it should have been a prediction."""
    return f"the request: {half.fault}" if half.fault and half.side == "request" else ""


def _counted(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COMPLAINTS}
