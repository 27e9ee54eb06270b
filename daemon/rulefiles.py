"""The folder of rule files: read whole or not at all, checked, and read again when it changes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.config import Config
from daemon.core.canonical import digest
from daemon.core.errors import ConfigError, Mistake
from daemon.core.monitors import Monitor
from daemon.core.rules import RuleSet
from daemon.documents import Document, load, parse_text
from daemon.rulecheck import check_all
from daemon.rulereading import read_file
from daemon.rulesteps import Known, VerbShape
from daemon.templates import read_templates

GIT_SECONDS = 5.0
"""Longest to wait for Git; without its answer the commit is unknown."""
TESTS = "tests"
"""The sub-folder of rule tests, which hold no rules."""


@dataclass(frozen=True)
class Loaded:
    """A folder of rules as it was read."""

    rules: RuleSet
    monitors: tuple[Monitor, ...]
    files: Mapping[str, str] = field(repr=False)
    """Text of each file by its name: what `RuleFolder.parse` takes."""
    warnings: tuple[Mistake, ...] = ()


@dataclass(frozen=True)
class Checked:
    """The same with its mistakes; `loaded` holds only what could be read."""

    loaded: Loaded
    mistakes: tuple[Mistake, ...]
    """Any of these keeps the whole from being loaded."""


class RuleFolder:
    """The rules folder of a configuration. Not for several threads at once."""

    def __init__(self, config: Config, verbs: Mapping[str, VerbShape]) -> None:
        self._config = config
        self._verbs = verbs
        self._seen: tuple[tuple[str, int, int, int], ...] = ()
        self._digest = ""

    def changed(self) -> bool:
        """Whether the rules or the approved templates differ from those that `load` read last, whatever came of them.

        Looks at the files' marks (inode, size, time; a ConfigMap or git-sync swap gives new inodes) and reads them only
        when one of those moved.
        """
        marks = self._marks()
        if marks == self._seen:
            return False
        self._seen = marks
        return self._content() != self._digest

    def forget(self) -> None:
        """What was read last did not come to count: `changed` until the next `load`."""
        self._seen, self._digest = (), ""

    def load(self) -> Loaded:
        """Read everything; raises ConfigError with all mistakes when there is one."""
        self._seen = self._marks()
        self._digest = self._content()
        checked = self.check()
        if checked.mistakes:
            raise ConfigError(checked.mistakes)
        return checked.loaded

    def check(self, with_commit: bool = True) -> Checked:
        """Read everything, and say all that is wrong. Without the commit Git is not asked."""
        folder = self._config.rules
        if not folder.is_dir():
            mistake = Mistake(str(folder), 0, 0, "is no folder: it should hold the rule files")
            return Checked(Loaded(RuleSet(()), (), {}), (mistake,))
        documents = [load(path, self._name(path)) for path in self._rule_files()]
        return self._checked(documents, commit_of(folder) if with_commit else "")

    def parse(self, files: Mapping[str, str], commit: str = "") -> Loaded:
        """The rules of texts that were loaded before; ConfigError when they do not fit what is known now."""
        checked = self._checked([parse_text(text, name) for name, text in sorted(files.items())], commit)
        if checked.mistakes:
            raise ConfigError(checked.mistakes)
        return checked.loaded

    def _checked(self, documents: list[Document], commit: str) -> Checked:
        programs, mistakes = read_templates(self._config.templates)
        known = Known(self._config, self._verbs, programs)
        read = [read_file(document, known) for document in documents]
        rules = [rule for file in read for rule in file.rules]
        monitors = [monitor for file in read for monitor in file.monitors]
        check_all(rules, monitors, known)
        findings = [file.findings for file in read]
        findings += [entry.findings for entry in rules] + [entry.findings for entry in monitors]
        loaded = Loaded(
            RuleSet(
                tuple(entry.rule for entry in rules if entry.rule is not None and not entry.findings.mistakes), commit
            ),
            tuple(entry.monitor for entry in monitors if entry.monitor is not None),
            {document.file: document.source for document in documents},
            _ordered(warning for found in findings for warning in found.warnings),
        )
        return Checked(loaded, (*mistakes, *_ordered(m for found in findings for m in found.mistakes)))

    def _rule_files(self) -> list[Path]:
        folder = self._config.rules
        found = [*folder.rglob("*.yaml"), *folder.rglob("*.yml")]
        return sorted(path for path in found if path.is_file() and _counts(path.relative_to(folder)))

    def _name(self, path: Path) -> str:
        root = self._config.root
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def _watched(self) -> list[Path]:
        return [*self._rule_files(), *sorted(self._config.templates.glob("*.yaml"))]

    def _marks(self) -> tuple[tuple[str, int, int, int], ...]:
        marks = []
        for path in self._watched():
            try:
                status = path.stat()
            except OSError:
                continue
            marks.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(marks)

    def _content(self) -> str:
        parts = []
        for path in self._watched():
            try:
                parts.append(f"{path}\0{digest(path.read_bytes())}")
            except OSError as error:
                parts.append(f"{path}\0{error}")
        return digest("\n".join(parts).encode())


def commit_of(folder: Path) -> str:
    """The Git commit that a folder stands at; empty when it is in no repository, has changes, or Git does not answer."""
    try:
        changes = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", ".")
        return "" if changes else _git(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
    )
    return done.stdout.strip()


def _counts(path: Path) -> bool:
    """Hidden folders are how ConfigMaps and git-sync keep versions; tests are no rules."""
    return not any(part.startswith(".") for part in path.parts) and path.parts[0] != TESTS


def _ordered(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    return tuple(sorted(dict.fromkeys(mistakes), key=lambda mistake: (mistake.file, mistake.line, mistake.column)))
