"""Keys and values of sources and of all their hypotheses in one buffer, where nothing moves when beams are reordered.

A source's hypotheses attend to one row of columns: the source's own, and then every column that any of them has
written. Each sees those of its own path, as a mask says; beams are reordered by moving rows of the mask. One product
a source serves all its hypotheses. What they look at and do not see costs little while they are few.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.inference import c_attention
from s2s.inference.packed_model import PreparedModel
from s2s.model import Memory
from s2s.model.attention import Cached

WIDE, WIDE_IN_C = 16, 64
"""With more hypotheses a source than these, each keeps its own columns: they would look at too many of others.

In C what a hypothesis does not see is passed over.
"""


class Buffer:
    """Keys and values [layers, B, H, 2, C, d]: the first ``source`` columns are a source's, the others are free."""

    def __init__(self, memory: Memory, room: int) -> None:
        keys = memory.layers[0][0]
        rows, heads, self.source, each = keys.shape
        self.in_c = c_attention.usable(keys.device, keys.dtype, each)
        self.wide = WIDE_IN_C if self.in_c else WIDE
        kept = torch.float32 if self.in_c else keys.dtype
        self.data = keys.new_empty(len(memory.layers), rows, heads, 2, self.source + room, each, dtype=kept)
        for layer, pair in zip(self.data, memory.layers, strict=True):
            for part, cached in enumerate(pair):
                layer[:, :, part, : self.source] = cached

    @property
    def columns(self) -> int:
        """How many there are, free ones too."""
        return self.data.shape[4]

    def attend(self, rows: int, used: int, mask: Tensor) -> Callable[[int, Tensor], Tensor]:
        """How new rows of the first ``rows`` sources attend, once they are written behind the ``used`` columns.

        The mask is [rows, K, used + K]; queries, keys and values come as [rows * K, 3 D].
        """
        data = self.data[:, :rows]
        if self.in_c:
            return c_attention.attention(data, mask, used)
        return c_attention.attention_by_torch(data, mask, used)

    def fill(self, holes: list[int], others: list[int], used: int) -> None:
        """Move the rows of the ``others`` to the ``holes``."""
        self.data[:, holes, ..., :used, :] = self.data[:, others, ..., :used, :]

    def rebuilt(self, rows: Tensor, picked: Tensor, room: int) -> None:
        """Keep the ``rows`` [n] alone, the columns [n, m] picked of each behind its source, and room for more."""
        layers, _, heads, two, _, size = self.data.shape
        data = self.data.new_empty(layers, len(rows), heads, two, self.source + room, size)
        data[..., : self.source, :] = self.data[:, rows, ..., : self.source, :]
        data[..., self.source : self.source + picked.shape[1], :] = self.picked(rows, picked)
        self.data = data

    def picked(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The columns [n, m] of the rows [n], [layers, n, H, 2, m, d]."""
        return self.data[:, rows[:, None], :, :, columns].permute(2, 0, 3, 4, 1, 5)


class Shared(NamedTuple):
    """The live sources in their order, with R hypotheses each. A state is used up by what follows it."""

    buffer: Buffer
    slots: Tensor  # [n] the buffer's row of each source: the first n in some order
    lengths: Tensor  # [n]
    seen: Tensor  # [n, R, used columns], 0 or -inf
    column: int

    def step(self, model: PreparedModel, tokens: Tensor) -> tuple[Tensor, "Shared"]:
        """The last layer's rows [n R, D] of the next tokens [n R], and the state that follows."""
        self._check(model.model.shape.positions)
        state = self._with_room()
        sources, hypotheses, used = state.seen.shape
        own = state.seen.new_full((hypotheses, hypotheses), -math.inf).fill_diagonal_(0)
        seen = torch.cat([state.seen, own.expand(sources, -1, -1)], dim=2)
        # The buffer's rows have an order of their own.
        back = state.slots.argsort()
        mask, places = seen[back], state.lengths[back].repeat_interleave(hypotheses) + state.column
        attend = state.buffer.attend(sources, used, mask)
        hidden = model.step(tokens.view(sources, hypotheses)[back].flatten(), places, attend)
        hidden = hidden.unflatten(0, (sources, hypotheses))[state.slots].flatten(0, 1)
        return hidden, state._replace(seen=seen, column=state.column + 1)

    def reorder(self, sources: Tensor, index: Tensor) -> "Shared":
        """The rows at ``index`` [M]: the ``sources`` that have any, the same number each."""
        slots = self.slots if len(sources) == len(self.slots) else self._closed(sources)
        seen = self.seen.flatten(0, 1)[index].unflatten(0, (len(sources), -1))
        return Shared(self.buffer, slots, self.lengths[sources], seen, self.column)

    def separate(self, index: Tensor) -> tuple[Memory, tuple[Cached, ...]]:
        """The memory of the live sources, and what each row at ``index`` [M] sees of its own, in order, by itself."""
        hypotheses = self.seen.shape[1]
        buffer, source = self.buffer, self.buffer.source
        path = (self.seen[:, :, source:] == 0).flatten(0, 1)[index].nonzero()[:, 1].view(len(index), self.column)
        own = buffer.picked(self.slots[index // hypotheses], path + source)
        memory = buffer.data[:, self.slots, ..., :source, :]
        kept, cache = (tuple(tuple(layer.to(self.seen.dtype).unbind(2)) for layer in part) for part in (memory, own))
        return Memory(kept, self.lengths, self.seen[:, :1, None, :source]), cache

    def _check(self, positions: int) -> None:
        """A ValueError where one more token lies beyond the position table; padding may be why it is looked for."""
        if self.buffer.source + self.column + 1 > positions:
            longest = int(self.lengths.max()) + self.column + 1
            if longest > positions:
                raise ValueError(f"source and target of {longest} tokens are beyond the model's {positions} positions")

    def _closed(self, sources: Tensor) -> Tensor:
        """The slots of some sources, once they are the first ones of the buffer again."""
        slots = self.slots[sources].tolist()
        holes = sorted(set(range(len(slots))) - set(slots))
        others = [slot for slot in slots if slot >= len(slots)]
        self.buffer.fill(holes, others, self.seen.shape[2])
        moved = dict(zip(others, holes, strict=True))
        return torch.tensor([moved.get(slot, slot) for slot in slots], device=self.slots.device)

    def _with_room(self) -> "Shared":
        """The state with room for a column a hypothesis: where there is none, columns that no one sees go first."""
        _, hypotheses, used = self.seen.shape
        source = self.buffer.source
        if used + hypotheses <= self.buffer.columns:
            return self
        alive = (self.seen[:, :, source:] == 0).any(dim=1)
        most = int(alive.sum(dim=1).max())
        picked = source + (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        self.buffer.rebuilt(self.slots, picked, 2 * (most + hypotheses))
        kept = self.seen.gather(2, picked[:, None].expand(-1, hypotheses, -1))
        seen = torch.cat([self.seen[:, :, :source], kept], dim=2)
        return self._replace(slots=torch.arange(len(self.slots), device=self.slots.device), seen=seen)


def begin(memory: Memory, room: int) -> Shared:
    """One hypothesis a source, which has no columns yet."""
    rows = torch.arange(len(memory.lengths), device=memory.lengths.device)
    return Shared(Buffer(memory, room), rows, memory.lengths, memory.mask[:, 0], 0)
