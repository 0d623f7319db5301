"""A model's view of each token of a text, given the tokens before it; and the texts that the model writes itself.

Everywhere here the model is in evaluation mode, and ``size`` sources are read together.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from s2s.batch import IGNORED, Batch, count
from s2s.inference.generate import generate
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Numbers
from s2s.mitigations.base import StepContext
from s2s.mitigations.candidates import Candidate, sample
from s2s.model.backbone import Backbone
from s2s.randomness import Draws, seed_of
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a source with begin and end, and of a target with neither."""
Integers = NDArray[np.int64]
Marks = NDArray[np.bool_]
OnProgress = Callable[[int], object]
"""A function that is called with the number of pairs finished since its last call."""


def no_progress(done: int) -> None:
    """Show no progress."""


class Trace(NamedTuple):
    """A text token by token, its end included; arrays [tokens], logarithms in nats."""

    tokens: Integers
    log_probs: Numbers  # of the tokens
    entropies: Numbers  # of the whole distribution, in nats
    best: Integers  # the likeliest token
    best_log_probs: Numbers

    def first(self, tokens: int) -> "Trace":
        """Cut the trace after its first ``tokens`` tokens."""
        ids, log_probs, entropies, best, best_log_probs = self
        return Trace(ids[:tokens], log_probs[:tokens], entropies[:tokens], best[:tokens], best_log_probs[:tokens])


class GreedyText(NamedTuple):
    """A text made of the model's likeliest tokens: its ids without the end, and whether the end was reached."""

    ids: list[int]
    ended: bool


def batches(
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    size: int,
    device: torch.device,
    on_progress: OnProgress = no_progress,
) -> Iterator[tuple[Integers, Batch]]:
    """Yield batches of pairs of similar length, each with the numbers of its pairs."""
    # lexsort sorts by its last key first: sources of one length are encoded together without padding.
    order = np.lexsort(([len(target) for _, target in pairs], [len(source) for source, _ in pairs]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = [pairs[index] for index in chosen]
        yield chosen, vocabulary.collate(rows).to(device)
        on_progress(len(chosen))


@torch.no_grad()
def trace(
    model: Backbone,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[Trace]:
    """Trace the target of each pair under teacher forcing."""
    traces: dict[int, Trace] = {}
    for indices, batch in batches(vocabulary, pairs, size, model.device, on_progress):
        scores = Passes(model, 0.0, model).score(batch)
        log_probs = scores.logits.log_softmax(dim=-1)
        best = log_probs.max(dim=-1)
        # 0 * -inf is NaN, where p log p has the limit 0.
        entropies = -(log_probs.exp() * log_probs.clamp(min=-1e30)).sum(dim=-1)
        parts = (scores.labels, scores.log_probs(), entropies, best.indices, best.values)
        # Scores exist for valid labels alone, row after row, so the rows' lengths say where to cut.
        ends = (batch.labels != IGNORED).sum(dim=1).cumsum(0)[:-1].tolist()
        split = [np.split(part.cpu().numpy(), ends) for part in parts]
        traces.update(zip(indices.tolist(), (Trace(*row) for row in zip(*split, strict=True)), strict=True))
    return [traces[index] for index in range(len(pairs))]


def write_greedily(
    model: Backbone,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    max_length: int,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[GreedyText]:
    """Write the greedy text of each source, of at most ``max_length`` tokens."""
    hypotheses = generate(model, vocabulary, sources, SearchSettings(beams=1, batch=size), max_length, on_progress)
    # A search cuts a text at max_length tokens and then adds no end, so the length tells the two apart.
    return [GreedyText(best[0][0], len(best[0][0]) < max_length) for best in hypotheses]


def trace_greedy(
    model: Backbone,
    vocabulary: Vocabulary,
    sources: Sequence[Sequence[int]],
    texts: Sequence[GreedyText],
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[Trace]:
    """Trace the model's own texts, each with an end only where the model has written one."""
    pairs = [(source, text.ids) for source, text in zip(sources, texts, strict=True)]
    traces = trace(model, vocabulary, pairs, size, on_progress)
    return [whole.first(len(text.ids) + text.ended) for whole, text in zip(traces, texts, strict=True)]


def sample_texts(
    model: Backbone,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    max_length: int,
    samples: int,
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[list[Candidate]]:
    """Draw ``samples`` texts for each source, token by token; they depend on (seed, number of the pair) alone."""
    texts: dict[int, list[Candidate]] = {}
    for indices, batch in batches(vocabulary, pairs, size, model.device, on_progress):
        # A seed for each pair and not for each batch, so the batch size changes no text.
        seeds = torch.tensor([seed_of(seed, "rollout", index) for index in indices.tolist()]).to(batch.source.device)
        # Training's sampler expects a training step: this is step 0, with the method at full strength.
        context = StepContext(Passes(model, 0.0, model), Draws(seeds, "rollout"), count(batch), 0, 1.0)
        with torch.no_grad():
            rows = sample(batch, context, samples, max_length, vocabulary.end, size=vocabulary.size)
        texts.update(zip(indices.tolist(), rows, strict=True))
    return [texts[index] for index in range(len(pairs))]
