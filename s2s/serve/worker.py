"""One thread that computes, and a line before it that is not endless."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class BusyError(Exception):
    """As many wait as may."""


class Worker:
    """Runs one piece of work at a time, in the order in which it was asked for, off the event loop."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.waiting = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="s2s-generation")

    async def do(self, work: Callable[[], Result]) -> Result:
        """The work's result, or its error; raises ``BusyError`` at once where the line is full."""
        self.check()
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.waiting -= 1

    def check(self) -> None:
        """Raises ``BusyError`` where the line is full."""
        if self.waiting >= self.most_waiting:
            raise BusyError(f"{self.waiting} requests are waiting already; try again later")

    def close(self) -> None:
        """Let the running work end and drop the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)
