"""Search over many sources: batches of like length, results in the order of the sources."""

from collections.abc import Callable, Sequence

import torch

from s2s.batch import pad
from s2s.model import PrefixTransformer
from s2s.search.beam import beam_search
from s2s.search.constraints import ConstrainedScorer
from s2s.search.prefix import PrefixScorer
from s2s.search.settings import SearchSettings
from s2s.vocabulary import Vocabulary

Hypotheses = list[tuple[list[int], float]]


def generate(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    settings: SearchSettings,
    max_length: int,
    advance: Callable[[int], object],
) -> list[Hypotheses]:
    """The best hypotheses of each source, ids with begin and end; ``advance`` hears how many sources are done."""
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    found: dict[int, Hypotheses] = {}
    for start in range(0, len(order), settings.batch):
        chosen = order[start : start + settings.batch]
        found.update(
            zip(chosen, _search(model, vocabulary, [sources[i] for i in chosen], settings, max_length), strict=True)
        )
        advance(len(chosen))
    return [found[index] for index in range(len(sources))]


@torch.no_grad()
def _search(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    settings: SearchSettings,
    max_length: int,
) -> list[Hypotheses]:
    device, lengths = model.output_bias.device, [len(source) for source in sources]
    rows = pad(sources, vocabulary.padding).to(device)
    scorer = PrefixScorer(model, rows, torch.tensor(lengths, device=device), vocabulary.end, vocabulary.end)
    longest = settings.longest([length - 2 for length in lengths], max_length)
    shortest = [min(settings.min_length, limit) for limit in longest]
    beams, n_best, score = settings.beams, settings.n_best, settings.length_score()
    if constraints := settings.constraints():
        return beam_search(ConstrainedScorer(scorer, constraints), beams, longest, n_best, score, shortest)
    return beam_search(scorer, beams, longest, n_best, score, shortest)
