"""What is answered: hypotheses with the probability of each token."""

import math
from collections.abc import Sequence
from typing import Any

from s2s.run import Run
from s2s.search.rules import reader
from s2s.search_keys import plain, with_keys
from s2s.vocabulary.base import Reader


def answer(run: Run, source: str, keys: dict[str, Any]) -> dict[str, Any]:
    """The hypotheses of a source as the decoder writes them, each with what the model thinks of its tokens.

    ``log_probs`` holds the log-probability of each token given those before it, ``end_log_prob`` that of the end behind
    the last, and ``pieces`` each token's share of the text. Raises ``UserError`` for settings that cannot be.
    """
    settings = with_keys(run.recipe.search, keys, "request")
    read = reader(settings, run.vocabulary)
    found = run.search([source], settings, lambda _: None)[0]
    rows = run.score([source] * len(found), [hypothesis.tokens for hypothesis in found])
    hypotheses = [
        {
            **hypothesis._asdict(),
            "score": finite(hypothesis.score),
            "pieces": pieces(read, hypothesis.tokens),
            "log_probs": [finite(value) for value in row.tolist()[:-1]],
            "end_log_prob": finite(float(row[-1])),
        }
        for hypothesis, row in zip(found, rows, strict=True)
    ]
    cut = len(run.vocabulary.encode(source)) > run.recipe.data.max_source - 2
    return {"source": source, "hypotheses": hypotheses, "settings": plain(settings), "source_was_cut": cut}


def pieces(reader: Reader, tokens: Sequence[int]) -> list[str]:
    """Return what each token adds to the text; together they are the text."""
    return reader.shares(tokens)


def finite(value: float) -> float | None:
    """The number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None
