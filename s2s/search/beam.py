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

from s2s.search.hypotheses import (
    Hypotheses,
    Hypothesis,
    begin,
    expand_best,
    for_each_source,
    nan_at,
    on_device,
    on_host,
    survive,
)
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


LOOK = 10
"""The steps of a GPU from one look at its results to the next.

The host waits at a look until the GPU has done all its work, and gives it no other meanwhile. In return, the rows of a
source that stops between two looks are computed up to the second one.
"""


def search(
    scorer: Scorer[State], rules: Rules, choose: Choose | None = None, look_every: int | None = None
) -> list[list[Hypothesis]]:
    """Return the ``n_best`` hypotheses of each source among those that ``choose`` keeps.

    The search looks at the results of ``look_every`` steps at a time: by default 1 on a processor and ``LOOK`` on a
    GPU. It then reads them in their order, and those of a source only until this stops, so that the hypotheses are
    those of a look at each step, for every ``LengthScore`` and ``Stop``.
    """
    if scorer.sources == 0:
        return []
    live, state = begin(scorer.begin, rules.max_length), scorer.start()
    finished: list[list[Hypothesis]] = [[] if longest else [([], 0.0)] for longest in rules.max_length]
    unseen: list[Hypotheses] = []
    for length in range(1, max(rules.max_length) + 1):
        log_probs, state = scorer.step(live.tokens[:, :, -1].flatten(), state)
        best, rows = (choose or choose_best)(live, log_probs, rules)
        unseen.append(best)
        # A source that is full is finished without a look; a further step might be beyond its model's positions.
        unfinished = [row for row, source in enumerate(best.sources) if length < rules.max_length[source]]
        if not unfinished or len(unseen) >= (look_every or (LOOK if best.sums.is_cuda else 1)):
            unfinished = look(unseen, finished, rules)
            unseen = []
        # The last step is followed by no ``reorder``, as ``Scorer`` promises.
        if not unfinished:
            break
        live, rows = survive(without_ended(best, rules.end), rows, unfinished, rules.beams)
        state = scorer.reorder(state, rows)
    return finished


def choose_best(live: Hypotheses, log_probs: Tensor, rules: Rules) -> tuple[Hypotheses, Tensor]:
    """Return the expansions with the greatest sums, for log-probabilities [S * K, V], and the rows they expand."""
    return expand_best(live, log_probs, rules.beams, too_early(live, rules, log_probs.device), rules.end)


def too_early(live: Hypotheses, rules: Rules, device: torch.device) -> Tensor | None:
    """Return a mask [S] of the sources whose hypotheses may not end yet, or None where there are none."""
    early = [live.length < rules.min_length[source] for source in live.sources]
    return on_device(torch.tensor(early), device) if any(early) else None


def without_ended(best: Hypotheses, end: int) -> Hypotheses:
    """Return the hypotheses with empty places for those that have ended."""
    return best._replace(sums=best.sums.masked_fill(best.tokens[:, :, -1] == end, -math.inf))


def look(unseen: list[Hypotheses], finished: list[list[Hypothesis]], rules: Rules) -> list[int]:
    """Move hypotheses of some steps that have ended or are full to ``finished``, in place.

    Returns the rows of the last step whose sources have live hypotheses and do not stop. Raises a NotANumberError for a
    sum of theirs that is NaN.
    """
    stopped: set[int] = set()
    for best in on_host(unseen):
        # In Python, for a few numbers a source: a handful of operations of torch would take as long.
        tokens = best.tokens.numpy()
        tables = zip(best.sources, tokens, tokens[:, :, -1].tolist(), best.sums.tolist(), strict=True)
        for source, hypotheses, last, sums in tables:
            if source in stopped:
                continue
            full, greatest = best.length == rules.max_length[source], -math.inf
            for index, (token, total) in enumerate(zip(last, sums, strict=True)):
                if math.isnan(total):
                    raise nan_at(best.length, source)
                if total > -math.inf and (full or token == rules.end):
                    collect(hypotheses[index].tolist(), total, finished[source], rules)
                elif total > greatest:
                    greatest = total
            if greatest == -math.inf or stops(greatest, best.length, source, finished[source], rules):
                stopped.add(source)
    return [row for row, source in enumerate(unseen[-1].sources) if source not in stopped]


def collect(tokens: list[int], total: float, pool: list[Hypothesis], rules: Rules) -> None:
    """Add a hypothesis, begin first, to a source's ``n_best`` best, in place."""
    bare = tokens[1:-1] if tokens[-1] == rules.end else tokens[1:]
    # Equal scores keep the order in which they were met: ``insort`` inserts after them.
    insort(pool, (bare, rules.score(total, len(tokens) - 1)), key=lambda hypothesis: -hypothesis[1])
    del pool[rules.n_best :]


def stops(greatest: float, length: int, source: int, pool: list[Hypothesis], rules: Rules) -> bool:
    """Return whether the search of a source stops whose live hypotheses have at most the sum ``greatest``."""
    worst = pool[rules.n_best - 1][1] if len(pool) == rules.n_best else -math.inf
    # Before ``min_length`` the shortest length is too small, but then nothing has finished, so no stop reads it.
    return rules.stop(SearchStatus(greatest, length + 1, rules.max_length[source], worst, rules.score))
