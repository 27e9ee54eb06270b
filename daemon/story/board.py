"""What is shown while the story plays: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.core.runs import Run
from daemon.story.acts import LAST
from daemon.story.stage import Stage

LINES = 10
"""Lines of the story that stay on the board."""


class Board:
    """Follows the stage from a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._console = Console()
        self._began = time.monotonic()
        self._act = ""
        self._lines: list[str] = []
        self._over = threading.Event()
        self._board: Group | Text = Text("")
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, get_renderable=self._render)
        self._thread = threading.Thread(target=self._follow, name="board", daemon=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show no more."""
        self._over.set()
        if self._console.is_terminal:
            self._thread.join(5)
            self._live.stop()

    def act(self, title: str) -> None:
        """A new act begins."""
        self._act = title
        self.tell(title)

    def tell(self, line: str) -> None:
        """Something happened."""
        stamped = f"{time.monotonic() - self._began:5.0f} s  {line}"
        self._lines.append(stamped)
        if not self._console.is_terminal:
            self._console.print(stamped, highlight=False, soft_wrap=True, markup=False)

    def _follow(self) -> None:
        while not self._over.wait(0.5):
            self._board = self._made()

    def _render(self) -> Group | Text:
        return self._board

    def _made(self) -> Group:
        measured, runs = self._stage.rows_measured(), self._stage.runs()
        table = Table.grid(padding=(0, 2))
        table.add_row("rows measured", ProgressBar(total=LAST, completed=measured, width=40), f"{measured:,}")
        moves = Table("run", "rule", "version", "state", "step", "note", box=None, padding=(0, 1))
        for run in runs[-5:]:
            moves.add_row(*self._line(run))
        story = Text("\n".join(self._lines[-LINES:]))
        return Group(Panel(Group(table, moves), title=self._act, title_align="left"), story)

    def _line(self, run: Run) -> tuple[str, ...]:
        step = run.steps[run.position].verb if run.position < len(run.steps) and not run.ended else ""
        note = run.why
        if not run.ended:
            calls = self._stage.calls(run)
            note = str(calls[-1][12]) if calls else ""
        return run.id[:8], run.rule, str(run.given.get("version", "")), run.state.value, step, note[:80]
