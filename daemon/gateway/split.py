"""How a target's requests are split between versions: weights, their epoch, and which unit goes where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from daemon.core.canonical import content_id, unit_hash
from daemon.core.errors import BadInput, Conflict


@dataclass(frozen=True, slots=True)
class Split:
    """The split of one target. Every unit has a position in [0, 100); the arms share that line out, from 0 on.

    The newest arm lies first, so a challenger holds [0, w): while its weight grows, units that it has stay with it.
    """

    target: str
    arms: tuple[tuple[str, float], ...] = ()
    """(version, percent) by position; only versions with weight. Empty when nothing was ever served."""
    epoch: int = 0
    """Goes up with every change."""
    by: str = ""
    """Who made the last change."""
    salt: str = ""
    """Of the positions; drawn anew with each challenger, else the same units would bear every canary."""

    @property
    def weights(self) -> dict[str, float]:
        """Version -> percent."""
        return dict(self.arms)

    def route(self, unit: str) -> str:
        """The version that answers `unit`; empty when nothing is served."""
        if not self.arms:
            return ""
        if len(self.arms) == 1:
            return self.arms[0][0]
        position = unit_hash(self.salt, unit) * 100
        for version, percent in self.arms:
            if position < percent:
                return version
            position -= percent
        return self.arms[-1][0]  # what rounding left over

    def shifted(self, weights: Mapping[str, float], epoch: int, by: str) -> Split:
        """The split after a change; itself when `by` made this very change already.

        Raises BadInput for weights that are no split and Conflict when the epoch is another.
        """
        asked = {version: float(percent) for version, percent in weights.items() if percent != 0}
        if not all(math.isfinite(percent) and percent > 0 for percent in asked.values()):
            raise BadInput(f"weights are percents from 0 to 100, not {dict(weights)}")
        if not math.isclose(sum(asked.values()), 100, abs_tol=1e-6):
            raise BadInput(f"weights sum to 100, these sum to {sum(asked.values()):g}")
        if by and by == self.by and asked == self.weights:
            return self
        if epoch != self.epoch:
            raise Conflict("gateway", f"shift {self.target}", f"epoch is {self.epoch}, not {epoch}: last by {self.by}")
        kept = [version for version, _ in self.arms if version in asked]
        fresh = sorted((version for version in asked if version not in kept), key=lambda version: asked[version])
        salt = self.salt
        if fresh and len(kept) <= 1:  # nothing is split now, so nobody's place is moved by another salt
            salt = content_id("split", self.target, fresh[0])
        arms = tuple((version, asked[version]) for version in (*fresh, *kept))
        return Split(self.target, arms, self.epoch + 1, by, salt)
