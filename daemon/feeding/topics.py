"""Prediction records and labels sent to the topics of a stream of kind `kafka`, as another serving system would send them.

A record's key is its unit, else its id, so that all of a unit's records are in one partition. Labels say by the timestamp
of their record when they came, in event time: driftd joins them by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pandas as pd

from daemon.feeding.table import Table, records


@dataclass(frozen=True, slots=True)
class Keyed:
    """A record to be sent."""

    key: bytes
    value: bytes
    timestamp: int | None
    """Epoch milliseconds; None: when it is sent."""


Send = Callable[[str, Sequence[Keyed]], None]
"""Sends records to a topic and returns once its brokers have them all; raises ClientError when they do not."""


@dataclass(slots=True)
class Topic:
    """Where rows go. At most the rows of one `drop` are under way."""

    name: str
    table: Table
    send: Send
    in_event_time: bool
    """The timestamps are in event time, as those of labels must be; else they are left to the clock."""
    dropped: int = 0
    """Records sent, each of which the brokers have."""

    def drop(self, name: str, rows: pd.DataFrame, last: int) -> None:
        """Send rows; `last` is the row that was played last when they came."""
        del name
        fields = self.table.fields
        at = self._moment(last) if self.in_event_time else None
        found = [
            Keyed(
                str((record.get(fields.unit) if fields.unit else None) or record[fields.id]).encode(),
                orjson.dumps(record),
                at,
            )
            for record in records(rows)
        ]
        self.send(self.name, found)
        self.dropped += len(found)

    def _moment(self, row: int) -> int | None:
        """When a row was, in ms since 1970; None where the rows do not say."""
        time = self.table.fields.time
        if time is None or time not in self.table.rows.columns:
            return None
        value: Any = self.table.rows[time].loc[row]
        if isinstance(value, str | pd.Timestamp):
            moment = pd.Timestamp(value)
            return int((moment.tz_localize("UTC") if moment.tzinfo is None else moment).timestamp() * 1000)
        # As monitors read times: seconds up to 1e11 (the year 5138), then ms, µs and ns, each by its magnitude.
        limits = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3))
        return int(value / next((unit for most, unit in limits if abs(value) < most), 1e6))
