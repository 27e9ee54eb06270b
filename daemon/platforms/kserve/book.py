"""driftd's own bookkeeping of a serving target, kept in a ConfigMap of its own.

Never in annotations or labels of the InferenceService: KServe copies those to the pod template, so that each note would
roll the pods (Standard) or cut a revision (Knative). The ConfigMap's resourceVersion is the compare-and-set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Book:
    """What the cluster itself does not say. Only what serves is never read from here."""

    epoch: int = 0
    """Goes up with every change of the split."""
    by: str = ""
    """The call that made the last change."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The last split that was read back as asked."""
    wanted: Mapping[str, float] | None = None
    """The split that is being made; None when the last one is done."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version -> storage URI of its model."""
    was: str = ""
    """What was written before the last write of driftd's, and"""
    written: str = ""
    """what that write made of it. Anything else found there was written by somebody else. Empty: nothing written yet."""
    base: str = ""
    """Knative: the revision that held the traffic when a canary was loaded."""
    model: str = ""
    """Knative: the model that driftd wrote last, and"""
    before: str = ""
    """the newest revision at that time: the model's own revision is a later one."""

    @classmethod
    def parse(cls, text: str) -> Book:
        """From the ConfigMap. ValueError (or TypeError) when it is none of driftd's."""
        stored: Mapping[str, Any] = json.loads(text)
        return cls(**stored)

    def text(self) -> str:
        """For the ConfigMap."""
        return json.dumps(asdict(self), sort_keys=True)

    def version_of(self, uri: str) -> str:
        """The version whose model lies at the URI; empty when none of the known ones does."""
        return next((version for version, where in self.versions.items() if where == uri), "")

    def is_foreign(self, found: str) -> bool:
        """Whether somebody else wrote what is found there."""
        return bool(self.written) and found not in {self.was, self.written}

    def writing(self, found: str, makes: str) -> Book:
        """Before a write that turns what is found into what it makes."""
        return replace(self, was=found, written=makes)
