"""Decoding whose tokens can be read as they come: greedy, or one sample."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.search.hypotheses import NotANumberError, one_by_one
from s2s.search.sampling import check, draw, proposal, uniform_numbers
from s2s.search.scorer import Scorer, State
from s2s.search.truncation import Filter

Pick = Callable[[Tensor, list[int], int], Tensor]
"""Log-probabilities [N, V] of the live sources, their numbers, and the step, to a token each [N]."""


class StreamedToken(NamedTuple):
    """A token of a source, and its log-probability under the scorer."""

    source: int
    token: int
    log_prob: float


def greedy_stream(scorer: Scorer[State], max_length: int | Sequence[int]) -> Iterator[tuple[int, int]]:
    """The likeliest token of each source that goes on, as (source, token), step by step and sources in order.

    No end is given: a source has ended when no token of it comes in a step. Of each source together they are what
    ``beam_search`` finds with one beam, but where no token is possible nothing tells that from an end. Raises
    ValueError for a log-probability that is NaN.
    """
    return ((told.source, told.token) for told in stream(scorer, max_length, likeliest))


def sample_stream(
    scorer: Scorer[State],
    max_length: int | Sequence[int],
    seeds: Sequence[int],
    temperature: float = 1.0,
    filters: Sequence[Filter] = (),
) -> Iterator[StreamedToken]:
    """The tokens of each source's first sample, the one that ``sample_search`` draws with the same settings."""
    check(1, temperature, seeds, scorer.sources)
    longest = one_by_one("max_length", max_length, scorer.sources)
    numbers = uniform_numbers(seeds, 1, max(longest, default=0))

    def pick(log_probs: Tensor, live: list[int], step: int) -> Tensor:
        hopeless = log_probs.amax(dim=1, keepdim=True) == -torch.inf  # any token will do: it ends the source
        offered = proposal(log_probs.masked_fill(hopeless, 0.0)[:, None], temperature, filters)
        return draw(offered, numbers[live, :, step].to(log_probs.device))[0][:, 0]

    return stream(scorer, longest, pick)


@torch.no_grad()
def stream(scorer: Scorer[State], max_length: int | Sequence[int], pick: Pick) -> Iterator[StreamedToken]:
    """The token that is picked for each source that goes on, step by step and sources in order, without ends."""
    longest = one_by_one("max_length", max_length, scorer.sources)
    if not any(longest):
        return
    live, state = list(range(scorer.sources)), scorer.start()
    tokens = torch.full((scorer.sources,), scorer.begin)
    for step in range(max(longest)):
        log_probs, state = scorer.step(tokens, state)
        if bool(log_probs.isnan().any()):
            raise NotANumberError(f"log-probability is NaN at step {step + 1}")
        tokens = pick(log_probs, live, step)
        scores = log_probs.gather(1, tokens[:, None])[:, 0]
        possible = (scores > -torch.inf) & (tokens != scorer.end)
        going = [row for row, goes in enumerate(possible.tolist()) if goes and step < longest[live[row]]]
        yield from (StreamedToken(live[row], int(tokens[row]), float(scores[row])) for row in going)
        kept = [row for row in going if step + 1 < longest[live[row]]]
        if not kept:
            return
        index = torch.tensor(kept, device=log_probs.device)
        live, tokens, state = [live[row] for row in kept], tokens[index], scorer.reorder(state, index)


def likeliest(log_probs: Tensor, _: list[int], __: int) -> Tensor:
    """The likeliest token of each row."""
    return log_probs.argmax(dim=1)
