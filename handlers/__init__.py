"""The verbs: what a rule may say under `do:` and `on_failure:`, one file each.

This table is all that the daemon knows of them; a module is imported when its verb is first looked up. To add a verb,
write its file (see README.md) and add its line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

VERBS: Mapping[str, str] = MappingProxyType(
    {
        "retrain": "handlers.retrain",
        "tune": "handlers.tune",
        "evaluate": "handlers.evaluate",
        "canary": "handlers.canary",
        "promote": "handlers.promote",
        "soak": "handlers.soak",
        "rollback": "handlers.rollback",
        "notify": "handlers.notify",
        "batch_inference": "handlers.batch_inference",
        "apply": "handlers.apply",
        "cordon": "handlers.cordon",
        "uncordon": "handlers.uncordon",
        "command": "handlers.command",
    }
)
"""Verb -> module with its `VERB` (daemon.handling.Verb) and `run(call, context) -> Outcome`."""
