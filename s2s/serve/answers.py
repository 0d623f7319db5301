"""A run as the server holds it: its weights laid out for decoding once, and searches that the worker can end."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from s2s.inference.generate import ModelEnsemble
from s2s.inference.generate import answer as search
from s2s.inference.results import Hypothesis, hypotheses
from s2s.machine.matmul import kernel
from s2s.runs.run import Run
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import reader
from s2s.search.methods.keys import plain
from s2s.serve.costs import PART, scored_bytes
from s2s.vocabulary.base import Reader
from s2s.vocabulary.reports import unknowns


class Served:
    """A run and its models; each search calls ``check`` at its steps, and ends with what that raises."""

    def __init__(self, run: Run, check: Callable[[], object]) -> None:
        self.run, self.check = run, check
        self._models = replace(run.models(run.recipe.search), check=check)
        _ = self._models.packed  # now: no request waits for it, and none is charged with its memory

    def models(self, settings: SearchMethod) -> ModelEnsemble:
        """Return the models in the settings' precision; another than the run's own is laid out for this search."""
        wanted = self.run.models(settings).precision
        return self._models if wanted == self._models.precision else replace(self._models, precision=wanted)


def answer(served: Served, source: str, settings: SearchMethod) -> dict[str, Any]:
    """Return the hypotheses of a source as the decoder writes them, each with what the model thinks of its tokens.

    ``log_probs`` holds the log-probability of each token given those before it, ``end_log_prob`` that of the end after
    the last, and ``pieces`` each token's share of the text. Raises ``UserError`` for settings that cannot be.
    """
    run = served.run
    (ids, cut), read = run.source_ids([source]), reader(settings, run.vocabulary)
    with kernel(run.kernel):
        found = search(served.models(settings), ids, settings, run.max_length(settings), lambda _: None)[0]
    rows = hypotheses(read, found)
    listed = []
    for hypothesis, (*log_probs, end) in zip(rows, scored(run, source, rows, served.check), strict=True):
        served.check()
        fields = {
            **hypothesis._asdict(),
            "score": finite(hypothesis.score),
            "pieces": pieces(read, hypothesis.tokens),
            "log_probs": [finite(value) for value in log_probs],
            "end_log_prob": finite(end),
        }
        listed.append(fields)
    lost = {"source_was_cut": bool(cut), "source_unknown_pieces": unknowns(run.vocabulary, [source], ids).pieces}
    return {"source": source, "hypotheses": listed, "settings": plain(settings), **lost}


def scored(run: Run, source: str, found: Sequence[Hypothesis], check: Callable[[], object]) -> list[list[float]]:
    """Return the log-probability of each token of each hypothesis and of its end, a few hypotheses at a time."""
    if not found:
        return []
    (ids,), _ = run.source_ids([source])
    longest = max(len(hypothesis.tokens) for hypothesis in found) + 1
    size = max(1, PART // scored_bytes(run.model.shape, len(ids), longest))
    rows: list[list[float]] = []
    for start in range(0, len(found), size):
        check()
        chunk = [hypothesis.tokens for hypothesis in found[start : start + size]]
        rows += [row.tolist() for row in run.score([source] * len(chunk), chunk)]
    return rows


def pieces(reader: Reader, tokens: Sequence[int]) -> list[str]:
    """Return what each token adds to the text; together they are the text."""
    return reader.shares(tokens)


def finite(value: float) -> float | None:
    """Return the number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None
