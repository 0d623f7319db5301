"""New scores for given hypotheses: token by token, under a second scorer, or with a coverage penalty."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from s2s.search.hypotheses import Hypothesis, for_each_source
from s2s.search.scorer import Scorer, State

LEAST = 1e-12
"""The least weight of attention, so that a token without any has a finite logarithm."""
Attention = Callable[[list[list[Hypothesis]]], list[list[Tensor]]]
"""A function that gives the weights [steps, tokens] of each hypothesis for its source's tokens; the end is a step."""


@torch.no_grad()
def token_scores(
    scorer: Scorer[State], candidates: Sequence[Sequence[Sequence[int]]], max_length: int | Sequence[int]
) -> list[list[list[float]]]:
    """Return the log-probabilities of each candidate's tokens and of its end, as [source][candidate][token].

    A candidate of ``max_length`` tokens or more has none for an end, as in a search. For hypotheses of a search with
    the same scorer they sum to the sums that it ranked.

    All candidates are fed to the scorer at once. Like a search, it needs a rectangle: S live sources with K rows each,
    K being the greatest number of candidates of a source. Rows without a candidate, and those whose candidate is at its
    end, are fed the end token, and their log-probabilities are ignored.
    """
    longest = for_each_source("max_length", max_length, scorer.sources)
    if len(candidates) != scorer.sources:
        raise ValueError(f"candidates of {len(candidates)} sources for {scorer.sources}")
    targets = [
        [[*tokens] if len(tokens) >= length else [*tokens, scorer.end] for tokens in rows]
        for rows, length in zip(candidates, longest, strict=True)
    ]
    scores: list[list[list[float]]] = [[[] for _ in rows] for rows in targets]
    steps = [max(map(len, rows), default=0) for rows in targets]
    width = max(map(len, targets), default=0)
    # The first step has one row for each source: its log-probabilities are those of all the source's candidates.
    live, rows, state = list(range(scorer.sources)), 1, scorer.start()
    tokens = torch.full((scorer.sources,), scorer.begin)
    for step in range(max(steps, default=0)):
        log_probs, state = scorer.step(tokens, state)
        table = log_probs.unflatten(0, (len(live), rows))
        for index, source in enumerate(live):
            for number, target in enumerate(targets[source]):
                if step < len(target):
                    scores[source][number].append(float(table[index, number % rows, target[step]]))
        kept = [index for index, source in enumerate(live) if steps[source] > step + 1]
        if not kept:
            break
        picked = [index * rows + number % rows for index in kept for number in range(width)]
        state = scorer.reorder(state, torch.tensor(picked, device=log_probs.device))
        live, rows = [live[index] for index in kept], width
        padded = ([*targets[source], *[[]] * (width - len(targets[source]))] for source in live)
        following = [row[step] if step < len(row) else scorer.end for source in padded for row in source]
        tokens = torch.tensor(following, device=log_probs.device)
    return scores


def rerank(
    scorer: Scorer[State],
    hypotheses: Sequence[Sequence[Hypothesis]],
    max_length: int | Sequence[int],
    weight: float = 1.0,
) -> list[list[Hypothesis]]:
    """Sort each source's hypotheses by (1 - ``weight``) * score + ``weight`` * log-probability under a second scorer.

    At a weight of 0 the scores do not change; equal ones keep their order.
    """
    scores = token_scores(scorer, [[tokens for tokens, _ in rows] for rows in hypotheses], max_length)
    return [
        best_first(
            (tokens, (1 - weight) * score + weight * sum(new))
            for (tokens, score), new in zip(rows, others, strict=True)
        )
        for rows, others in zip(hypotheses, scores, strict=True)
    ]


def coverage_penalty(attention: Tensor, strength: float) -> float:
    """Return ``strength`` * sum over source tokens of log(min(1, sum over steps of the token's share of attention)).

    ``attention`` is [steps, tokens]; shares of a step sum to 1. The penalty is at most 0, and 0 for an empty source (Wu
    et al. 2016, "Google's Neural Machine Translation System", eq. 14, where the strength is beta).
    """
    if not attention.numel():
        return 0.0
    # The weights of begin, end and target are left out, so those of a step do not sum to 1 yet.
    weights = attention.double().clamp(min=LEAST)
    shares = weights / weights.sum(dim=1, keepdim=True)
    return strength * float(shares.sum(dim=0).clamp(max=1.0).log().sum())


def covered(
    hypotheses: Sequence[Sequence[Hypothesis]], attention: Attention, strength: float
) -> list[list[Hypothesis]]:
    """Add coverage penalties to the scores of hypotheses, and sort them best first."""
    rows = [list(source) for source in hypotheses]
    return [
        best_first(
            (tokens, score + coverage_penalty(weights, strength))
            for (tokens, score), weights in zip(*pair, strict=True)
        )
        for pair in zip(rows, attention(rows), strict=True)
    ]


def best_first(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Return hypotheses by descending scores; equal ones keep their order."""
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis[1])
