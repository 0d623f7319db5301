"""What a scorer thinks of given hypotheses: token by token, and their order under a second scorer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s2s.search.hypotheses import Hypothesis, one_by_one
from s2s.search.scorer import Scorer, State


@torch.no_grad()
def token_scores(
    scorer: Scorer[State], candidates: Sequence[Sequence[Sequence[int]]], max_length: int | Sequence[int]
) -> list[list[list[float]]]:
    """The log-probabilities of each source's candidates, one a token and one for the end.

    A candidate of ``max_length`` tokens or more has none for an end, as in a search. Of what a search with the same
    scorer found, they sum to what it ranked.
    """
    longest = one_by_one("max_length", max_length, scorer.sources)
    if len(candidates) != scorer.sources:
        raise ValueError(f"candidates of {len(candidates)} sources for {scorer.sources}")
    fed = [
        [[*row] if len(row) >= length else [*row, scorer.end] for row in rows]
        for rows, length in zip(candidates, longest, strict=True)
    ]
    scores: list[list[list[float]]] = [[[] for _ in rows] for rows in fed]
    width = max(map(len, fed), default=0)
    live, slots, state = list(range(scorer.sources)), 1, scorer.start()
    tokens = torch.full((scorer.sources,), scorer.begin)
    for step in range(max((len(row) for rows in fed for row in rows), default=0)):
        log_probs, state = scorer.step(tokens, state)
        for place, source in enumerate(live):
            gather(log_probs[place * slots :][:slots], fed[source], step, scores[source])
        kept = [place for place, source in enumerate(live) if max(map(len, fed[source]), default=0) > step + 1]
        index = [place * slots + slot % slots for place in kept for slot in range(width)]
        live, slots = [live[place] for place in kept], width
        if not live:
            break
        state = scorer.reorder(state, torch.tensor(index, device=log_probs.device))
        following = [token_at(fed[source], slot, step, scorer.end) for source in live for slot in range(width)]
        tokens = torch.tensor(following, device=log_probs.device)
    return scores


def gather(log_probs: Tensor, rows: list[list[int]], step: int, scores: list[list[float]]) -> None:
    """Append the log-probability of each row's token at ``step``; ``log_probs`` [K or 1, V] are one source's."""
    table = log_probs.expand(max(len(rows), len(log_probs)), -1)
    for slot, row in enumerate(rows):
        if step < len(row):
            scores[slot].append(float(table[slot, row[step]]))


def token_at(rows: list[list[int]], slot: int, step: int, otherwise: int) -> int:
    """The token of a slot at a step, ``otherwise`` behind a row's end and in slots without one."""
    return rows[slot][step] if slot < len(rows) and step < len(rows[slot]) else otherwise


def rerank(
    scorer: Scorer[State], found: Sequence[Sequence[Hypothesis]], max_length: int | Sequence[int], weight: float = 1.0
) -> list[list[Hypothesis]]:
    """The hypotheses by (1 - ``weight``) * score + ``weight`` * summed log-probability under a second scorer.

    At 0 the scores stay; equal ones keep their order.
    """
    scores = token_scores(scorer, [[tokens for tokens, _ in rows] for rows in found], max_length)
    mixed = [
        [(tokens, (1 - weight) * score + weight * sum(new)) for (tokens, score), new in zip(rows, others, strict=True)]
        for rows, others in zip(found, scores, strict=True)
    ]
    return [sorted(rows, key=lambda hypothesis: -hypothesis[1]) for rows in mixed]


LEAST = 1e-12
Attention = Callable[[list[list[Hypothesis]]], list[list[Tensor]]]
"""Of each source's hypotheses how each step weighs the source's own tokens, [steps, tokens]; the end is a step."""


def coverage_penalty(attention: Tensor, strength: float) -> float:
    """``strength`` * sum over source tokens of log(min(1, sum over steps of their share of the step's attention)).

    ``attention`` is [steps, tokens]; shares of a step sum to 1. At most 0, and 0 for an empty source (Wu et al. 2016,
    "Google's Neural Machine Translation System", eq. 14, with beta for the strength).
    """
    if not attention.numel():
        return 0.0
    weights = attention.double().clamp(min=LEAST)
    shares = weights / weights.sum(dim=1, keepdim=True)
    return strength * float(shares.sum(dim=0).clamp(max=1.0).log().sum())


def covered(found: Sequence[Sequence[Hypothesis]], attention: Attention, strength: float) -> list[list[Hypothesis]]:
    """The hypotheses with their coverage penalties added to their scores, best first."""
    rows = [list(hypotheses) for hypotheses in found]
    scored = [
        [(tokens, score + coverage_penalty(weights, strength)) for (tokens, score), weights in zip(*pair, strict=True)]
        for pair in zip(rows, attention(rows), strict=True)
    ]
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis[1]) for hypotheses in scored]


def mean_of(parts: Sequence[Tensor]) -> Tensor:
    """The mean of several models' attention."""
    return torch.stack(list(parts)).mean(dim=0)
