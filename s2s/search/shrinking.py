"""The beam search of Su's article on exposure bias, whose beams shrink."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.search.hypotheses import Hypotheses, Hypothesis, begin, expand, expansion_sums, for_each_source, survive
from s2s.search.scorer import Scorer, State

FLOOR = 1e-12
"""The article's addend to probabilities before their logarithm."""


@torch.no_grad()
def shrinking_beam_search(
    scorer: Scorer[State], beams: int, max_length: int | Sequence[int], never: Sequence[int] = ()
) -> list[list[Hypothesis]]:
    """Return the hypothesis with which the search of each source ends, as (tokens without begin and end, score).

    Scores are sums of log(p + 1e-12), without a length penalty. A source is finished when its likeliest hypothesis has
    ended. Any other hypothesis that ends is dropped, and the beam is narrower by one from then on, so it may drop the
    best hypothesis. At ``max_length`` tokens the likeliest counts as it is. Use ``beam_search`` for good results; this
    search is for comparison with the article's numbers (Su 2020, kexue.fm 7259, as its scripts decode). The tokens
    ``never`` are in no hypothesis. Raises ValueError for settings out of range and for a log-probability that is NaN.
    """
    if beams < 1:
        raise ValueError(f"beams must be at least 1, got {beams}")
    longest = for_each_source("max_length", max_length, scorer.sources)
    finished: dict[int, Hypothesis] = {source: ([], 0.0) for source, length in enumerate(longest) if not length}
    if not scorer.sources:
        return []
    widths = [beams] * scorer.sources
    live, state = begin(scorer.begin, longest), scorer.start()
    for _ in range(max(longest)):
        log_probs, state = scorer.step(live.tokens[:, :, -1].flatten(), state)
        raised = (log_probs.exp() + FLOOR).log()
        raised[:, list(never)] = -math.inf  # after the floor, which makes every token possible
        best, rows = expand(live, expansion_sums(live, raised), beams)
        growing = narrow(best, widths)
        unfinished = finish(growing, finished, longest, scorer.end)
        if not unfinished:
            break
        live, rows = survive(drop(growing, widths, scorer.end), rows, unfinished, beams)
        state = scorer.reorder(state, rows)
    return [[finished[source]] for source in range(scorer.sources)]


def narrow(best: Hypotheses, widths: list[int]) -> Hypotheses:
    """Empty the places beyond the present width of each source's beam; ``best`` are sorted."""
    width = torch.tensor([widths[source] for source in best.sources], device=best.sums.device)
    beyond = torch.arange(best.sums.size(1), device=best.sums.device) >= width[:, None]
    return best._replace(sums=best.sums.masked_fill(beyond, -math.inf))


def finish(growing: Hypotheses, finished: dict[int, Hypothesis], longest: list[int], end: int) -> list[int]:
    """Add the best hypotheses that have ended or are full to ``finished``; return the rows of the other sources."""
    unfinished = []
    # ``expand`` sorts, so the likeliest hypothesis of a source has place 0.
    best = zip(growing.tokens[:, 0].tolist(), growing.sums[:, 0].tolist(), strict=True)
    for row, (source, (tokens, total)) in enumerate(zip(growing.sources, best, strict=True)):
        if source in finished:
            continue
        if tokens[-1] == end:
            finished[source] = tokens[1:-1], total
        elif growing.length == longest[source]:
            finished[source] = tokens[1:], total
        else:
            unfinished.append(row)
    return unfinished


def drop(growing: Hypotheses, widths: list[int], end: int) -> Hypotheses:
    """Empty the places of hypotheses that have ended, and narrow ``widths`` by their number, in place."""
    ended: Tensor = (growing.tokens[:, :, -1] == end) & (growing.sums > -math.inf)
    left = ((growing.sums > -math.inf) & ~ended).sum(dim=1).tolist()
    for source, lost, count in zip(growing.sources, ended.any(dim=1).tolist(), left, strict=True):
        widths[source] = count if lost else widths[source]
    return growing._replace(sums=growing.sums.masked_fill(ended, -math.inf))
