"""Progress of reading and encoding a data set: a bar on a terminal, elsewhere a line every 15 seconds."""

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from s2s.console.terminal import plain_console

SECONDS_BETWEEN_LINES = 15


class Progress:
    """Counts up to ``total``, part after part; the bar is removed at the end."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.before, self.done = title, max(1, total), 0, 0
        self.console = plain_console(stderr=True)
        columns = (
            TextColumn(title, markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
        )
        self.bar = Bar(
            *columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal, transient=True
        )
        self.task = self.bar.add_task("", total=self.total)

    def __enter__(self) -> Self:
        self.begun = self.printed = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def at(self, done: int) -> None:
        """Show that ``done`` of the current part is done."""
        self.done = min(self.total, self.before + done)
        self.bar.update(self.task, completed=self.done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = now
            left = (now - self.begun) / max(1, self.done) * (self.total - self.done)
            self.console.print(f"{self.title}: {self.done / self.total:.0%}, {left / 60:.1f} min left")

    def part(self, size: int) -> None:
        """Finish a part of ``size``; the next one counts from 0."""
        self.at(size)
        self.before += size
