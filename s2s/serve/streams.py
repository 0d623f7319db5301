"""Greedy decoding whose tokens are answered as they come, a line of JSON each."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Event
from typing import Any

from s2s.errors import UserError
from s2s.found import streamed
from s2s.run import Run
from s2s.search.method import SearchMethod
from s2s.search_keys import with_keys
from s2s.serve.worker import Worker

Line = dict[str, Any]


def greedy_settings(run: Run, keys: dict[str, Any]) -> SearchMethod:
    """The settings of a stream; raises ``UserError`` for keys that cannot be, and for more beams than one."""
    for name, only in (("name", "beam"), ("beams", 1), ("n_best", 1)):
        if keys.get(name, only) != only:
            raise UserError(f"search.{name}: a stream is greedy; leave it out, or ask /generate")
    settings = with_keys(run.recipe.search, {**keys, "name": "beam", "beams": 1, "n_best": 1}, "request")
    run.max_length(settings)
    return settings


def greedy_lines(run: Run, source: str, settings: SearchMethod) -> Iterator[Line]:
    """Give ``{"token", "piece"}`` for each token as it comes, then ``{"text", "tokens"}`` of all.

    The pieces together are the text. A line waits for the next token, since the last one also has what is left of the
    text at the end.
    """
    (ids,), _ = run.source_ids([source])
    lines, length = list[Line](), run.max_length(settings)
    for text, token, _ in streamed(run.models(settings), ids, settings.prefix, settings, length, run.kernel):
        if token is None:
            lines[-1]["piece"] += text
        else:
            yield from lines[-1:]
            lines.append({"token": token, "piece": text})
    yield from lines[-1:]
    yield {"text": "".join(line["piece"] for line in lines), "tokens": [line["token"] for line in lines]}


async def as_they_come(worker: Worker, lines: Callable[[], Iterator[Line]]) -> AsyncIterator[str]:
    """The lines that the worker computes; it stops when nobody listens, and an error is the last line."""
    loop, waiting, gone = asyncio.get_running_loop(), asyncio.Queue[Line | None](), Event()

    def work() -> None:
        for line in lines():
            if gone.is_set():
                return
            loop.call_soon_threadsafe(waiting.put_nowait, line)

    task = asyncio.create_task(worker.do(work))
    task.add_done_callback(lambda _: waiting.put_nowait(None))
    try:
        while (line := await waiting.get()) is not None:
            yield json.dumps(line, ensure_ascii=False) + "\n"
        if (error := task.exception()) is not None:
            yield json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n"
    finally:
        gone.set()
