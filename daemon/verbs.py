"""The verbs that rules may say, loaded by name from the table in `handlers/__init__.py`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon.core.calls import Call, Outcome
from daemon.handling import Context, Verb

TABLE = "handlers"
"""The package whose VERBS names every verb's module."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verb and the functions behind it."""

    verb: Verb
    run: Callable[[Call, Context], Outcome]
    cancel: Callable[[Call, Context], None] | None
    """Ends what an unfinished call has started; None: nothing outlives the call."""


def load_verbs(table: str = TABLE) -> Mapping[str, Loaded]:
    """Import every verb's module; cheap, because handlers do their heavy work in jobs."""
    names: Mapping[str, str] = importlib.import_module(table).VERBS
    loaded: dict[str, Loaded] = {}
    for name, path in names.items():
        module = importlib.import_module(path)
        verb: Verb = module.VERB
        assert verb.name == name, f"{path}: VERB.name is {verb.name!r}, the table says {name!r}"
        loaded[name] = Loaded(verb, module.run, getattr(module, "cancel", None))
    return loaded
