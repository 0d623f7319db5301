"""Texts drawn from a model token by token, as its own distribution has them."""

from collections.abc import Sequence

import torch

from s2s.batch import count
from s2s.diagnose.traces import OnProgress, Pair, batches, no_progress
from s2s.losses.passes import Passes
from s2s.mitigations.base import StepContext
from s2s.mitigations.candidates import Candidate, sample
from s2s.model import PrefixTransformer
from s2s.randomness import Draws, seed_of
from s2s.vocabulary import Vocabulary


def rollouts(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    max_length: int,
    samples: int,
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> list[list[Candidate]]:
    """Texts drawn token by token from the model for each pair's source, a function of (seed, number of the pair)."""
    found: dict[int, list[Candidate]] = {}
    for indices, batch in batches(vocabulary, pairs, size, model.output_bias.device, on_progress):
        seeds = torch.tensor(
            [seed_of(seed, "rollout", index) for index in indices.tolist()], device=batch.source.device
        )
        turn = StepContext(Passes(model, 0.0, model), Draws(seeds, "rollout"), count(batch), 0, 1.0)
        with torch.no_grad():
            texts = sample(batch, turn, samples, max_length, vocabulary.end)
        found.update(zip(indices.tolist(), texts, strict=True))
    return [found[index] for index in range(len(pairs))]
