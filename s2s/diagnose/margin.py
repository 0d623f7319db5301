"""Does a model prefer the gold target to another sentence's, late in a text too?

margin(t) = log p(y_t | x, y_<t) - log p(d_t | x, d_<t), d being another target of equal length. Where it is not above
0 the model goes on from its prefix whatever the source says, as hallucinations do. Source: Wang and Sennrich, "On
Exposure Bias, Hallucination and Domain Shift in Neural Machine Translation", 2020.
"""

from collections.abc import Sequence
from random import Random

import numpy as np

from s2s.diagnose.traces import OnProgress, Pair, no_progress, trace
from s2s.metrics.bootstrap import Interval, Numbers, bootstrap, enough, mean, weighted
from s2s.model import PrefixTransformer
from s2s.randomness import seed_of
from s2s.vocabulary import Vocabulary


def margins(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> Numbers:
    """The margin [N, tokens] in nats of each token of each target, its end included; NaN behind the end.

    A target without another one of its length has NaN only. The model is in evaluation mode.
    """
    chosen = distractors([target for _, target in pairs], seed)
    gold = trace(model, vocabulary, pairs, size)
    wrong = [
        (source, target if other is None else other) for (source, target), other in zip(pairs, chosen, strict=True)
    ]
    others = trace(model, vocabulary, wrong, size, on_progress)
    found = np.full((len(pairs), max(len(one.tokens) for one in gold)), np.nan)
    for row, one, other, text in zip(found, gold, others, chosen, strict=True):
        if text is not None:
            row[: len(one.tokens)] = one.log_probs - other.log_probs
    return found


def distractors(targets: Sequence[Sequence[int]], seed: int = 0) -> list[Sequence[int] | None]:
    """For each target another one of its length, drawn from (seed, number of the target); None where there is none."""
    found: list[Sequence[int] | None] = []
    for place, target in enumerate(targets):
        others = [other for other in targets if len(other) == len(target) and list(other) != list(target)]
        found.append(Random(seed_of(seed, "margin", place)).choice(others) if others else None)
    return found


def by_token(found: Numbers, samples: int = 1000, seed: int = 0) -> list[Interval]:
    """Return the mean margin at each token, with its 95% interval over sentences; NaN where they are too few."""
    columns = [weighted(column) for column in found.T]
    return [
        bootstrap(column, mean, samples, seed)
        if enough(column)
        else Interval(float(mean(column.sum(axis=0))), np.nan, np.nan)
        for column in columns
    ]


def first_doubt(intervals: Sequence[Interval]) -> int | None:
    """Return the first token, from 1, whose interval does not lie above 0; None where all do that there are."""
    return next((place for place, one in enumerate(intervals, start=1) if one.low <= 0), None)


def negative(found: Numbers, tokens: int | None = None) -> float:
    """The share of sentences whose first so many margins, or all of them, sum to less than 0.

    Of sentences with as many tokens; NaN where there are none.
    """
    part = found if tokens is None else found[:, :tokens]
    there = ~np.isnan(part[:, 0]) if tokens is None else ~np.isnan(part).any(axis=1)
    if not there.any() or (tokens is not None and tokens > found.shape[1]):
        return float("nan")
    return float((np.nansum(part[there], axis=1) < 0).mean())
