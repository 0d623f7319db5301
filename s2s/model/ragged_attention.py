"""Attention without a mask: each row attends to the columns that its example has, one example after the other.

A GPU's kernel for sequences of unequal lengths (torch's ``varlen_attn``) reads no mask and no padding. Whether a run
takes it is measured (``s2s.runs.gpu_paths``).

Shapes: B examples, H heads of d numbers, L rows that attend, C columns of an example, its padding included.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Kernel = Callable[..., Tensor]
"""A function with the arguments of ``varlen_attn``: rows [B L, H, d], keys, values, where each example begins ..."""


class Ragged(NamedTuple):
    """The columns that the rows of a pass see, in numbers."""

    order: Tensor  # [B C] the columns of all examples, example by example, and all padding after them
    padding: Tensor  # [B C, 1, 1] True at padding, in that order
    row_starts: Tensor  # [B + 1] where the rows of each example begin, and the end of the last
    column_starts: Tensor  # [B + 1] the same of its columns
    rows: int  # L
    columns: int  # C
    causal: bool  # the last row sees all columns of its example, and each earlier one a column fewer


def ragged(lengths: Tensor, source: int, target: int = 0) -> Ragged:
    """Return what rows of ``source`` columns, of which examples have the lengths [B], see of each other.

    With a target, these are the rows of its columns: they see the source and their own past.
    """
    columns = torch.arange(source + target, device=lengths.device)
    padding = ((columns >= lengths[:, None]) & (columns < source)).flatten()
    # A sort and no mask as the index, whose length a GPU would have to be asked for.
    order = padding.to(torch.uint8).argsort(stable=True)
    rows = target or source
    row_starts, column_starts = (
        functional.pad(counts.cumsum(0), (1, 0)).int() for counts in (torch.full_like(lengths, rows), lengths + target)
    )
    return Ragged(order, padding[order, None, None], row_starts, column_starts, rows, source + target, target > 0)


def varlen_kernel() -> Kernel:
    """Return ``varlen_attn``."""
    # Its module imports one that warns of a missing Triton, which nobody needs here.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn  # type: ignore[return-value]  # with further results only where they are asked for


def ragged_attention(
    query: Tensor,
    memory: tuple[Tensor, ...] | None,
    new: tuple[Tensor, ...],
    seen: Ragged,
    kernel: Kernel | None = None,
) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V, [B, H, L, d], of queries [B, H, L, d] over the columns that they see.

    Keys and values, [B, H, ., d] each, are those of the memory, if any, and then the rows' own.
    """

    def packed(pieces: list[Tensor]) -> Tensor:
        columns = torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1).flatten(0, 1)
        # The kernel leaves the gradient at columns that no row sees as memory happened to be; here it becomes 0.
        return columns.index_select(0, seen.order).masked_fill(seen.padding, 0.0)

    cached = [new] if memory is None else [memory, new]
    keys, values = (packed([layer[part] for layer in cached]) for part in (0, 1))
    rows = query.transpose(1, 2).flatten(0, 1)
    window = (-1, 0) if seen.causal else (-1, -1)
    starts = seen.row_starts, seen.column_starts
    sums = (kernel or varlen_kernel())(rows, keys, values, *starts, seen.rows, seen.columns, window_size=window)
    return sums.unflatten(0, (-1, seen.rows)).transpose(1, 2)
