"""The two layouts of keys and values while a search runs: one buffer that hypotheses share, or a cache for each.

Shapes::

    n  live sources, in the order in which the search has them     S  columns of the longest source
    R  hypotheses of each source: its beams or samples             U  used columns: S, and those of written tokens
    H  heads of d numbers, D = H d                                 C  columns of the buffer, used and free

In the buffer a source's hypotheses attend to one range of columns: the source's own, then one column for every token
that any of them has written. One product a source serves all its hypotheses, and reordering beams moves rows of the
mask ``seen`` instead of keys and values. The buffer of two sources with S = 3 and R = 2, after three steps::

    column             0 1 2   3   4 5   6 7   8 ... C-1
    row 0 of buffer  [ s s s | a | b c | d e |   free   ]    rows = [1, 0]: live source 0 is in row 1,
    row 1 of buffer  [ s s . | f | g h | i j |   free   ]                   live source 1 in row 0
                      source  1st  2nd   3rd token            . is padding

    seen of live source 0, whose hypotheses both continue f g; o is 0 (seen), - is -inf (hidden)
    hypothesis 0       o o -   o   o -   o -                  has written f g i
    hypothesis 1       o o -   o   o -   - o                  has written f g j

Three numberings meet here, and every name keeps to one of them. A *live source* is counted as the search counts it;
``tokens``, ``lengths``, ``seen`` and ``rows`` are in that order. A *row* is the buffer's: the n live sources have its
first n rows, in any order. A *column* is one of the buffer, not a position: the next token of a source has position
``lengths + steps``, whatever its column is.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.inference import c_attention
from s2s.inference.packed_model import DecodingModel, PackedModel
from s2s.model.attention import Cached
from s2s.model.backbone import Memory, check_positions

ROOM = 128
"""Free columns of a source at the start, for all its hypotheses together."""
UNCOUNTED = 64
"""The least number of a GPU's steps between two counts of the columns that are seen, each of which waits for it."""
WIDE, WIDE_IN_C = 16, 64
"""The most hypotheses of a source that share a buffer, by torch and in C.

A hypothesis reads R columns for each of its tokens, so with a large R it mostly reads what it does not see. The C code
skips those columns, hence its higher limit.
"""


class Buffer:
    """Keys and values [layers, rows, H, 2, C, d], keys first; the first ``source`` columns of a row hold its source.

    With ``rounded`` they are kept in bfloat16, whatever the model computes in.
    """

    def __init__(self, memory: Memory, room: int, rounded: bool = False) -> None:
        keys = memory.layers[0][0]
        sources, heads, self.source, size = keys.shape
        self.in_c = c_attention.usable(keys.device, keys.dtype, size)
        self.wide = WIDE_IN_C if self.in_c else WIDE
        dtype = torch.bfloat16 if rounded else keys.dtype
        # Not filled: a step writes its columns before it reads them, and reads no column after those.
        self.data = keys.new_empty(len(memory.layers), sources, heads, 2, self.source + room, size, dtype=dtype)
        for layer, pair in zip(self.data, memory.layers, strict=True):
            for part, cached in enumerate(pair):
                layer[:, :, part, : self.source] = cached

    @property
    def columns(self) -> int:
        """The number of columns, used and free."""
        return self.data.shape[4]

    def attend(self, sources: int, used: int, mask: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Return a layer's attention for R new tokens of each of the first ``sources`` rows.

        It writes their keys and values to the R columns after the ``used`` ones. The mask is [sources, R, used + R];
        queries, keys and values come as [sources * R, 3 D]. Both are in the order of the buffer's rows.
        """
        attention = c_attention.StepAttention if self.in_c else c_attention.attention_by_torch
        return attention(self.data[:, :sources], mask, used)

    def move(self, origins: list[int], targets: list[int], used: int) -> None:
        """Copy the used columns of the rows ``origins`` to the rows ``targets``."""
        self.data[:, targets, ..., :used, :] = self.data[:, origins, ..., :used, :]

    def keep(self, rows: Tensor) -> None:
        """Keep only the ``rows`` [n], in this order."""
        self.data = self.data[:, rows]

    def compact(self, rows: Tensor, columns: Tensor, room: int) -> None:
        """Keep only the ``rows`` [n], in this order, with their sources and ``columns`` [n, m]; add free columns."""
        layers, _, heads, two, _, size = self.data.shape
        data = self.data.new_empty(layers, len(rows), heads, two, self.source + room, size)
        data[..., : self.source, :] = self.data[:, rows, ..., : self.source, :]
        data[..., self.source : self.source + columns.shape[1], :] = self.gather(rows, columns)
        self.data = data

    def gather(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the columns [n, m] of the rows [n] as [layers, n, H, 2, m, d]."""
        return self.data[:, rows[:, None], :, :, columns].permute(2, 0, 3, 4, 1, 5)


class SharedCache(NamedTuple):
    """The state of a search whose hypotheses share a buffer; ``step`` and ``reorder`` use it up."""

    buffer: Buffer
    rows: Tensor  # [n] the buffer's row of each live source, a permutation of 0 .. n - 1
    lengths: Tensor  # [n]
    seen: Tensor  # [n, R, U], 0 where a hypothesis sees a column and -inf elsewhere
    steps: int  # tokens of each hypothesis

    @property
    def hypotheses(self) -> int:
        """R, the rows of the search for each source."""
        return self.seen.shape[1]

    def step(self, model: PackedModel, tokens: Tensor) -> tuple[Tensor, "SharedCache"]:
        """Return the last layer's outputs [n R, D] for the next tokens [n R], and the following state."""
        check_positions(self.buffer.source, self.lengths, self.steps + 1, model.model.shape.positions)
        cache = self._with_room()
        sources, hypotheses, used = cache.seen.shape
        # Of the R new columns a hypothesis sees its own alone.
        itself = cache.seen.new_full((hypotheses, hypotheses), -math.inf).fill_diagonal_(0)
        seen = torch.cat([cache.seen, itself.expand(sources, -1, -1)], dim=2)
        # The step runs in the order of the buffer's rows: ordering a few tokens and masks is cheaper than ordering
        # the keys and values, which would be copied.
        live = cache.rows.argsort()
        positions = cache.lengths[live].repeat_interleave(hypotheses) + cache.steps
        attend = cache.buffer.attend(sources, used, seen[live])
        hidden = model.step(tokens.view(sources, hypotheses)[live].flatten(), positions, attend)
        hidden = hidden.unflatten(0, (sources, hypotheses))[cache.rows].flatten(0, 1)
        return hidden, cache._replace(seen=seen, steps=cache.steps + 1)

    def reorder(self, sources: Tensor, index: Tensor) -> "SharedCache | SeparateCache":
        """Return the state of the hypotheses ``index`` [M], an equal number for each of the live ``sources``."""
        if len(index) > self.buffer.wide * len(sources):
            return self._separated(sources, index)
        rows = self.rows if len(sources) == len(self.rows) else self._closed_up(sources)
        seen = self.seen.flatten(0, 1)[index].unflatten(0, (len(sources), -1))
        return SharedCache(self.buffer, rows, self.lengths[sources], seen, self.steps)

    def _closed_up(self, sources: Tensor) -> Tensor:
        """Move the live sources that stay to the buffer's first rows; return their rows."""
        if self.rows.is_cuda:
            # A GPU copies all rows that stay in less time than it takes to ask it which of them must move.
            self.buffer.keep(self.rows[sources])
            return torch.arange(len(sources), device=self.rows.device)
        rows = self.rows[sources].tolist()
        free = sorted(set(range(len(rows))) - set(rows))
        # Of n rows in all, each one beyond the first n leaves one of these free, so both lists have one length.
        beyond = [row for row in rows if row >= len(rows)]
        self.buffer.move(beyond, free, self.seen.shape[2])
        moved = dict(zip(beyond, free, strict=True))
        return torch.tensor([moved.get(row, row) for row in rows], device=self.rows.device)

    def _with_room(self) -> "SharedCache":
        """Return the state with R free columns; where the buffer is full, drop the columns that nobody sees first."""
        _, hypotheses, used = self.seen.shape
        source = self.buffer.source
        if used + hypotheses <= self.buffer.columns:
            return self
        alive = (self.seen[:, :, source:] == 0).any(dim=1)
        on_gpu = alive.is_cuda
        # A GPU has memory for some columns that nobody sees, and no time for an early count.
        most = used - source if on_gpu and self.steps < UNCOUNTED else int(alive.sum(dim=1).max())
        # A stable sort brings the living columns of a source to the front in their order; sources with fewer than
        # ``most`` keep dead ones too, which their masks hide.
        columns = source + (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        # Free columns in proportion to the kept ones: a copy is then paid for by the steps until the next one.
        room = max(2 * (most + hypotheses), UNCOUNTED * hypotheses if on_gpu else 0)
        self.buffer.compact(self.rows, columns, room)
        kept = self.seen.gather(2, columns[:, None].expand(-1, hypotheses, -1))
        seen = torch.cat([self.seen[:, :, :source], kept], dim=2)
        # ``compact`` has written the rows in the order of the live sources.
        return self._replace(rows=torch.arange(len(self.rows), device=self.rows.device), seen=seen)

    def _separated(self, sources: Tensor, index: Tensor) -> "SeparateCache":
        """Return the state of the hypotheses ``index`` [M] in which each has copies of the columns that it sees."""
        buffer, source = self.buffer, self.buffer.source
        # A hypothesis sees exactly one column for each of its steps, and later steps have columns further to the right.
        hidden = (self.seen[:, :, source:] < 0).flatten(0, 1)[index].to(torch.uint8)
        path = hidden.argsort(dim=1, stable=True)[:, : self.steps]
        targets = buffer.gather(self.rows[index // self.hypotheses], path + source)
        stored = buffer.data[:, self.rows[sources], ..., :source, :], targets
        layers, cache = (tuple(tuple(layer.to(self.seen.dtype).unbind(2)) for layer in part) for part in stored)
        memory = Memory(layers, self.lengths[sources], self.seen[sources, :1, None, :source])
        return SeparateCache(memory, cache if self.steps else None, len(index) // len(sources), self.steps)


class SeparateCache(NamedTuple):
    """The state of a search whose hypotheses have keys and values of their own, after a memory that they share."""

    memory: Memory  # of the n live sources, with ``copies`` rows of each
    cache: tuple[Cached, ...] | None  # of each layer, [n R, H, steps, d]; None before the first step
    hypotheses: int  # R
    steps: int
    copies: int = 1  # or R, for a model whose steps need a row for each hypothesis

    def step(self, model: DecodingModel, tokens: Tensor) -> tuple[Tensor, "SeparateCache"]:
        """Return the last layer's outputs [n R, D] for the next tokens [n R], and the following state."""
        memory, copies = self.memory, self.copies
        # Copied here once, and not by the model at every step.
        if copies < self.hypotheses and not model.model.shares_memory:
            memory, copies = memory.repeated(self.hypotheses), self.hypotheses
        hidden, cache = model.model.step(tokens, self.steps, memory, self.cache)
        return hidden, self._replace(memory=memory, cache=cache, steps=self.steps + 1, copies=copies)

    def reorder(self, sources: Tensor, index: Tensor) -> "SeparateCache":
        """Return the state of the hypotheses ``index`` [M], an equal number for each of the live ``sources``."""
        memory, copies = self.memory, self.copies
        if copies > 1 and len(index) != len(memory.lengths):
            # A hypothesis has its source's row, whichever of its copies it is.
            memory, copies = memory.rows(index), len(index) // len(sources)
        elif copies == 1 and len(sources) != len(memory.lengths):
            memory = memory.rows(sources)
        cache = self.cache and tuple(tuple(part[index] for part in layer) for layer in self.cache)
        return SeparateCache(memory, cache, len(index) // len(sources), self.steps, copies)


def begin(model: DecodingModel, memory: Memory) -> SharedCache | SeparateCache:
    """Return the state before the first step, one hypothesis a source."""
    # Attention that cannot be packed caches other tensors than one key and one value for each row.
    if not model.blocks:
        return SeparateCache(memory, None, 1, 0)
    rows = torch.arange(len(memory.lengths), device=memory.lengths.device)
    return SharedCache(Buffer(memory, ROOM, model.rounds_cache), rows, memory.lengths, memory.mask[:, 0], 0)
