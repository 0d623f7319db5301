"""Diverse beam search: groups of beams, each of which avoids the tokens that the groups before it took.

A group depends only on the groups before it, so the groups are searched one after another, each as a whole.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.search.beam import Rules, search, too_early
from s2s.search.hypotheses import Hypotheses, Hypothesis, expand, expansion_sums, for_each_source
from s2s.search.length_scores import LengthScore, PowerPenalty, nothing_better_can_come
from s2s.search.scorer import Scorer, State


@torch.no_grad()
def diverse_beam_search(
    scorer: Scorer[State],
    groups: int,
    beams: int,
    max_length: int | Sequence[int],
    strength: float,
    n_best: int = 1,
    length_penalty: float | LengthScore = 0.0,
    min_length: int | Sequence[int] = 0,
) -> list[list[list[Hypothesis]]]:
    """Return the hypotheses of ``groups`` beam searches with ``beams`` beams, as [source][group][n best].

    A group ranks its expansions by their sums minus ``strength`` (in nats) times the number of times that the groups
    before it took the same token, or the end, at the same step (Vijayakumar et al. 2018, "Diverse Beam Search", with
    the Hamming diversity). The penalty only decides which expansions are kept; sums and scores do not have it. A group
    whose search of a source has stopped takes no more tokens. The first group, and at a strength of 0 every one, is
    plain beam search. Two groups may find the same hypothesis. Raises ValueError as ``beam_search`` does, and for
    settings out of range.
    """
    if groups < 1 or not 0 <= strength < math.inf:
        raise ValueError(f"groups must be at least 1 and strength at least 0, got {groups} and {strength}")
    longest = for_each_source("max_length", max_length, scorer.sources)
    shortest = for_each_source("min_length", min_length, scorer.sources)
    score = PowerPenalty(length_penalty) if isinstance(length_penalty, int | float) else length_penalty
    rules = Rules(scorer.end, beams, n_best, score, longest, shortest, nothing_better_can_come)
    diversity = Diversity(scorer.sources, strength)
    # Each step is looked at, on a GPU too: a group that has stopped may take no token that later groups would avoid.
    results = [search(scorer, rules, diversity, look_every=1) for _ in range(groups)]
    return [[group[source] for group in results] for source in range(scorer.sources)]


class Diversity:
    """A choice of expansions by penalised sums, which counts the chosen tokens of each source at each step."""

    def __init__(self, sources: int, strength: float) -> None:
        self.sources, self.strength = sources, strength
        self.taken: list[Tensor] = []  # [sources, V] for each step

    def __call__(self, live: Hypotheses, log_probs: Tensor, rules: Rules) -> tuple[Hypotheses, Tensor]:
        """Return the expansions with the greatest penalised sums, with their sums without the penalty."""
        sums = expansion_sums(live, log_probs)
        if (early := too_early(live, rules, sums.device)) is not None:
            sums[:, :, rules.end].masked_fill_(early[:, None], -torch.inf)
        # The first group to reach a step adds its table; later groups add to it.
        if live.length == len(self.taken):
            self.taken.append(sums.new_zeros(self.sources, sums.size(2)))
        taken = self.taken[live.length]
        rows = torch.tensor(live.sources, device=sums.device)
        best, parents = expand(live, sums - self.strength * taken[rows, None], rules.beams)
        tokens = best.tokens[:, :, -1]
        unpenalised = sums.flatten(0, 1)[parents, tokens]
        # An empty place, whose sum is -inf, has taken no token.
        counts = torch.zeros_like(taken[rows]).scatter_add(1, tokens, (unpenalised > -torch.inf).to(taken.dtype))
        taken.index_add_(0, rows, counts)
        return best._replace(sums=unpenalised), parents
