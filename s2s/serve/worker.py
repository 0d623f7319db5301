"""One thread that computes, with a queue of limited length before it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

from fastapi import Request

Result = TypeVar("Result")

GRACE = 2.0
"""Seconds that the running work may still take after a signal to end the server."""


class EndedError(Exception):
    """The work ended before it had a result; the message gives the client the reason."""


class BusyError(EndedError):
    """The queue is full, or the server is ending; the client may ask again later."""


class TimeLimitError(EndedError):
    """The work exceeded the time limit of a request."""


class LeftError(EndedError):
    """The client has left, so nobody waits for the result."""


class Task(Generic[Result]):
    """Queued or running work, and the future for which its client waits."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Result] = self.loop.create_future()
        self.left = False
        self.deadline = float("inf")

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Give the result or the error to the future, from any thread; do nothing if its event loop has ended."""

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
    """Does the work of one request at a time, in order of arrival, in a thread outside of the event loop.

    The work has to call ``check`` regularly, which raises ``time_limit`` seconds after the work began, when its client
    has left, and when the server is ending.
    """

    def __init__(self, most_waiting: int, time_limit: float = 60.0) -> None:
        self.most_waiting, self.time_limit = most_waiting, time_limit
        self.waiting = 0  # the running request included
        self._queue: deque[Task[Any]] = deque()
        self._changed = Condition()
        self._running: Task[Any] | None = None
        self._ending: float | None = None
        self._closed = False
        # A daemon thread, so that the interpreter can end although some work never calls ``check``.
        self._thread = Thread(target=self._run, name="s2s-generation", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[], Result]) -> Result:
        """Return the work's result or raise its error; raise ``BusyError`` at once where the queue is full.

        If the caller is cancelled, the work is removed from the queue, or ends at its next ``check``.
        """
        self.check_room()
        task = Task(work)
        self.waiting += 1
        try:
            with self._changed:
                self._queue.append(task)
                self._changed.notify()
            return await task.future
        finally:
            self.waiting -= 1
            task.left = True
            with self._changed:
                if task in self._queue:
                    self._queue.remove(task)

    def check_room(self) -> None:
        """Raise ``BusyError`` where the queue is full or the server is ending."""
        if self._ending is not None:
            raise BusyError("the server is ending")
        if self.waiting >= self.most_waiting:
            raise BusyError(f"{self.waiting} requests are waiting already; try again later")

    def check(self) -> None:
        """Raise an ``EndedError`` if the running work has to end; only the work itself calls this."""
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
        """Refuse new work and end the running one after ``GRACE`` seconds; safe to call in a signal handler."""
        self._ending = time.monotonic() + GRACE

    def close(self) -> bool:
        """End the running work at its next ``check``, drop the rest, and return whether the thread ended in time."""
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
            except BaseException as raised:  # of any kind: its client gets it, and the thread survives
                result, error = None, raised
            self._running = None
            task.settle(result, error)
            # Without this, the last result and the frames of its traceback would stay in memory while the thread waits.
            del task, result, error

    def _next(self) -> Task[Any] | None:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return None if not self._queue else self._queue.popleft()


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the work's result; if the client leaves before, cancel the work and raise ``LeftError``.

    The request's body must have been read: the next message is then the disconnection.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LeftError("the client has left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # Awaited, or asyncio would log an error that nobody has retrieved.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
