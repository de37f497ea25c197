"""The live table of a run: the rows measured last, and how far it is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from .report import duration
from .summary import Row
from .tables import rows_table

AROUND = 8  # lines of a screen that are no rows


class Board:
    """Shown while its `with` block runs, if the console is a terminal; gone afterwards."""

    def __init__(self, console: Console, tasks: int) -> None:
        self._tasks, self._done = tasks, 0
        self._rows: list[Row] = []
        self._section, self._now = "", "starting"
        self._start = time.monotonic()
        self._live = Live(self, console=console, transient=True, refresh_per_second=2)

    def section(self, title: str) -> None:
        """Rows of another kind follow."""
        self._section, self._rows = title, []

    def begin(self, name: str) -> None:
        """Say what is being measured."""
        self._now = name

    def add(self, row: Row) -> None:
        """One more is done."""
        self._rows.append(row)
        self._done += 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, (options.height or console.height) - AROUND)
        yield rows_table(self._rows[-room:], self._section)
        yield Group(ProgressBar(self._tasks, self._done, width=min(60, options.max_width)), Text(self._progress()))

    def _progress(self) -> str:
        text = f"{self._done} of {self._tasks}, {self._now}"
        if not self._done:
            return text
        left = (time.monotonic() - self._start) / self._done * (self._tasks - self._done)
        return f"{text}, {duration(left) if left < 100 else f'{left / 60:.0f} min'} left"

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
