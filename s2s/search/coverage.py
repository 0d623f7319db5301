"""The coverage penalty: hypotheses that leave parts of their source unread are worth less."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s2s.search.hypotheses import Hypothesis

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
