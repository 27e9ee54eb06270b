"""What of a stream's state has changed since the last checkpoint: each blob is made once, when the checkpoint comes."""

from __future__ import annotations

from collections.abc import Callable

from daemon.intake import StateWrite


class Journal:
    """The changed and dropped keys of one stream's state."""

    def __init__(self) -> None:
        self._changed: dict[str, Callable[[], bytes] | None] = {}

    def touch(self, key: str, blob: Callable[[], bytes]) -> None:
        """The state under `key` changed; `blob` gives its bytes at the checkpoint."""
        self._changed[key] = blob

    def drop(self, key: str) -> None:
        """There is no state under `key` any more."""
        self._changed[key] = None

    def writes(self, stream: str) -> tuple[StateWrite, ...]:
        """What to store now, in order of keys; the journal is empty afterwards."""
        changed, self._changed = self._changed, {}
        return tuple(StateWrite(stream, key, make and make()) for key, make in sorted(changed.items()))
