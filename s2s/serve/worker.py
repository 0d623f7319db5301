"""One thread that computes, and a line before it that is not endless."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

from fastapi import Request

Result = TypeVar("Result")

GRACE = 2.0
"""Seconds that the running work may still take once the server has been told to end."""


class EndedError(Exception):
    """The work was ended before its result was there; the message says why, for the one who waits for it."""


class BusyError(EndedError):
    """The line is full, or the server is ending; asking again later helps."""


class TimeLimitError(EndedError):
    """The work took longer than one request may."""


class LeftError(EndedError):
    """Nobody waits for the result."""


class Task(Generic[Result]):
    """A piece of work in the line or running, and the future on which its client waits."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self.left = False
        self.deadline = float("inf")

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Give the result or the error to the future; from any thread, and in vain where its loop has ended."""

        def give() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(give)
        except RuntimeError:
            if not self.loop.is_closed():
                raise


class Worker:
    """Runs one piece of work at a time, in the order in which it was asked for, off the event loop.

    Work ends itself by calling ``check`` every now and then: that raises when ``time_limit`` seconds have passed since
    the work began, when its client has left, and when the server is ending.
    """

    def __init__(self, most_waiting: int, time_limit: float = 60.0) -> None:
        self.most_waiting, self.time_limit = most_waiting, time_limit
        self.waiting = 0  # the running one counts
        self._line: deque[Task[Any]] = deque()
        self._changed = Condition()
        self._running: Task[Any] | None = None
        self._ending: float | None = None
        self._closed = False
        # A daemon: the interpreter does not wait at its end for work that never calls check.
        self._thread = Thread(target=self._run, name="s2s-generation", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[], Result]) -> Result:
        """Return the work's result or raise its error; ``BusyError`` at once where the line is full.

        Where the caller is cancelled, the work is taken out of the line, or ends at its next ``check``.
        """
        self.check_room()
        task = Task(work)
        self.waiting += 1
        try:
            with self._changed:
                self._line.append(task)
                self._changed.notify()
            return await task.future
        finally:
            self.waiting -= 1
            task.left = True
            with self._changed:
                if task in self._line:
                    self._line.remove(task)

    def check_room(self) -> None:
        """Raise ``BusyError`` where the line is full or the server is ending."""
        if self._ending is not None:
            raise BusyError("the server is ending")
        if self.waiting >= self.most_waiting:
            raise BusyError(f"{self.waiting} requests are waiting already; try again later")

    def check(self) -> None:
        """Raise an ``EndedError`` where the running work shall end; only the work itself calls this."""
        task, now = self._running, time.monotonic()
        if task is None:
            return
        if task.left:
            raise LeftError("the client has left")
        if self._ending is not None and now > self._ending:
            raise BusyError("the server is ending")
        if now > task.deadline:
            raise TimeLimitError(
                f"time_limit: the work took more than {self.time_limit:g} s and was ended; ask for fewer hypotheses or "
                "a smaller max_length, or start the server with a greater time_limit"
            )

    def end(self) -> None:
        """Take no further work, and let the running one go on for ``GRACE`` seconds; a signal's handler may call it."""
        self._ending = time.monotonic() + GRACE

    def close(self) -> bool:
        """End the running work at its next ``check`` and drop the rest; return whether the thread has ended by then."""
        self._ending = self._ending or time.monotonic()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(GRACE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            if self._ending is not None:
                task.settle(None, BusyError("the server is ending"))
                continue
            task.deadline = time.monotonic() + self.time_limit
            self._running = task
            try:
                result, error = task.work(), None
            except BaseException as raised:  # whatever it is, its client is told and the thread goes on
                result, error = None, raised
            self._running = None
            task.settle(result, error)
            # Nothing of a result, or of a traceback's frames, is kept while the thread waits.
            del task, result, error

    def _next(self) -> Task[Any] | None:
        with self._changed:
            while not self._line and not self._closed:
                self._changed.wait()
            return None if not self._line else self._line.popleft()


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the work's result; where the client leaves before, cancel the work and raise ``LeftError``.

    The request's body has been read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LeftError("the client has left")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        # What they end with is theirs; an error that nobody asked for would be told by the loop.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _leaving(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
