"""What is answered: hypotheses with the probability of each token."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from s2s.found import Hypothesis, hypotheses
from s2s.matmul import kernel
from s2s.run import Run
from s2s.search.generation import answer as search
from s2s.search.method import SearchMethod
from s2s.search.rules import reader
from s2s.search_keys import plain
from s2s.serve.costs import PART, scored_bytes
from s2s.serve.served import Served
from s2s.vocabulary.base import Reader
from s2s.vocabulary.losses import unknowns


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
