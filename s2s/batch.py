"""Batches and their shapes.

Shape legend of the whole package: B rows, S source columns, T target columns, H heads, D width, V vocabulary,
K copies or beams, N rows of a search (sources times beams).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.randomness import seed_of

IGNORED = -100
"""The label of a position without a target, as in ``torch.nn.functional.cross_entropy``."""


class Batch(NamedTuple):
    """Source and target of B examples, padded on the right; without targets, T is 0.

    A tuple of tensors, because accelerate and torch move, cast and pass on such tuples without being taught to.
    """

    source: Tensor  # [B, S] begin x1 ... xm end
    source_lengths: Tensor  # [B] columns of each row that are not padding
    target: Tensor  # [B, T] decoder inputs: y1 ... yn after the symbol that opens them, for the prefix LM the end
    labels: Tensor  # [B, T] y1 ... yn end, then IGNORED
    seeds: Tensor  # [B] of the random draws for each row: a function of (seed, epoch, example) alone
    heads: tuple[Tensor, ...] = ()  # [B, ...] labels of each head, in the recipe's order; IGNORED where there is none

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function, such as the choice of some rows, to every tensor."""
        return Batch(
            source=function(self.source),
            source_lengths=function(self.source_lengths),
            target=function(self.target),
            labels=function(self.labels),
            seeds=function(self.seeds),
            heads=tuple(function(labels) for labels in self.heads),
        )

    def to(self, device: torch.device) -> "Batch":
        """Move the batch to a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def real_inputs(batch: Batch) -> Tensor:
    """Return the mask [B, T] of decoder inputs that are not padding: a label follows at their column or later."""
    # A label within a target may be ignored too (swap noise does that), so padding is what no label follows.
    return (batch.labels != IGNORED).flip(1).cumsum(dim=1).flip(1) > 0


class Counts(NamedTuple):
    """Numbers of units that losses are divided by: scalars, additive over batches and processes."""

    target_tokens: Tensor
    source_tokens: Tensor
    examples: Tensor


def count(batch: Batch) -> Counts:
    """Count the units of a batch. Rows without any label count for nothing: they keep an idle process in step."""
    labelled = batch.labels != IGNORED
    has_label = torch.stack([(labels != IGNORED).any(dim=1) for labels in (batch.labels, *batch.heads)]).any(dim=0)
    return Counts(labelled.sum(), (batch.source_lengths * has_label).sum(), has_label.sum())


def add(counts: Sequence[Counts]) -> Counts:
    """Sum the units of several batches."""
    return Counts(*(torch.stack(column).sum() for column in zip(*counts, strict=True)))


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stack rows of ids as [B, longest], filled with ``value`` on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long).view(
        len(rows), width
    )


def collate(
    pairs: Sequence[tuple[Sequence[int], Sequence[int] | None]],
    padding: int,
    end: int,
    seeds: Sequence[int] | None = None,
    heads: Sequence[Sequence[Sequence[int]]] = (),
    start: int | None = None,
) -> Batch:
    """Make a batch of (source ids as the model reads them, target ids with neither begin nor end).

    Without seeds they are those of the row numbers. ``start``, or else ``end``, opens the decoder's input. A target of
    None has no columns at all. ``heads`` holds for each head the labels of each row.
    """
    first = end if start is None else start
    return Batch(
        source=pad([source for source, _ in pairs], padding),
        source_lengths=torch.tensor([len(source) for source, _ in pairs]),
        target=pad([[] if target is None else [first, *target] for _, target in pairs], padding),
        labels=pad([[] if target is None else [*target, end] for _, target in pairs], IGNORED),
        seeds=torch.tensor([seed_of("row", row) for row in range(len(pairs))] if seeds is None else seeds),
        heads=tuple(pad(rows, IGNORED) for rows in heads),
    )


def without_weight(batch: Batch) -> Batch:
    """Ignore every label: the batch still passes through all parameters, but adds exactly 0 to loss and gradients."""
    heads = tuple(torch.full_like(labels, IGNORED) for labels in batch.heads)
    return batch._replace(labels=torch.full_like(batch.labels, IGNORED), heads=heads)
