"""Does a text break when a word is put before its source?

Greedy texts that were good before, and are not when one frequent token is put at the start of the source, count as
hallucinations. Source: Lee et al., "Hallucinations in Neural Machine Translation", 2018, with chrF in the place of
their adjusted BLEU.
"""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from random import Random

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.metrics.bootstrap import Interval, Numbers, mean, too_few
from s2s.metrics.sentence import sentence_metric
from s2s.randomness import seed_of

FREQUENT = 100
"""The number of most frequent tokens from which the one in front is drawn."""
FIT, BROKEN = 20.0, 10.0
"""The least chrF of a good text before, and the chrF below which a text after is broken."""
SHOWN = 5
"""The most broken texts that a report shows."""


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:  # noqa: ARG001
    """Return the share of good texts that break."""
    title = "texts that break when a word is put before the source"
    return [Quantity("hallucinations", title, "share", "lower", statistics, mean)]


def statistics(run: Measurements) -> Numbers:
    """Mark for each sentence whether its text broke, and whether it was good before, [N, 2]."""
    return hallucinations(run.hypotheses, run.perturbed, run.references)


def details(run: Measurements) -> Plain:
    """Return how many texts break, with Wilson's interval where good ones are enough, and some of them."""
    marks = statistics(run)
    broken, fit = marks.sum(axis=0).tolist()
    texts = [
        {"source": run.perturbed_sources[number], "before": run.hypotheses[number], "after": run.perturbed[number]}
        for number in np.flatnonzero(marks[:, 0])[:SHOWN].tolist()
    ]
    share = wilson(broken, fit)
    if too_few(int(fit)):
        share = share._replace(low=np.nan, high=np.nan)
    return {"broken": broken, "fit": fit, **share._asdict(), "samples": texts}


def perturbed(
    sources: Sequence[Sequence[int]], limit: int, seed: int = 0, opening: int = 1, closing: int = 1
) -> list[list[int]]:
    """Insert one of the frequent tokens before the text of each source, which has ids before and after its text.

    The token is drawn from (seed, number of the source), and is not the one that was first. A source that grows beyond
    ``limit`` loses its last token before the end.
    """
    texts = [source[opening : len(source) - closing] for source in sources]
    counts = Counter(token for text in texts for token in text)
    frequent = [token for token, _ in counts.most_common(FREQUENT)]
    longer = []
    for number, (source, text) in enumerate(zip(sources, texts, strict=True)):
        others = [token for token in frequent if token not in source[opening : opening + 1]]
        # In a set of one word no other token can be put in front.
        token = Random(seed_of(seed, "perturbed source", number)).choice(others or frequent)
        room = limit - opening - closing
        longer.append([*source[:opening], *[token, *text][:room], *source[len(source) - closing :]])
    return longer


def hallucinations(before: Sequence[str], after: Sequence[str], references: Sequence[str]) -> Numbers:
    """Mark for each text whether it broke, and whether it was good before, [N, 2]."""
    chrf = sentence_metric("chrf")
    first, second = (
        np.array([100 * chrf(*pair) for pair in zip(texts, references, strict=True)]) for texts in (before, after)
    )
    fit = first >= FIT
    return np.stack([fit & (second < BROKEN), fit], axis=1).astype(float)


def wilson(hits: float, trials: float) -> Interval:
    """Return a share and its 95% score interval, which holds for few trials and shares near 0 too.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if not trials:
        return Interval(float("nan"), float("nan"), float("nan"))
    z, share = 1.959963984540054, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
