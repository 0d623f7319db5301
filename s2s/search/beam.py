"""Beam search over any scorer, many sources at once.

A source has one beam: all expansions of its live hypotheses are ranked by summed log-probability and the best few are
kept, whether they end or not. One beam is thus greedy decoding, and a beam as wide as the space is exhaustive. The
search of a source stops as soon as no better hypothesis can come, unless another ``stop`` is given.
"""

import math
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.search.hypotheses import Hypotheses, Hypothesis, begin, expand_best, for_each_source, survive
from s2s.search.length_scores import LengthScore, PowerPenalty, SearchStatus, Stop, nothing_better_can_come
from s2s.search.scorer import Scorer, State

Choose = Callable[[Hypotheses, Tensor, "Rules"], tuple[Hypotheses, Tensor]]
"""A function like ``choose_best``: it chooses expansions in any order, and returns them with their unchanged sums."""


@torch.no_grad()
def beam_search(
    scorer: Scorer[State],
    beams: int,
    max_length: int | Sequence[int],
    n_best: int = 1,
    length_penalty: float | LengthScore = 0.0,
    min_length: int | Sequence[int] = 0,
    stop: Stop = nothing_better_can_come,
) -> list[list[Hypothesis]]:
    """Return the ``n_best`` best hypotheses of each source, best first, as (tokens without begin and end, score).

    The score is (sum of log-probabilities, the end's included) / length ** ``length_penalty``, where the end counts in
    the length, or the value of a ``LengthScore`` of the two. ``max_length`` and ``min_length`` count tokens without the
    end, for all sources or for each: a hypothesis of ``max_length`` tokens counts as it is, without an end, and the end
    may not come before ``min_length`` tokens. At a ``max_length`` of 0 the only hypothesis is the empty one, of score
    0. A source gets fewer hypotheses, or none, where the beam met no more that are possible. Sums are kept in float32,
    or float64 if the scorer gives that; equal sums are taken in the order of ``torch.topk``, which promises none.
    Raises ValueError for settings out of range and for a log-probability that is NaN.
    """
    max_lengths = for_each_source("max_length", max_length, scorer.sources)
    min_lengths = for_each_source("min_length", min_length, scorer.sources)
    score = PowerPenalty(length_penalty) if isinstance(length_penalty, int | float) else length_penalty
    return search(scorer, Rules(scorer.end, beams, n_best, score, max_lengths, min_lengths, stop))


@dataclass(frozen=True)
class Rules:
    """The settings of one search; the lengths have a value for each source."""

    end: int
    beams: int
    n_best: int
    score: LengthScore
    max_length: list[int]
    min_length: list[int]
    stop: Stop

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, got {self.beams}")
        if not 1 <= self.n_best <= self.beams:
            raise ValueError(f"n_best must be from 1 to beams = {self.beams}, got {self.n_best}")


def search(scorer: Scorer[State], rules: Rules, choose: Choose | None = None) -> list[list[Hypothesis]]:
    """Return the ``n_best`` hypotheses of each source among those that ``choose`` keeps."""
    if scorer.sources == 0:
        return []
    live, state = begin(scorer.begin, rules.max_length), scorer.start()
    finished: list[list[Hypothesis]] = [[] if longest else [([], 0.0)] for longest in rules.max_length]
    for _ in range(max(rules.max_length)):
        log_probs, state = scorer.step(live.tokens[:, :, -1].flatten(), state)
        best, rows = (choose or choose_best)(live, log_probs, rules)
        growing = collect(best, finished, rules)
        unfinished = open_rows(growing, finished, rules)
        # The last step is followed by no ``reorder``, as ``Scorer`` promises.
        if not unfinished:
            break
        live, rows = survive(growing, rows, unfinished, rules.beams)
        state = scorer.reorder(state, rows)
    return finished


def choose_best(live: Hypotheses, log_probs: Tensor, rules: Rules) -> tuple[Hypotheses, Tensor]:
    """Return the expansions with the greatest sums, for log-probabilities [S * K, V], and the rows they expand."""
    return expand_best(live, log_probs, rules.beams, too_early(live, rules), rules.end)


def too_early(live: Hypotheses, rules: Rules) -> list[int]:
    """Return the rows of the sources whose hypotheses may not end yet."""
    return [row for row, source in enumerate(live.sources) if live.length < rules.min_length[source]]


def collect(best: Hypotheses, finished: list[list[Hypothesis]], rules: Rules) -> Hypotheses:
    """Move hypotheses that have ended or are full to ``finished``, in place; return the others in their places."""
    full = torch.tensor([best.length == rules.max_length[source] for source in best.sources], device=best.sums.device)
    final = (best.sums > -math.inf) & ((best.tokens[:, :, -1] == rules.end) | full[:, None])
    rows = final.nonzero()[:, 0].tolist()
    if not rows:
        return best
    for row, tokens, total in zip(rows, best.tokens[final].tolist(), best.sums[final].tolist(), strict=True):
        pool = finished[best.sources[row]]
        bare = tokens[1:-1] if tokens[-1] == rules.end else tokens[1:]
        # Equal scores keep the order in which they were met: ``insort`` inserts after them.
        insort(pool, (bare, rules.score(total, best.length)), key=lambda hypothesis: -hypothesis[1])
        del pool[rules.n_best :]
    return best._replace(sums=best.sums.masked_fill(final, -math.inf))


def open_rows(growing: Hypotheses, finished: list[list[Hypothesis]], rules: Rules) -> list[int]:
    """Return the rows of the sources that have live hypotheses and whose search does not stop."""
    opened, next_length = [], growing.length + 1
    for row, total in enumerate(growing.sums.amax(dim=1).tolist()):
        source = growing.sources[row]
        pool = finished[source]
        worst = pool[rules.n_best - 1][1] if len(pool) == rules.n_best else -math.inf
        # Before ``min_length`` the shortest length is too small, but then nothing has finished, so no stop reads it.
        status = SearchStatus(total, next_length, rules.max_length[source], worst, rules.score)
        if total > -math.inf and not rules.stop(status):
            opened.append(row)
    return opened
