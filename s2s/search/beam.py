"""Beam search over any scorer, many sources at once.

A source has one beam: all expansions of its live hypotheses are ranked by summed log-probability and the best few are
taken, whether they end or go on. One beam is thus greedy decoding, and a beam as wide as the space is exhaustive.
A source is left as soon as no better hypothesis can come from it (Huang, Zhao and Ma, 2017, "When to Finish?").
"""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from s2s.search.scorer import Scorer, State

Hypothesis = tuple[list[int], float]


@torch.no_grad()
def beam_search(
    scorer: Scorer[State],
    beams: int,
    max_length: int | Sequence[int],
    n_best: int = 1,
    length_penalty: float = 0.0,
    min_length: int | Sequence[int] = 0,
) -> list[list[Hypothesis]]:
    """The ``n_best`` best hypotheses found for each source, best first, as (tokens without begin and end, score).

    The score is (sum of log-probabilities, the end's included) / length ** ``length_penalty``, where the end counts in
    the length. ``max_length`` and ``min_length`` count tokens without the end, for all sources or one by one: a
    hypothesis of ``max_length`` tokens counts as it is, without an end, and the end may not come before ``min_length``
    tokens. At a ``max_length`` of 0 the one hypothesis is the empty one, of score 0. A source gets fewer hypotheses,
    or none, where the beam met no more that are possible. Sums are kept in float32, or float64 if the scorer gives
    that; equal sums are taken in the order of ``torch.topk``, which promises none. Raises ValueError for settings out
    of range and for a log-probability that is NaN.
    """
    max_lengths = one_by_one("max_length", max_length, scorer.sources)
    min_lengths = one_by_one("min_length", min_length, scorer.sources)
    rules = Rules(scorer.end, beams, n_best, length_penalty, max_lengths, min_lengths)
    if scorer.sources == 0:
        return []
    live, state = begin(scorer.begin, max_lengths), scorer.start()
    found: list[list[Hypothesis]] = [[] if longest else [([], 0.0)] for longest in max_lengths]
    for _ in range(max(max_lengths)):
        log_probs, state = scorer.step(live.tokens[:, :, -1].flatten(), state)
        best, rows = expand(live, log_probs, rules)
        growing = collect(best, found, rules)
        unfinished = open_rows(growing, found, rules)
        if not unfinished:
            break
        live, rows = survive(growing, rows, unfinished, beams)
        state = scorer.reorder(state, rows)
    return found


@dataclass(frozen=True)
class Rules:
    """The settings of one search, the lengths a list with a value a source."""

    end: int
    beams: int
    n_best: int
    length_penalty: float
    max_length: list[int]
    min_length: list[int]

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, got {self.beams}")
        if not 1 <= self.n_best <= self.beams:
            raise ValueError(f"n_best must be from 1 to beams = {self.beams}, got {self.n_best}")

    def score(self, total: float, length: int) -> float:
        """The score of a finished hypothesis whose ``length`` log-probabilities sum to ``total``."""
        return total / length**self.length_penalty


class Hypotheses(NamedTuple):
    """Hypotheses of one length t for S sources, K slots a source; a slot whose sum is -inf is empty."""

    sources: list[int]  # [S], numbers of sources, ascending
    tokens: Tensor  # int64 [S, K, 1 + t], begin first
    sums: Tensor  # [S, K], summed log-probabilities

    @property
    def length(self) -> int:
        """How many tokens each hypothesis has, an end counted."""
        return self.tokens.size(2) - 1


def one_by_one(name: str, lengths: int | Sequence[int], sources: int) -> list[int]:
    """A length a source; ValueError if there are too few or too many, or if one is negative."""
    each = [lengths] * sources if isinstance(lengths, int) else list(lengths)
    if len(each) != sources:
        raise ValueError(f"{name} has {len(each)} values for {sources} sources")
    if min(each, default=0) < 0:
        raise ValueError(f"{name} must be at least 0, got {min(each)}")
    return each


def begin(token: int, max_length: list[int]) -> Hypotheses:
    """One hypothesis a source that has only begun, on the CPU; none for a source that may not have any tokens."""
    # Such a source goes along in the first step, so that the scorer's first reorder is always from 1 row to a beam.
    sums = torch.tensor([[0.0 if longest else -math.inf] for longest in max_length])
    return Hypotheses(list(range(len(max_length))), torch.full((len(max_length), 1, 1), token), sums)


def expand(live: Hypotheses, log_probs: Tensor, rules: Rules) -> tuple[Hypotheses, Tensor]:
    """The best expansions of each source, best first, and the row of ``live`` [S, K] that each one expands.

    Shapes: ``log_probs`` [S * K of ``live``, V]; K of the expansions is ``beams``, or all of them where that is fewer.
    """
    sources, slots = live.sums.shape
    sums = live.sums.to(log_probs.device)[:, :, None] + log_probs.unflatten(0, (sources, slots))
    check_numbers(sums, live)
    forbid(sums, live, rules)
    best, flat = sums.flatten(1).topk(min(rules.beams, sums[0].numel()))
    parents, tokens = flat // sums.size(2), flat % sums.size(2)
    rows = parents + slots * torch.arange(sources, device=flat.device)[:, None]
    histories = live.tokens.to(flat.device).flatten(0, 1)[rows]
    return Hypotheses(live.sources, torch.cat([histories, tokens[:, :, None]], dim=2), best), rows


def check_numbers(sums: Tensor, live: Hypotheses) -> None:
    """ValueError if a sum [S, K, V] is NaN, naming the step, from 1, and the source, from 0."""
    bad = sums.isnan().flatten(1).any(dim=1).tolist()
    if any(bad):
        raise ValueError(f"log-probability is NaN at step {live.length + 1}, source {live.sources[bad.index(True)]}")


def forbid(sums: Tensor, live: Hypotheses, rules: Rules) -> None:
    """Set the sums [S, K, V] of the expansions that are not allowed to -inf, in place."""
    early = [row for row, source in enumerate(live.sources) if live.length < rules.min_length[source]]
    sums[early, :, rules.end] = -math.inf


def collect(best: Hypotheses, found: list[list[Hypothesis]], rules: Rules) -> Hypotheses:
    """Put what has ended or is full into ``found``, in place; the rest, in the slots it had."""
    full = torch.tensor([best.length == rules.max_length[source] for source in best.sources], device=best.sums.device)
    final = (best.sums > -math.inf) & ((best.tokens[:, :, -1] == rules.end) | full[:, None])
    rows = final.nonzero()[:, 0].tolist()
    for row, tokens, total in zip(rows, best.tokens[final].tolist(), best.sums[final].tolist(), strict=True):
        pool = found[best.sources[row]]
        bare = tokens[1:-1] if tokens[-1] == rules.end else tokens[1:]
        insort(pool, (bare, rules.score(total, best.length)), key=lambda hypothesis: -hypothesis[1])
        del pool[rules.n_best :]
    return best._replace(sums=best.sums.masked_fill(final, -math.inf))


def bounds(growing: Hypotheses, rules: Rules) -> list[float]:
    """The best score that the live hypotheses of each source could still reach, -inf where none is live.

    A sum is at most 0 and can only fall. At a penalty p >= 0 the score sum / length ** p is thus at most what this sum
    is worth at the greatest length, and at p < 0 at the least length a hypothesis can still be finished with.
    """
    # Before the end is allowed nothing has finished, and this least length, then too small, decides nothing.
    shortest = growing.length + 1
    # A source at its greatest length has nothing live, and what -inf is divided by only must not be 0.
    longest = [max(rules.max_length[source], shortest) for source in growing.sources]
    lengths = longest if rules.length_penalty >= 0 else [shortest] * len(longest)
    totals = growing.sums.amax(dim=1).tolist()
    return [rules.score(total, length) for total, length in zip(totals, lengths, strict=True)]


def open_rows(growing: Hypotheses, found: list[list[Hypothesis]], rules: Rules) -> list[int]:
    """The rows of the sources that could still find a hypothesis better than their last of ``n_best``."""
    pools = [found[source] for source in growing.sources]
    worst = [pool[rules.n_best - 1][1] if len(pool) == rules.n_best else -math.inf for pool in pools]
    return [row for row, reachable in enumerate(bounds(growing, rules)) if reachable > worst[row]]


def survive(growing: Hypotheses, rows: Tensor, unfinished: list[int], beams: int) -> tuple[Hypotheses, Tensor]:
    """The ``unfinished`` sources alone, ``beams`` slots each, and the row of the scorer's state that each slot expands.

    An empty slot repeats the best live one of its source, with a sum of -inf: the scorer then sees a full rectangle.
    """
    picked = torch.tensor(unfinished, device=rows.device)[:, None]
    sums = pad(growing.sums[unfinished], (0, beams - rows.size(1)), value=-math.inf)
    slots = torch.arange(beams, device=rows.device).where(sums > -math.inf, sums.argmax(dim=1, keepdim=True))
    live = Hypotheses([growing.sources[row] for row in unfinished], growing.tokens[picked, slots], sums)
    return live, rows[picked, slots].flatten()
