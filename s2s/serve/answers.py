"""What is answered: hypotheses with the probability of each token."""

import math
from collections.abc import Sequence
from typing import Any

from s2s.run import Run
from s2s.search_keys import plain, with_keys
from s2s.vocabulary import Vocabulary


def answer(run: Run, source: str, keys: dict[str, Any]) -> dict[str, Any]:
    """The hypotheses of a source as the decoder writes them, each with what the model thinks of its tokens.

    ``log_probs`` holds the log-probability of each token given those before it, ``end_log_prob`` that of the end behind
    the last, and ``pieces`` each token's share of the text. Raises ``UserError`` for settings that cannot be.
    """
    settings = with_keys(run.recipe.search, keys, "request")
    found = run.search([source], settings, lambda _: None)[0]
    rows = run.score([source] * len(found), [hypothesis.tokens for hypothesis in found])
    hypotheses = [
        {
            **hypothesis._asdict(),
            "score": finite(hypothesis.score),
            "pieces": pieces(run.vocabulary, hypothesis.tokens),
            "log_probs": [finite(value) for value in row.tolist()[:-1]],
            "end_log_prob": finite(float(row[-1])),
        }
        for hypothesis, row in zip(found, rows, strict=True)
    ]
    cut = len(run.vocabulary.encode(source)) > run.recipe.data.max_source - 2
    return {"source": source, "hypotheses": hypotheses, "settings": plain(settings), "source_was_cut": cut}


def pieces(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text of those before it; together they are the text, but where it is rewritten."""
    found, before = list[str](), ""
    for count in range(1, len(tokens) + 1):
        text = vocabulary.decode(tokens[:count])
        added = text[len(before) :] if text.startswith(before) else vocabulary.decode(tokens[count - 1 : count])
        found.append(added)
        before = text
    return found


def finite(value: float) -> float | None:
    """The number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None
