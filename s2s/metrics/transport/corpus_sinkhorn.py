"""Entropic transport distances of generated texts from their references, many pairs at a time."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s2s.metrics.transport.bags import Vectors
from s2s.metrics.transport.batched import Problems
from s2s.metrics.transport.sinkhorn import sinkhorn_transport
from s2s.metrics.transport.vectors import Embed

logger = logging.getLogger("s2s")

MISS = 1e-3
"""The share of a plan that may lie wrong before a warning counts it."""


@torch.no_grad()
def corpus_sinkhorn_distances(
    hypotheses: Sequence[str],
    references: Sequence[str],
    embed: Embed,
    problems: Callable[[Tensor, Tensor, Tensor, Tensor], Problems],
    epsilon: float = 0.05,
    iterations: int = 1000,
    batch: int = 64,
    on_progress: Callable[[int], object] = lambda _: None,
) -> Vectors:
    """The distance [N] of each hypothesis from its reference, ``batch`` pairs at a time, on the device of the vectors.

    ``problems`` is ``rotators_problems`` or ``movers_problems``; ``epsilon`` and ``iterations`` are those of
    ``sinkhorn_transport``; ``on_progress`` gets the number of pairs done since its last call. A
    warning of the logger ``s2s`` counts the plans that did not converge.
    Raises ``ValueError`` for texts that do not pair, and for what ``problems`` refuses.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    distances, missed = np.empty(len(hypotheses)), 0
    for start in range(0, len(hypotheses), batch):
        rows = slice(start, start + batch)
        x, y = (_padded([torch.as_tensor(embed(text)) for text in texts[rows]]) for texts in (hypotheses, references))
        found = sinkhorn_transport(problems(x[0], y[0], x[1], y[1]), epsilon, iterations)
        distances[rows] = found.cost.double().cpu().numpy()
        missed += int((found.miss > MISS).sum())
        on_progress(len(found.cost))
    if missed:
        logger.warning(
            "%d of %d transport plans did not converge: raise iterations or epsilon", missed, len(hypotheses)
        )
    return distances


def _padded(sentences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    return pad_sequence(list(sentences), batch_first=True), lengths.to(sentences[0].device)
