"""Decoding that yields tokens one by one: greedy, or one sample."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.search.hypotheses import NotANumberError, for_each_source
from s2s.search.sampling import check, draw, proposal, uniform_numbers
from s2s.search.scorer import Scorer, State
from s2s.search.truncation import Filter

Pick = Callable[[Tensor, list[int], int], Tensor]
"""A function of log-probabilities [N, V] of the live sources, their numbers, and the step, that picks tokens [N]."""


class StreamedToken(NamedTuple):
    """A token of a source, and its log-probability under the scorer."""

    source: int
    token: int
    log_prob: float


def greedy_stream(scorer: Scorer[State], max_length: int | Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the likeliest token of each unfinished source, as (source, token), step by step and sources in order.

    The end is not yielded: a source has ended when a step has no token of it. A source's tokens are the hypothesis that
    ``beam_search`` finds with one beam, except that an end looks the same as a step without any possible token. Raises
    ValueError for a log-probability that is NaN.
    """
    return ((token.source, token.token) for token in stream(scorer, max_length, likeliest))


def sample_stream(
    scorer: Scorer[State],
    max_length: int | Sequence[int],
    seeds: Sequence[int],
    temperature: float = 1.0,
    filters: Sequence[Filter] = (),
) -> Iterator[StreamedToken]:
    """Yield the tokens of each source's first sample, the one that ``sample_search`` draws with the same settings."""
    check(1, temperature, seeds, scorer.sources)
    longest = for_each_source("max_length", max_length, scorer.sources)
    numbers = uniform_numbers(seeds, 1, max(longest, default=0))

    def pick(log_probs: Tensor, live: list[int], step: int) -> Tensor:
        stuck = log_probs.amax(dim=1, keepdim=True) == -torch.inf  # any token will do: ``stream`` drops the source
        proposed = proposal(log_probs.masked_fill(stuck, 0.0)[:, None], temperature, filters)
        return draw(proposed, numbers[live, :, step].to(log_probs.device))[0][:, 0]

    return stream(scorer, longest, pick)


@torch.no_grad()
def stream(scorer: Scorer[State], max_length: int | Sequence[int], pick: Pick) -> Iterator[StreamedToken]:
    """Yield the token that ``pick`` chooses for each unfinished source, step by step and sources in order, no ends."""
    longest = for_each_source("max_length", max_length, scorer.sources)
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
        growing = [row for row, is_token in enumerate(possible.tolist()) if is_token and step < longest[live[row]]]
        yield from (StreamedToken(live[row], int(tokens[row]), float(scores[row])) for row in growing)
        # A source that is now full has yielded its last token; its next step could only give an end.
        kept = [row for row in growing if step + 1 < longest[live[row]]]
        if not kept:
            return
        index = torch.tensor(kept, device=log_probs.device)
        live, tokens, state = [live[row] for row in kept], tokens[index], scorer.reorder(state, index)


def likeliest(log_probs: Tensor, _: list[int], __: int) -> Tensor:
    """Return the likeliest token of each row."""
    return log_probs.argmax(dim=1)
