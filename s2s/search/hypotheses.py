"""The live hypotheses of many sources as one rectangle, and how it grows by a token."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Hypothesis = tuple[list[int], float]

RUN = 64
"""Columns of a vocabulary whose greatest entry is found first."""


class NotANumberError(ValueError):
    """A scorer gave a log-probability that is NaN, so that no hypothesis is the best."""


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
    refuse_nan(live, sums)
    return sums


def refuse_nan(live: Hypotheses, sums: Tensor) -> None:
    """A ValueError that names the step and the source where one of the sums [S, ...] is NaN."""
    bad = sums.isnan().flatten(1).any(dim=1).tolist()
    if any(bad):
        source = live.sources[bad.index(True)]
        raise NotANumberError(f"log-probability is NaN at step {live.length + 1}, source {source}")


def expand(live: Hypotheses, sums: Tensor, beams: int) -> tuple[Hypotheses, Tensor]:
    """The best expansions of each source, best first, and the row of ``live`` [S, K] that each one expands.

    ``sums`` [S, K, V] are the expansions' own; K of the result is ``beams``, or all of them where that is fewer.
    """
    vocabulary = sums.size(2)
    best, flat = sums.flatten(1).topk(min(beams, sums[0].numel()))
    return grown(live, flat // vocabulary, flat % vocabulary, best)


def expand_best(
    live: Hypotheses, log_probs: Tensor, beams: int, forbidden: Sequence[int], end: int
) -> tuple[Hypotheses, Tensor]:
    """The same from log-probabilities [S * K, V] as they are, where the rows ``forbidden`` of sources may not end.

    No sums of a whole vocabulary are made: the best expansions of a source are among the best of each hypothesis. With
    one beam, the first of equal ones is the best, as in a stream: bfloat16 has many. ValueError where a log-probability
    is NaN, which counts as the best.
    """
    if beams == 1 and forbidden:
        log_probs = log_probs.clone()
        log_probs[list(forbidden), end] = -math.inf
        forbidden = ()
    count = min(beams + bool(forbidden), log_probs.size(1))
    values, tokens = (part.unflatten(0, live.sums.shape) for part in largest(log_probs, count))
    sums = live.sums.to(values.device)[:, :, None] + values
    refuse_nan(live, sums)
    if forbidden:
        ends = tokens == end
        ends[[row for row in range(len(live.sources)) if row not in set(forbidden)]] = False
        sums = sums.masked_fill(ends, -math.inf)
    best, flat = sums.flatten(1).topk(min(beams, live.sums.size(1) * log_probs.size(1), sums[0].numel()))
    return grown(live, flat // count, tokens.flatten(1).gather(1, flat), best)


def grown(live: Hypotheses, parents: Tensor, tokens: Tensor, sums: Tensor) -> tuple[Hypotheses, Tensor]:
    """The hypotheses of slots ``parents`` [S, K] with one more of the ``tokens`` [S, K], and their rows of ``live``."""
    sources, slots = live.sums.shape
    rows = parents + slots * torch.arange(sources, device=parents.device)[:, None]
    histories = live.tokens.to(parents.device).flatten(0, 1)[rows]
    return Hypotheses(live.sources, torch.cat([histories, tokens[:, :, None]], dim=2), sums), rows


def largest(table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest entries of each row [N, V], and their columns, as ``torch.topk`` gives them.

    They are looked for in the runs of columns whose greatest entries are the greatest: one pass finds these. A single
    one is the first of equal ones.
    """
    if count == 1:
        values, places = table.max(dim=1, keepdim=True)
        return values, places
    rows, columns = table.shape
    runs = columns // RUN
    if runs <= count:
        values, places = table.topk(count)
        return values, places
    whole = table[:, : runs * RUN].unflatten(1, (runs, RUN))
    picked = whole.amax(dim=2).topk(count).indices
    found = whole.gather(1, picked[:, :, None].expand(-1, -1, RUN)).flatten(1)
    numbers = (picked[:, :, None] * RUN + torch.arange(RUN, device=table.device)).flatten(1)
    rest = torch.arange(runs * RUN, columns, device=table.device).expand(rows, -1)
    values, places = torch.cat([found, table[:, runs * RUN :]], dim=1).topk(count)
    return values, torch.cat([numbers, rest], dim=1).gather(1, places)


def survive(growing: Hypotheses, rows: Tensor, unfinished: list[int], beams: int) -> tuple[Hypotheses, Tensor]:
    """The ``unfinished`` sources alone, ``beams`` slots each, and the row of the scorer's state that each slot expands.

    An empty slot repeats the best live one of its source, with a sum of -inf: the scorer then sees a full rectangle.
    """
    whole = len(unfinished) == len(growing.sources) and rows.size(1) == beams
    if whole and bool((growing.sums > -math.inf).all()):
        return growing, rows.flatten()  # what follows would copy it all as it is
    picked = torch.tensor(unfinished, device=rows.device)[:, None]
    sums = pad(growing.sums[unfinished], (0, beams - rows.size(1)), value=-math.inf)
    slots = torch.arange(beams, device=rows.device).where(sums > -math.inf, sums.argmax(dim=1, keepdim=True))
    live = Hypotheses([growing.sources[row] for row in unfinished], growing.tokens[picked, slots], sums)
    return live, rows[picked, slots].flatten()
