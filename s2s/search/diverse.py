"""Diverse beam search: groups of beams, each of which avoids the tokens that the groups before it took.

What a group takes depends on the groups before it only, so that the groups are searched one after the other.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.search.beam import Rules, search, too_early
from s2s.search.hypotheses import Hypotheses, Hypothesis, expand, expansion_sums, one_by_one
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
    """For each source and each of its ``groups`` of ``beams`` what ``beam_search`` gives, [source][group][n best].

    A group ranks its expansions by their sums less ``strength`` (in nats) times how often the groups before it took the
    same token, or the end, at the same step (Vijayakumar et al. 2018, "Diverse Beam Search", with the Hamming
    diversity). That decides what is kept; sums and scores stay the scorer's own. A group that has left a source takes
    no more tokens. The first group, and at a strength of 0 every one, is plain beam search. Two groups may find the
    same. Raises ValueError as ``beam_search`` does, and for settings out of range.
    """
    if groups < 1 or not 0 <= strength < math.inf:
        raise ValueError(f"groups must be at least 1 and strength at least 0, got {groups} and {strength}")
    longest = one_by_one("max_length", max_length, scorer.sources)
    shortest = one_by_one("min_length", min_length, scorer.sources)
    score = PowerPenalty(length_penalty) if isinstance(length_penalty, int | float) else length_penalty
    rules = Rules(scorer.end, beams, n_best, score, longest, shortest, nothing_better_can_come)
    diversity = Diversity(scorer.sources, strength)
    found = [search(scorer, rules, diversity) for _ in range(groups)]
    return [[group[source] for group in found] for source in range(scorer.sources)]


class Diversity:
    """Chooses expansions by penalised sums, and counts the tokens it has chosen for each source at each step."""

    def __init__(self, sources: int, strength: float) -> None:
        self.sources, self.strength = sources, strength
        self.taken: list[Tensor] = []  # a step each, [sources, V]

    def __call__(self, live: Hypotheses, log_probs: Tensor, rules: Rules) -> tuple[Hypotheses, Tensor]:
        """The expansions of the best penalised sums, with the sums that they have without the penalty."""
        sums = expansion_sums(live, log_probs)
        sums[too_early(live, rules), :, rules.end] = -torch.inf
        if live.length == len(self.taken):
            self.taken.append(sums.new_zeros(self.sources, sums.size(2)))
        taken = self.taken[live.length]
        rows = torch.tensor(live.sources, device=sums.device)
        best, parents = expand(live, sums - self.strength * taken[rows, None], rules.beams)
        tokens = best.tokens[:, :, -1]
        own = sums.flatten(0, 1)[parents, tokens]
        counts = torch.zeros_like(taken[rows]).scatter_add(1, tokens, (own > -torch.inf).to(taken.dtype))
        taken.index_add_(0, rows, counts)
        return best._replace(sums=own), parents
