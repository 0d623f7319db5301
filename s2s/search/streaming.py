"""Greedy decoding whose tokens can be read as they come."""

from collections.abc import Iterator, Sequence

import torch

from s2s.search.hypotheses import one_by_one
from s2s.search.scorer import Scorer, State


@torch.no_grad()
def greedy_stream(scorer: Scorer[State], max_length: int | Sequence[int]) -> Iterator[tuple[int, int]]:
    """The likeliest token of each source that goes on, as (source, token), step by step and sources in order.

    No end is given: a source has ended when no token of it comes in a step. Of each source together they are what
    ``beam_search`` finds with one beam, but where no token is possible nothing tells that from an end. Raises
    ValueError for a log-probability that is NaN.
    """
    longest = one_by_one("max_length", max_length, scorer.sources)
    if not any(longest):
        return
    live, state = list(range(scorer.sources)), scorer.start()
    tokens = torch.full((scorer.sources,), scorer.begin)
    for step in range(max(longest)):
        log_probs, state = scorer.step(tokens, state)
        best = log_probs.max(dim=1)
        if bool(best.values.isnan().any()):
            raise ValueError(f"log-probability is NaN at step {step + 1}")
        possible = (best.values > -torch.inf) & (best.indices != scorer.end)
        going = [row for row, goes in enumerate(possible.tolist()) if goes and step < longest[live[row]]]
        yield from ((live[row], token) for row, token in zip(going, best.indices[going].tolist(), strict=True))
        kept = [row for row in going if step + 1 < longest[live[row]]]
        if not kept:
            return
        index = torch.tensor(kept, device=log_probs.device)
        live, tokens, state = [live[row] for row in kept], best.indices[index], scorer.reorder(state, index)
