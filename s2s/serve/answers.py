"""Answers: all hypotheses of a source at once, or one greedy hypothesis streamed token by token."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request

from s2s.errors import UserError
from s2s.inference.generate import ModelEnsemble
from s2s.inference.generate import answer as search
from s2s.inference.results import Hypothesis, hypotheses, streamed
from s2s.machine.paths import computing
from s2s.runs.run import Run
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import reader
from s2s.search.methods.keys import plain
from s2s.serve.costs import PART, scored_bytes
from s2s.serve.middleware import one_line
from s2s.serve.questions import settings_of
from s2s.serve.worker import EndedError, LeftError, Worker, unless_left
from s2s.vocabulary.reports import unknowns


class Served:
    """A run with its weights laid out for decoding once; searches call ``check`` at each step, which may end them."""

    def __init__(self, run: Run, check: Callable[[], object]) -> None:
        self.run, self.check = run, check
        self._models = replace(run.models(run.recipe.search), check=check)
        with computing(run.paths):
            _ = self._models.packed  # at the start, so that no request waits for it or is refused for its memory

    def models(self, settings: SearchMethod) -> ModelEnsemble:
        """Return the models in the settings' precision; one that is not the run's own is prepared for this search."""
        wanted = self.run.models(settings).precision
        return self._models if wanted == self._models.precision else replace(self._models, precision=wanted)


def answer(served: Served, source: str, settings: SearchMethod) -> dict[str, Any]:
    """Return the hypotheses of a source as the decoder writes them, with probabilities for the page.

    ``log_probs`` has the log-probability of each token given those before it, ``end_log_prob`` that of the end after
    the last, and ``pieces`` each token's share of the text. Raises ``UserError`` for impossible settings.
    """
    run = served.run
    (ids, cut), read = run.source_ids([source]), reader(settings, run.vocabulary)
    with computing(run.paths):
        results = search(served.models(settings), ids, settings, run.max_length(settings), lambda _: None)[0]
    rows = hypotheses(read, results)
    shown = []
    for hypothesis, (*log_probs, end) in zip(rows, _scored(run, source, rows, served.check), strict=True):
        served.check()
        fields = {
            **hypothesis._asdict(),
            "score": _finite(hypothesis.score),
            "pieces": read.shares(hypothesis.tokens),
            "log_probs": [_finite(value) for value in log_probs],
            "end_log_prob": _finite(end),
        }
        shown.append(fields)
    lost = {"source_was_cut": bool(cut), "source_unknown_pieces": unknowns(run.vocabulary, [source], ids).pieces}
    return {"source": source, "hypotheses": shown, "settings": plain(settings), **lost}


def _scored(run: Run, source: str, hypotheses: Sequence[Hypothesis], check: Callable[[], object]) -> list[list[float]]:
    """Return the log-probabilities of the tokens of each hypothesis and of its end."""
    if not hypotheses:
        return []
    (ids,), _ = run.source_ids([source])
    longest = max(len(hypothesis.tokens) for hypothesis in hypotheses) + 1
    # In parts of limited memory, which ``costs`` counts, and with a chance to end between them.
    size = max(1, PART // scored_bytes(run.model.shape, len(ids), longest))
    rows: list[list[float]] = []
    for start in range(0, len(hypotheses), size):
        check()
        chunk = [hypothesis.tokens for hypothesis in hypotheses[start : start + size]]
        rows += [row.tolist() for row in run.score([source] * len(chunk), chunk)]
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def greedy_settings(defaults: SearchMethod, keys: Mapping[str, Any]) -> SearchMethod:
    """Return the settings of a stream, as ``settings_of`` does; raises ``UserError`` for more beams than one."""
    for name, only in (("name", "beam"), ("beams", 1), ("n_best", 1)):
        if keys.get(name, only) not in (only, str(only)):
            raise UserError(f"search.{name}: a stream is greedy; leave it out, or ask /generate")
    return settings_of(defaults, {**keys, "name": "beam", "beams": 1, "n_best": 1})


def greedy_lines(served: Served, source: str, settings: SearchMethod) -> Iterator[dict[str, Any]]:
    """Yield ``{"token", "piece"}`` for each token, then ``{"text", "tokens"}`` of all; the pieces make up the text."""
    run = served.run
    (ids,), _ = run.source_ids([source])
    length, models = run.max_length(settings), served.models(settings)
    # A line waits for the next token: the text that remains at the end is added to the piece of the last one.
    lines = list[dict[str, Any]]()
    for text, token, _ in streamed(models, ids, settings.prefix, settings, length, run.paths):
        if token is None:
            lines[-1]["piece"] += text
        else:
            yield from lines[-1:]
            lines.append({"token": token, "piece": text})
    yield from lines[-1:]
    yield {"text": "".join(line["piece"] for line in lines), "tokens": [line["token"] for line in lines]}


async def as_json_lines(
    request: Request, worker: Worker, lines: Callable[[], Iterator[dict[str, Any]]]
) -> AsyncIterator[str]:
    """Yield lines of JSON as the worker computes them, until the client leaves; an error is the last line."""
    # The queue has no limit: the lines that wait for a slow client are few, one for each token.
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

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
