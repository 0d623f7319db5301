"""Search over many sources: batches of like length, results in the order of the sources."""

from collections.abc import Callable, Sequence

import torch

from s2s.batch import pad
from s2s.model import PrefixTransformer
from s2s.search.beam import beam_search
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
    device = model.output_bias.device
    lengths = torch.tensor([len(source) for source in sources], device=device)
    rows = pad(sources, vocabulary.padding).to(device)
    scorer = PrefixScorer(model, rows, lengths, begin=vocabulary.end, end=vocabulary.end)
    return beam_search(
        scorer,
        settings.beams,
        max_length,
        settings.n_best,
        settings.length_penalty,
        min(settings.min_length, max_length),
    )
