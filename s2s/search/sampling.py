"""Samples from any scorer, many sources at once; a token's random number depends on seed, sample and position only.

Shapes: S live sources, K samples of each, t tokens of each sample so far, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.randomness import Draws, seed_of
from s2s.search.hypotheses import NotANumberError, for_each_source
from s2s.search.scorer import Scorer, State
from s2s.search.truncation import Filter

COLD, COLDEST = 1e-3, 1e-30
"""The temperature below which quotients could overflow float32, and the one below which nothing changes any more."""


class Sample(NamedTuple):
    """A sampled hypothesis, its tokens without begin and end."""

    tokens: list[int]
    score: float  # its summed log-probability under the scorer
    proposal: float  # the same under the distribution it was drawn from, after temperature and filters


class Growing(NamedTuple):
    """The samples of the unfinished sources."""

    sources: list[int]  # [S] the numbers of the sources, ascending
    tokens: Tensor  # int64 [S, K, t]
    sums: Tensor  # float64 [S, K, 2] score and proposal
    alive: Tensor  # bool [S, K]


@torch.no_grad()
def sample_search(
    scorer: Scorer[State],
    samples: int,
    max_length: int | Sequence[int],
    seeds: Sequence[int],
    temperature: float = 1.0,
    filters: Sequence[Filter] = (),
) -> list[list[Sample]]:
    """Draw ``samples`` independent samples for each source; a source's samples depend on its seed, not on the batch.

    The log-probabilities are divided by ``temperature`` and normalised, and normalised again after each filter, in
    order. A token is drawn with the random number of (seed, sample, position), so that more samples or a greater length
    do not change the others. At ``max_length`` tokens, for all sources or for each, a sample counts as it is, without
    an end. A sample for which no token is possible is left out, so that a source may get fewer samples or none. Raises
    ValueError for settings out of range and for a log-probability that is NaN.
    """
    longest = for_each_source("max_length", max_length, scorer.sources)
    check(samples, temperature, seeds, scorer.sources)
    empty = Sample([], 0.0, 0.0)
    if not any(longest):
        return [[empty] * samples for _ in longest]
    results: list[list[Sample | None]] = [[empty] * samples for _ in longest]
    numbers = uniform_numbers(seeds, samples, max(longest))
    live, state, last = begin(longest, samples), scorer.start(), torch.full((scorer.sources,), scorer.begin)
    for step in range(max(longest)):
        log_probs, state = scorer.step(last, state)
        # The first step has one row for each source, the others one for each sample.
        table = log_probs.unflatten(0, (len(live.sources), -1)).expand(-1, samples, -1)
        live, table = give_up(live, table, results)
        drawn = draw(proposal(table, temperature, filters), numbers[:, :, step][live.sources].to(table.device))
        live = grow(live, table, *drawn)
        live = finish(live, results, longest, scorer.end)
        unfinished = live.alive.any(dim=1).nonzero()[:, 0]
        if not len(unfinished):
            break
        index, live = survive(live, unfinished, log_probs.size(0) // len(live.sources))
        state, last = scorer.reorder(state, index), live.tokens[:, :, -1].flatten()
    return [[sample for sample in rows if sample is not None] for rows in results]


def give_up(live: Growing, table: Tensor, results: list[list[Sample | None]]) -> tuple[Growing, Tensor]:
    """Give up samples for which no token is possible: None in ``results``, and rows of zeros, which can be drawn."""
    stuck = (table == -math.inf).all(dim=2)
    if not bool(stuck.any()):
        return live, table
    lost = stuck.to(live.alive.device) & live.alive
    for row, sample in lost.nonzero().tolist():
        results[live.sources[row]][sample] = None
    return live._replace(alive=live.alive & ~lost), table.masked_fill(stuck[:, :, None], 0.0)


def check(samples: int, temperature: float, seeds: Sequence[int], sources: int) -> None:
    """Raise a ValueError for settings out of range."""
    if samples < 1 or not 0 < temperature < math.inf:
        raise ValueError(f"samples must be at least 1 and temperature positive, got {samples} and {temperature}")
    if len(seeds) != sources:
        raise ValueError(f"seeds has {len(seeds)} values for {sources} sources")


def uniform_numbers(seeds: Sequence[int], samples: int, longest: int) -> Tensor:
    """Return uniform numbers [sources, K, longest], each a function of (seed, sample, position)."""
    rows = [seed_of(seed, "sample", sample) for seed in seeds for sample in range(samples)]
    numbers = Draws(torch.tensor(rows, dtype=torch.int64), "sample_search").uniform("tokens", longest)
    return numbers.view(len(seeds), samples, longest)


def begin(longest: list[int], samples: int) -> Growing:
    """Return samples without tokens, on the CPU; those of length 0 are not alive."""
    sources, shape = list(range(len(longest))), (len(longest), samples)
    alive = torch.tensor(longest)[:, None].expand(shape) > 0
    return Growing(sources, torch.empty(*shape, 0, dtype=torch.int64), torch.zeros(*shape, 2).double(), alive)


def proposal(table: Tensor, temperature: float, filters: Sequence[Filter]) -> Tensor:
    """Return the log-probabilities [S, K, V] to draw from."""
    rows = table.flatten(0, 1)
    if temperature < COLD:  # the greatest one becomes 0, so that it stays finite when divided
        rows = rows - rows.amax(dim=1, keepdim=True)
    log_probs = (rows / max(temperature, COLDEST)).log_softmax(dim=1)
    for cut in filters:
        log_probs = cut(log_probs).log_softmax(dim=1)
    return log_probs.view(table.shape)


def draw(log_probs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens [S, K] at which the cumulative probability passes the numbers, and their log-probabilities."""
    # In double: float32's sums near 1 would swallow tokens of less than about 6e-8.
    passed = log_probs.double().exp().cumsum(dim=2)
    if bool(passed.isnan().any()):
        raise NotANumberError("no token is possible, or a log-probability is NaN")
    # The rounded sum may be below 1. Numbers are scaled by it, so that none is beyond the last possible token.
    wanted = numbers.double() * passed[:, :, -1]
    tokens = torch.searchsorted(passed, wanted[:, :, None].contiguous(), right=True)
    return tokens[:, :, 0], log_probs.gather(2, tokens)[:, :, 0]


def grow(live: Growing, table: Tensor, tokens: Tensor, proposed: Tensor) -> Growing:
    """Return the samples with one more token."""
    gained = torch.stack([table.gather(2, tokens[:, :, None])[:, :, 0].double(), proposed.double()], dim=2)
    histories = torch.cat([live.tokens.to(tokens.device), tokens[:, :, None]], dim=2)
    return Growing(live.sources, histories, live.sums.to(tokens.device) + gained, live.alive.to(tokens.device))


def finish(live: Growing, results: list[list[Sample | None]], longest: list[int], end: int) -> Growing:
    """Put samples that have ended or are full into ``results``, in place; the others stay alive."""
    length = live.tokens.size(2)
    full = torch.tensor([length == longest[source] for source in live.sources], device=live.alive.device)
    final = live.alive & ((live.tokens[:, :, -1] == end) | full[:, None])
    indices = final.nonzero().tolist()
    for (row, sample), tokens, sums in zip(
        indices, live.tokens[final].tolist(), live.sums[final].tolist(), strict=True
    ):
        results[live.sources[row]][sample] = Sample(tokens[:-1] if tokens[-1] == end else tokens, *sums)
    return live._replace(alive=live.alive & ~final)


def survive(live: Growing, unfinished: Tensor, rows: int) -> tuple[Tensor, Growing]:
    """Return the unfinished sources' samples, and for each the scorer's row, of ``rows`` for each source.

    A finished sample repeats the first unfinished one of its source, so that the scorer always sees a full rectangle.
    """
    alive = live.alive[unfinished]
    chosen = torch.arange(alive.size(1), device=alive.device).where(alive, alive.int().argmax(dim=1, keepdim=True))
    picked = unfinished[:, None]
    # Right after the first step a source has one row in the scorer, which all its samples continue.
    index = picked * rows + chosen % rows
    sources = [live.sources[row] for row in unfinished.tolist()]
    return index.flatten(), Growing(sources, live.tokens[picked, chosen], live.sums[picked, chosen], alive)
