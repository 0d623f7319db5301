"""The progress of a run: a bar with the time left for people, and a line of JSON for each step for programs."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from s2s.console.terminal import plain_console
from s2s.files.atomic import naming

SECONDS_BETWEEN_LINES = 15
"""Least time between two lines of progress where there is no terminal for a bar."""


class Reporter:
    """Prints and logs in the main process; in the others it is silent."""

    def __init__(
        self, file: Path | None, start: int, steps: int, on_record: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> None:
        """``file`` is the log, None where nothing is printed; ``on_record`` gets every record too."""
        self.console = plain_console(quiet=file is None)
        self.file: TextIO | None = None
        if file is not None:
            with naming(file):
                self.file = file.open("a", encoding="utf-8")
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=steps, completed=start)
        self.start, self.steps = start, steps
        self.begun = self.printed = time.monotonic()
        self.speed: float | None = None
        self.on_record = on_record
        self.failure: str | None = None  # why the log could not be written

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()
        if self.file is not None:
            with suppress(OSError):  # closing writes what is left, and ``failure`` has the reason why that cannot be
                self.file.close()

    def log(self, text: str) -> None:
        """Print a line."""
        self.console.print(text)

    def record(self, record: dict[str, Any]) -> None:
        """Append a record, which must have its step, to the log.

        A log that cannot be written raises nothing here but sets ``failure``: all processes must end at the same step.
        """
        self.on_record(record)
        if self.file is None or self.failure:
            return
        try:
            self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
            # At every record: after a kill the log has all steps that were reported.
            self.file.flush()
        except OSError as error:
            self.failure = f"{self.file.name}: cannot be written ({error.strerror}); the last checkpoint is whole"

    def step(self, record: dict[str, Any]) -> None:
        """Log a step, and move the bar or print a line from time to time."""
        self.record(record)
        tokens, seconds = record["source_tokens"] + record["target_tokens"], record["seconds"]
        # A moving mean, because batches of long and of short texts differ in speed.
        self.speed = (tokens / seconds) if self.speed is None else 0.9 * self.speed + 0.1 * tokens / seconds
        loss = "overflow" if record["loss"] is None else f"loss {record['loss']:.3f}"
        step, summary = record["step"], f"{loss}  {self.speed:,.0f} tokens/s"
        self.bar.update(self.task, completed=step, description=summary)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.printed > SECONDS_BETWEEN_LINES or step == self.steps):
            self.printed = now
            left = (now - self.begun) / max(1, step - self.start) * (self.steps - step)
            self.log(f"step {step}/{self.steps}  {summary}  {left / 60:.1f} min left")
