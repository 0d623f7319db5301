"""Greedy decoding whose tokens are answered as they come, a line of JSON each."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from fastapi import Request

from s2s.errors import UserError
from s2s.inference.results import streamed
from s2s.search.methods.base import SearchMethod
from s2s.serve.answers import Served
from s2s.serve.keys import settings_of
from s2s.serve.refusals import line as one_line
from s2s.serve.worker import EndedError, LeftError, Worker, unless_left

Line = dict[str, Any]


def greedy_settings(own: SearchMethod, keys: Mapping[str, Any]) -> SearchMethod:
    """Return the settings of a stream; raises ``UserError`` for keys that cannot be, and for more beams than one."""
    for name, only in (("name", "beam"), ("beams", 1), ("n_best", 1)):
        if keys.get(name, only) not in (only, str(only)):
            raise UserError(f"search.{name}: a stream is greedy; leave it out, or ask /generate")
    return settings_of(own, {**keys, "name": "beam", "beams": 1, "n_best": 1})


def greedy_lines(served: Served, source: str, settings: SearchMethod) -> Iterator[Line]:
    """Give ``{"token", "piece"}`` for each token as it comes, then ``{"text", "tokens"}`` of all.

    The pieces together are the text. A line waits for the next token, since the last one also has what is left of the
    text at the end.
    """
    run = served.run
    (ids,), _ = run.source_ids([source])
    lines, length, models = list[Line](), run.max_length(settings), served.models(settings)
    for text, token, _ in streamed(models, ids, settings.prefix, settings, length, run.kernel):
        if token is None:
            lines[-1]["piece"] += text
        else:
            yield from lines[-1:]
            lines.append({"token": token, "piece": text})
    yield from lines[-1:]
    yield {"text": "".join(line["piece"] for line in lines), "tokens": [line["token"] for line in lines]}


async def as_they_come(request: Request, worker: Worker, lines: Callable[[], Iterator[Line]]) -> AsyncIterator[str]:
    """Give the lines that the worker computes; an error is the last line, and the work ends where the client leaves.

    Lines wait for a client that reads slowly. They are few, one a token, so the line needs no end of its own.
    """
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[Line | None]()

    def work() -> None:
        for line in lines():
            loop.call_soon_threadsafe(waiting.put_nowait, line)

    task = asyncio.create_task(unless_left(request, worker.do(work)))
    task.add_done_callback(lambda _: waiting.put_nowait(None))
    try:
        while (line := await waiting.get()) is not None:
            yield json.dumps(line, ensure_ascii=False) + "\n"
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LeftError):
            reason = str(error) if isinstance(error, EndedError | UserError) else f"{type(error).__name__}: {error}"
            yield json.dumps({"error": one_line(reason)}) + "\n"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
