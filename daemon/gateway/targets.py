"""What the daemon's side tells the gateway of each target: where its prediction log goes, and how fields are called.

The file `gateway/targets.json` in the home folder:

    {"targets": {"car-loan": {"folder": "/…/predictions", "model": "car-loan", "features": ["age"], "drop": ["ssn"],
                              "fields": {"id": "id", "unit": "customer", "time": "timestamp", "version": "version"}}}}

A field that is not named has its default name; a target that is not listed has them all, and a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.core.errors import BadInput

NAMES = ("id", "unit", "time", "model", "version", "prediction", "error", "latency_ms")


@dataclass(frozen=True, slots=True)
class Target:
    """One serving target's prediction log."""

    name: str
    folder: Path
    model: str
    """As config.yaml names it; logged with each record."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What each of NAMES is called in a record; a dot reaches into nested records."""
    drop: frozenset[str] = frozenset()
    """Fields that are never logged."""
    withheld: frozenset[str] = frozenset()
    """Fields named in the file that are no features (id, unit, time, label): logged, but the model does not see them."""


def target_of(name: str, home: Path, entry: Mapping[str, Any]) -> Target:
    """A target from its entry in the file; an empty entry gives the defaults."""
    own = {key: value for key, value in entry.get("fields", {}).items() if value}
    fields = {name: own.get(name, name) for name in NAMES}
    return Target(
        name,
        Path(entry.get("folder") or home / "predictions" / name),
        entry.get("model") or name,
        fields,
        frozenset(entry.get("drop", ())),
        frozenset(set(own.values()) - set(entry.get("features", ()))),
    )


def read_targets(home: Path) -> dict[str, Target]:
    """The targets of the file; none when there is no file. BadInput when it cannot be read as that."""
    path = home / "gateway" / "targets.json"
    try:
        entries = json.loads(path.read_bytes())["targets"]
        return {name: target_of(name, home, entry) for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is no list of targets: {error!r}") from error


def dig(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field; a dot reaches into nested records unless the name itself is there. None when it is not."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def put(record: dict[str, Any], name: str, value: Any) -> None:
    """Set a field where `dig` finds it. Nested records on the way are copied, never changed."""
    head, _, rest = name.partition(".")
    if not rest or name in record:
        record[name] = value
        return
    inner = record.get(head)
    inner = dict(inner) if isinstance(inner, Mapping) else {}
    put(inner, rest, value)
    record[head] = inner
