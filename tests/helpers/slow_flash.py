"""The operators of torch's kernel for sequences of unequal lengths by loops, for devices that have none.

``install`` gives torch's CPU the two operators that ``varlen_attn`` calls; the fake CUDA computes by them.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, library

Operators = library.Library
"""Operators that torch has as long as such an object lives."""
Starts = tuple[list[int], list[int]]
"""Where the rows and where the columns of each sequence begin, and the end of the last."""


def seen(starts: Starts, causal: bool) -> Iterator[tuple[int, slice]]:
    """Yield each row, and the columns that it sees. Bottom-right: the last row of a sequence sees its last column."""
    for (first, end), (left, right) in zip(*(pairwise(side) for side in starts), strict=True):
        for row in range(first, end):
            yield row, slice(left, right - (end - 1 - row) if causal else right)


def weights(query: Tensor, keys: Tensor) -> Tensor:
    """The weights [H, c] of a row [H, d] for columns [c, H, d]."""
    return (torch.einsum("hd,chd->hc", query, keys) / query.shape[-1] ** 0.5).softmax(dim=1)


def sums(starts: Starts, causal: bool, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of rows [., H, d] to the columns of their sequences; zeros where there are none."""
    found = torch.full_like(query, torch.nan)
    for row, columns in seen(starts, causal):
        found[row] = torch.einsum("hc,chd->hd", weights(query[row], keys[columns]), values[columns])
    return found


def gradients(starts: Starts, causal: bool, gradient: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows, keys and values; NaN at columns after the last sequence, which the kernel leaves as is."""
    query, keys, values = parts
    to_query, to_keys, to_values = (torch.zeros_like(part) for part in parts)
    for row, columns in seen(starts, causal):
        shares = weights(query[row], keys[columns])
        slopes = torch.einsum("hd,chd->hc", gradient[row], values[columns])
        slopes = shares * (slopes - (shares * slopes).sum(dim=1, keepdim=True)) / query.shape[-1] ** 0.5
        to_query[row] = torch.einsum("hc,chd->hd", slopes, keys[columns])
        to_keys[columns] += torch.einsum("hc,hd->chd", slopes, query[row])
        to_values[columns] += torch.einsum("hc,hd->chd", shares, gradient[row])
    to_keys[starts[1][-1] :], to_values[starts[1][-1] :] = torch.nan, torch.nan
    return to_query, to_keys, to_values


calls = Counter[str]()
"""How often the operators were called."""


def install(wrong: bool = False) -> Operators:
    """Give torch the operators, as long as the result lives; ``wrong`` ones show each row its future."""

    def forward(*given: Any, **options: Any) -> Any:
        query, keys, values, rows, columns, *_, causal, _ = given
        assert options["window_size_left"] == -1
        calls["forward"] += 1
        starts, parts = (rows.tolist(), columns.tolist()), (query, keys, values)
        found = sums(starts, causal and not wrong, *(part.float() for part in parts))
        empty = torch.zeros(0)
        return found.to(query.dtype), torch.zeros(query.shape[1], len(query)), torch.zeros(2).long(), empty, empty

    def backward(*given: Any, **options: Any) -> Any:
        gradient, query, keys, values, _, _, rows, columns, *_, causal, _, _ = given
        assert options["window_size_right"] == (0 if causal else -1)
        calls["backward"] += 1
        starts, parts = (rows.tolist(), columns.tolist()), (gradient, query, keys, values)
        found = gradients(starts, causal and not wrong, *(part.float() for part in parts))
        return tuple(part.to(query.dtype) for part in found)

    operators = Operators("aten", "IMPL")
    operators.impl("_flash_attention_forward", forward, "CPU")
    operators.impl("_flash_attention_backward", backward, "CPU")
    return operators
