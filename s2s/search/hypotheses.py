"""The live hypotheses of many sources as one rectangle, and how it grows by a token."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Hypothesis = tuple[list[int], float]


class Hypotheses(NamedTuple):
    """Hypotheses of one length t for S sources, K slots a source; a slot whose sum is -inf is empty."""

    sources: list[int]  # [S], numbers of sources, ascending
    tokens: Tensor  # int64 [S, K, 1 + t], begin first
    sums: Tensor  # [S, K], summed log-probabilities

    @property
    def length(self) -> int:
        """How many tokens each hypothesis has, an end counted."""
        return self.tokens.size(2) - 1


def one_by_one(name: str, lengths: int | Sequence[int], sources: int) -> list[int]:
    """A length a source; ValueError if there are too few or too many, or if one is negative."""
    each = [lengths] * sources if isinstance(lengths, int) else list(lengths)
    if len(each) != sources:
        raise ValueError(f"{name} has {len(each)} values for {sources} sources")
    if min(each, default=0) < 0:
        raise ValueError(f"{name} must be at least 0, got {min(each)}")
    return each


def begin(token: int, max_length: list[int]) -> Hypotheses:
    """One hypothesis a source that has only begun, on the CPU; none for a source that may not have any tokens."""
    # Such a source goes along in the first step, so that the scorer's first reorder is always from 1 row to a beam.
    sums = torch.tensor([[0.0 if longest else -math.inf] for longest in max_length])
    return Hypotheses(list(range(len(max_length))), torch.full((len(max_length), 1, 1), token), sums)


def expansion_sums(live: Hypotheses, log_probs: Tensor) -> Tensor:
    """The sums [S, K, V] of all expansions; ``log_probs`` [S * K of ``live``, V]. ValueError where one is NaN."""
    sums = live.sums.to(log_probs.device)[:, :, None] + log_probs.unflatten(0, live.sums.shape)
    bad = sums.isnan().flatten(1).any(dim=1).tolist()
    if any(bad):
        raise ValueError(f"log-probability is NaN at step {live.length + 1}, source {live.sources[bad.index(True)]}")
    return sums


def expand(live: Hypotheses, sums: Tensor, beams: int) -> tuple[Hypotheses, Tensor]:
    """The best expansions of each source, best first, and the row of ``live`` [S, K] that each one expands.

    ``sums`` [S, K, V] are the expansions' own; K of the result is ``beams``, or all of them where that is fewer.
    """
    sources, slots, vocabulary = sums.shape
    best, flat = sums.flatten(1).topk(min(beams, slots * vocabulary))
    parents, tokens = flat // vocabulary, flat % vocabulary
    rows = parents + slots * torch.arange(sources, device=flat.device)[:, None]
    histories = live.tokens.to(flat.device).flatten(0, 1)[rows]
    return Hypotheses(live.sources, torch.cat([histories, tokens[:, :, None]], dim=2), best), rows


def survive(growing: Hypotheses, rows: Tensor, unfinished: list[int], beams: int) -> tuple[Hypotheses, Tensor]:
    """The ``unfinished`` sources alone, ``beams`` slots each, and the row of the scorer's state that each slot expands.

    An empty slot repeats the best live one of its source, with a sum of -inf: the scorer then sees a full rectangle.
    """
    picked = torch.tensor(unfinished, device=rows.device)[:, None]
    sums = pad(growing.sums[unfinished], (0, beams - rows.size(1)), value=-math.inf)
    slots = torch.arange(beams, device=rows.device).where(sums > -math.inf, sums.argmax(dim=1, keepdim=True))
    live = Hypotheses([growing.sources[row] for row in unfinished], growing.tokens[picked, slots], sums)
    return live, rows[picked, slots].flatten()
