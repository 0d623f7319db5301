"""Minimum Bayes risk: choose the candidate that is most similar to the others, and so to the model's distribution.

The candidates are samples or an n-best list. Their expected utility is taken over the same candidates as pseudo
references (Eikema and Aziz 2022, "Sampling-Based Approximations to Minimum Bayes Risk Decoding").
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from s2s.metrics.sentence import sentence_metric
from s2s.metrics.tokenisation import composed

Text = TypeVar("Text", bound=str | Sequence[int])


class Decision(NamedTuple):
    """The index of the candidate with the greatest expected utility (the first of equal ones), and all utilities."""

    best: int
    utilities: list[float]


def minimum_bayes_risk(
    candidates: Sequence[Text],
    utility: Callable[[Text, Text], float] | None = None,
    weights: Sequence[float] | None = None,
) -> Decision:
    """Choose by sum over j of weight_j * ``utility`` (candidate_i, candidate_j), with weights scaled to sum to 1.

    ``utility`` (hypothesis, reference) is sentence chrF unless given, which reads texts. It is called once for each
    pair of different candidates, so the time grows with the square of their number. The weights are equal unless given.
    Raises ValueError where there is no candidate, and for weights that are negative or all 0.
    """
    shares = normalised(weights, len(candidates))
    scored: Callable[[Any, Any], float] = utility or sentence_metric("chrf")
    merged: dict[str | tuple[int, ...], tuple[Text, float]] = {}
    for candidate, share in zip(candidates, shares, strict=True):
        key = identity(candidate)
        merged[key] = candidate, share + (merged[key][1] if key in merged else 0.0)
    expected = {
        key: sum(share * scored(candidate, reference) for reference, share in merged.values() if share)
        for key, (candidate, _) in merged.items()
    }
    return _decide([expected[identity(candidate)] for candidate in candidates])


def aggregate_bayes_risk(
    candidates: Sequence[Text], weights: Sequence[float] | None = None, order: int = 6, beta: float = 2.0
) -> Decision:
    """Choose by chrF against all candidates at once, whose n-gram counts are averaged: in linear time.

    An n-gram of a candidate matches at most the number of times that it comes in candidates on average (DeNero et al.
    2009, "Fast Consensus Decoding over Translation Forests"; Vamvas and Sennrich 2024, "Linear-time Minimum Bayes Risk
    Decoding with Reference Aggregation"). With one candidate, or equal ones, this is sacrebleu's sentence chrF: n-grams
    up to ``order`` of a text's characters without white space, or of tokens; F of ``beta`` from the precisions and
    recalls averaged over the orders that both sides have. Raises ValueError as ``minimum_bayes_risk`` does.
    """
    shares = normalised(weights, len(candidates))
    counted = [ngram_counts(candidate, order) for candidate in candidates]
    average: list[dict[Sequence[int] | str, float]] = [{} for _ in range(order)]
    for counts, share in zip(counted, shares, strict=True):
        for total, counter in zip(average, counts, strict=True):
            for ngram, count in counter.items():
                total[ngram] = total.get(ngram, 0.0) + share * count
    sizes = [sum(total.values()) for total in average]
    return _decide([f_score(counts, average, sizes, beta) for counts in counted])


def _decide(utilities: list[float]) -> Decision:
    return Decision(utilities.index(max(utilities)), utilities)


def identity(candidate: str | Sequence[int]) -> str | tuple[int, ...]:
    """Return a key that equal candidates share."""
    return candidate if isinstance(candidate, str) else tuple(candidate)


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the weights divided by their sum."""
    given = [1.0] * count if weights is None else list(weights)
    if (
        not count
        or len(given) != count
        or not all(0 <= weight < math.inf for weight in given)
        or not 0 < sum(given) < math.inf
    ):
        raise ValueError(f"{count} candidates need one weight each, none negative and not all 0, not {given}")
    return [weight / sum(given) for weight in given]


def ngram_counts(candidate: str | Sequence[int], order: int) -> list[Counter[Sequence[int] | str]]:
    """Return the counts of n-grams, a counter for each length from 1 to ``order``."""
    items = "".join(composed(candidate).split()) if isinstance(candidate, str) else tuple(candidate)
    sizes = range(1, order + 1)
    return [Counter(items[start : start + size] for start in range(len(items) - size + 1)) for size in sizes]


def f_score(
    counts: list[Counter[Sequence[int] | str]],
    average: list[dict[Sequence[int] | str, float]],
    sizes: list[float],
    beta: float,
) -> float:
    """Return a candidate's chrF in [0, 1] against averaged counts, whose sums are ``sizes``; 0 without a match."""
    ratios = []
    for counter, total, size in zip(counts, average, sizes, strict=True):
        if counter and size:
            matched = sum(min(count, total.get(ngram, 0.0)) for ngram, count in counter.items())
            ratios.append((matched / sum(counter.values()), matched / size))
    precision, recall = (sum(column) / len(ratios) for column in zip(*ratios, strict=True)) if ratios else (0.0, 0.0)
    if not precision + recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
