"""Work for a client that may leave before it is done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from s2s.serve.worker import LeftError

Result = TypeVar("Result")


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
