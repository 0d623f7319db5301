"""What a model says at each token of a target, given the tokens before it: gold ones or its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from s2s.batch import IGNORED, Batch, collate
from s2s.inference.generate import generate
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Numbers
from s2s.model import PrefixTransformer
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a source with begin and end, and of a target with neither."""
Integers = NDArray[np.int64]
OnProgress = Callable[[int], object]
"""A function that is called with the number of further pairs that are done."""


def no_progress(done: int) -> None:
    """Do nothing: nobody follows the progress."""


class Trace(NamedTuple):
    """A target token by token, its end included; arrays [tokens], logarithms in nats."""

    tokens: Integers
    log_probs: Numbers  # of the tokens
    entropies: Numbers  # of the whole distribution, in nats
    best: Integers  # the likeliest token
    best_log_probs: Numbers

    def first(self, tokens: int) -> "Trace":
        """The same without what stands behind so many tokens."""
        ids, log_probs, entropies, best, best_log_probs = self
        return Trace(ids[:tokens], log_probs[:tokens], entropies[:tokens], best[:tokens], best_log_probs[:tokens])


class Free(NamedTuple):
    """A text that the model has made by its likeliest tokens: ids without its end, and whether it came to an end."""

    ids: list[int]
    ended: bool

    def tokens(self, end: int) -> list[int]:
        """The ids, and the end where there is one."""
        return [*self.ids, end] if self.ended else self.ids


def batches(
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    size: int,
    device: torch.device,
    on_progress: OnProgress = no_progress,
) -> Iterator[tuple[Integers, Batch]]:
    """Pairs of like length together, as batches with the pairs' numbers."""
    order = np.lexsort(([len(target) for _, target in pairs], [len(source) for source, _ in pairs]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = [pairs[index] for index in chosen]
        yield chosen, collate(rows, vocabulary.padding, vocabulary.end).to(device)
        on_progress(len(chosen))


@torch.no_grad()
def trace(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[Trace]:
    """The trace of each pair's target; ``size`` pairs are read together by a model in evaluation mode."""
    found: dict[int, Trace] = {}
    for indices, batch in batches(vocabulary, pairs, size, model.output_bias.device, on_progress):
        scores = Passes(model, 0.0, model).score(batch)
        log_probs = scores.logits.log_softmax(dim=-1)
        best = log_probs.max(dim=-1)
        entropies = -(log_probs.exp() * log_probs.clamp(min=-1e30)).sum(dim=-1)
        parts = (scores.labels, scores.log_probs(), entropies, best.indices, best.values)
        lengths = (batch.labels != IGNORED).sum(dim=1).cumsum(0)[:-1].tolist()
        split = [np.split(part.cpu().numpy(), lengths) for part in parts]
        found.update(zip(indices.tolist(), (Trace(*row) for row in zip(*split, strict=True)), strict=True))
    return [found[index] for index in range(len(pairs))]


def run_free(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    max_length: int,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[Free]:
    """The greedy text of each source, of at most ``max_length`` tokens."""
    settings = replace(SearchSettings(), beams=1, batch=size)
    found = generate(model, vocabulary, sources, settings, max_length, on_progress)
    return [Free(best[0][0], len(best[0][0]) < max_length) for best in found]


def trace_free(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    free: Sequence[Free],
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[Trace]:
    """The trace of each free text, with an end only where it has one."""
    pairs = [(source, text.ids) for source, text in zip(sources, free, strict=True)]
    traces = trace(model, vocabulary, pairs, size, on_progress)
    return [whole.first(len(text.ids) + text.ended) for whole, text in zip(traces, free, strict=True)]
