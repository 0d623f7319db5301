"""Does a text break when a word is put before its source?

Greedy texts that were fit before, and are not when one frequent token stands at the start of the source, are counted
as hallucinations. Source: Lee et al., "Hallucinations in Neural Machine Translation", 2018, with chrF in the place of
their adjusted BLEU.
"""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from random import Random

import numpy as np

from s2s.metrics.bootstrap import Interval, Numbers
from s2s.metrics.sentence import sentence_metric
from s2s.randomness import seed_of

FREQUENT = 100
"""The token is one of so many most frequent ones."""
FIT, BROKEN = 20.0, 10.0
"""chrF of at least so much before, and below so much after."""


def perturbed(sources: Sequence[Sequence[int]], limit: int, seed: int = 0) -> list[list[int]]:
    """Sources with begin and end, each with one of the frequent tokens put behind its begin.

    The token is drawn from (seed, number of the source), and is not the one that stands there. A source that grows
    beyond ``limit`` loses its last token before the end.
    """
    counts = Counter(token for source in sources for token in source[1:-1])
    frequent = [token for token, _ in counts.most_common(FREQUENT)]
    found = []
    for place, source in enumerate(sources):
        others = [token for token in frequent if token != source[1]]
        token = Random(seed_of(seed, "perturbed source", place)).choice(others or frequent)
        inside = [token, *source[1:-1]][: limit - 2]
        found.append([source[0], *inside, source[-1]])
    return found


def hallucinations(before: Sequence[str], after: Sequence[str], references: Sequence[str]) -> Numbers:
    """Statistics [N, 2] for ``mean``: whether a text broke, and whether it was fit before."""
    chrf = sentence_metric("chrf")
    first, second = (
        np.array([100 * chrf(*pair) for pair in zip(texts, references, strict=True)]) for texts in (before, after)
    )
    fit = first >= FIT
    return np.stack([fit & (second < BROKEN), fit], axis=1).astype(float)


def wilson(hits: float, trials: float) -> Interval:
    """A share and its 95% score interval, which holds for few trials and shares near 0 too.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if not trials:
        return Interval(float("nan"), float("nan"), float("nan"))
    z, share = 1.959963984540054, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
