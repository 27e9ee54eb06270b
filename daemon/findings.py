"""What is found wrong or doubtful in one entry of a rule file, with its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.core.errors import Mistake
from daemon.documents import Document, Where


@dataclass
class Findings:
    """Mistakes keep the whole set of rules from being loaded; warnings are told."""

    document: Document
    entry: Where
    """Path of the entry in the document."""
    label: str
    """How messages call it: `rule "churn-retrain"`."""
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)

    def wrong(self, where: Where, message: str, at_key: bool = False) -> None:
        """A mistake at a path within the entry."""
        self.mistakes.append(self._at(where, message, at_key))

    def doubtful(self, where: Where, message: str, at_key: bool = False) -> None:
        """A warning at a path within the entry."""
        self.warnings.append(self._at(where, message, at_key))

    def inside(self, where: Where, found: tuple[Mistake, ...]) -> None:
        """Mistakes in the text at a path within the entry; theirs are the line and column within that text."""
        for mistake in found:
            message = f"{self.label}: {mistake.message}"
            self.mistakes.append(self.document.inside((*self.entry, *where), mistake.line, mistake.column, message))

    def shape(self, found: tuple[Mistake, ...]) -> None:
        """Mistakes of shape, which have their place already."""
        self.mistakes.extend(Mistake(m.file, m.line, m.column, f"{self.label}: {m.message}") for m in found)

    def place(self, where: Where = ()) -> tuple[int, int]:
        """Line and column of a path within the entry."""
        return self.document.position((*self.entry, *where))

    def _at(self, where: Where, message: str, at_key: bool) -> Mistake:
        return self.document.mistake((*self.entry, *where), f"{self.label}: {message}", at_key)
