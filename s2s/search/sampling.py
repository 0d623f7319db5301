"""Samples from any scorer, many sources at once; each token's random number is a function of its place."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.randomness import Draws, seed_of
from s2s.search.hypotheses import NotANumberError, one_by_one
from s2s.search.scorer import Scorer, State
from s2s.search.truncation import Filter

COLD, COLDEST = 1e-3, 1e-30
"""Temperatures below which quotients could leave the range of float32, and below which all are alike."""


class Sample(NamedTuple):
    """A sampled hypothesis, its tokens without begin and end."""

    tokens: list[int]
    score: float  # its summed log-probability under the scorer
    proposal: float  # and under what it was drawn from, after temperature and filters


class Growing(NamedTuple):
    """The samples of the S sources not yet done, K a source."""

    sources: list[int]  # [S], ascending
    tokens: Tensor  # int64 [S, K, t]
    sums: Tensor  # float64 [S, K, 2], score and proposal
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
    """``samples`` independent samples a source, whose seed is its own: what else is sampled along changes nothing.

    The log-probabilities are divided by ``temperature`` and made to sum to 1, and again after each filter, in their
    order. A sample's token at a position is drawn with the number of (seed, sample, position), so that more samples or
    a greater length leave the others as they are. At ``max_length`` tokens, for all sources or one by one, a sample
    counts as it is, without an end. A sample for which no token is possible is left out, so that a source gets fewer
    samples or none. Raises ValueError for settings out of range and for a log-probability that is NaN.
    """
    longest = one_by_one("max_length", max_length, scorer.sources)
    check(samples, temperature, seeds, scorer.sources)
    found: list[list[Sample | None]] = [[Sample([], 0.0, 0.0)] * samples for _ in longest]
    if not any(longest):
        return _made(found)
    numbers = uniform_numbers(seeds, samples, max(longest))
    live, state, last = begin(longest, samples), scorer.start(), torch.full((scorer.sources,), scorer.begin)
    for step in range(max(longest)):
        log_probs, state = scorer.step(last, state)
        table = spread(log_probs, live)
        live, table = give_up(live, table, found)
        drawn = draw(proposal(table, temperature, filters), numbers[:, :, step][live.sources].to(table.device))
        live = grow(live, table, *drawn)
        live = finish(live, found, longest, scorer.end)
        unfinished = live.alive.any(dim=1).nonzero()[:, 0]
        if not len(unfinished):
            break
        rows, live = survive(live, unfinished, log_probs.size(0) // len(live.sources))
        state, last = scorer.reorder(state, rows), live.tokens[:, :, -1].flatten()
    return _made(found)


def _made(found: list[list[Sample | None]]) -> list[list[Sample]]:
    """Return each source's samples without those that were given up."""
    return [[sample for sample in rows if sample is not None] for rows in found]


def give_up(live: Growing, table: Tensor, found: list[list[Sample | None]]) -> tuple[Growing, Tensor]:
    """Take samples out, in place, for which no token is possible; their rows of the table become even."""
    stuck = (table == -math.inf).all(dim=2)
    if not bool(stuck.any()):
        return live, table
    lost = stuck.to(live.alive.device) & live.alive
    for row, slot in lost.nonzero().tolist():
        found[live.sources[row]][slot] = None
    return live._replace(alive=live.alive & ~lost), table.masked_fill(stuck[:, :, None], 0.0)


def check(samples: int, temperature: float, seeds: Sequence[int], sources: int) -> None:
    """ValueError for settings out of range."""
    if samples < 1 or not 0 < temperature < math.inf:
        raise ValueError(f"samples must be at least 1 and temperature positive, got {samples} and {temperature}")
    if len(seeds) != sources:
        raise ValueError(f"seeds has {len(seeds)} values for {sources} sources")


def uniform_numbers(seeds: Sequence[int], samples: int, longest: int) -> Tensor:
    """Uniform numbers [B, K, T], each a function of (seed, sample, position)."""
    rows = [seed_of(seed, "sample", sample) for seed in seeds for sample in range(samples)]
    numbers = Draws(torch.tensor(rows, dtype=torch.int64), "sample_search").uniform("tokens", longest)
    return numbers.view(len(seeds), samples, longest)


def begin(longest: list[int], samples: int) -> Growing:
    """Samples without tokens, on the CPU; those that may not have any are not alive."""
    sources, shape = list(range(len(longest))), (len(longest), samples)
    alive = torch.tensor(longest)[:, None].expand(shape) > 0
    return Growing(sources, torch.empty(*shape, 0, dtype=torch.int64), torch.zeros(*shape, 2).double(), alive)


def spread(log_probs: Tensor, live: Growing) -> Tensor:
    """The log-probabilities [S, K, V] of each sample, from rows [S, V] at the first step and [S * K, V] after it."""
    sources, samples = live.alive.shape
    return log_probs.unflatten(0, (sources, -1)).expand(sources, samples, log_probs.size(1))


def proposal(table: Tensor, temperature: float, filters: Sequence[Filter]) -> Tensor:
    """The log-probabilities [S, K, V] to draw from."""
    rows = table.flatten(0, 1)
    if temperature < COLD:  # what is divided by it must not leave the range of its type
        rows = rows - rows.amax(dim=1, keepdim=True)
    log_probs = (rows / max(temperature, COLDEST)).log_softmax(dim=1)
    for cut in filters:
        log_probs = cut(log_probs).log_softmax(dim=1)
    return log_probs.view(table.shape)


def draw(log_probs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The token [S, K] at which the distribution function passes the number [S, K], and its log-probability."""
    passed = log_probs.double().exp().cumsum(dim=2)
    if bool(passed.isnan().any()):
        raise NotANumberError("no token is possible, or a log-probability is NaN")
    # A number times the sum is below it: what rounding the sum has left of 1 belongs to no impossible token.
    wanted = numbers.double() * passed[:, :, -1]
    tokens = torch.searchsorted(passed, wanted[:, :, None].contiguous(), right=True)
    return tokens[:, :, 0], log_probs.gather(2, tokens)[:, :, 0]


def grow(live: Growing, table: Tensor, tokens: Tensor, proposed: Tensor) -> Growing:
    """The samples with one more token."""
    gained = torch.stack([table.gather(2, tokens[:, :, None])[:, :, 0].double(), proposed.double()], dim=2)
    histories = torch.cat([live.tokens.to(tokens.device), tokens[:, :, None]], dim=2)
    return Growing(live.sources, histories, live.sums.to(tokens.device) + gained, live.alive.to(tokens.device))


def finish(live: Growing, found: list[list[Sample | None]], longest: list[int], end: int) -> Growing:
    """Put what has ended or is full into ``found``, in place; the rest stays alive."""
    length = live.tokens.size(2)
    full = torch.tensor([length == longest[source] for source in live.sources], device=live.alive.device)
    final = live.alive & ((live.tokens[:, :, -1] == end) | full[:, None])
    places = final.nonzero().tolist()
    for (row, slot), tokens, sums in zip(places, live.tokens[final].tolist(), live.sums[final].tolist(), strict=True):
        found[live.sources[row]][slot] = Sample(tokens[:-1] if tokens[-1] == end else tokens, *sums)
    return live._replace(alive=live.alive & ~final)


def survive(live: Growing, unfinished: Tensor, slots: int) -> tuple[Tensor, Growing]:
    """The scorer's row for each slot of the unfinished sources, ``slots`` a source before, and their samples.

    A slot that is done repeats the first one of its source that is not: the scorer then sees a full rectangle.
    """
    alive = live.alive[unfinished]
    own = torch.arange(alive.size(1), device=alive.device).where(alive, alive.int().argmax(dim=1, keepdim=True))
    rows = unfinished[:, None] * slots + own % slots
    picked = unfinished[:, None]
    sources = [live.sources[row] for row in unfinished.tolist()]
    return rows.flatten(), Growing(sources, live.tokens[picked, own], live.sums[picked, own], alive)
