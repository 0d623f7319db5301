"""A causal language model of ``transformers``: the source is a prompt, whose keys and values are computed once.

Inside, prompts are padded on the left, as in the library's own generation. Every rule that a family has for positions
(rotary, learned, ALiBi, sliding windows) counts columns or mask, and then counts a target's from its own prompt.
"""

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from s2s.model.backbone import Memory, Stack, check_positions
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.model.backbones.foreign import ForeignBackbone, cache_of, entry_factor

if TYPE_CHECKING:  # see ``foreign``
    from transformers import PreTrainedModel


class CausalLM(ForeignBackbone):
    """Decode targets after cached prompts."""

    measured = ("factor", "entry")

    def __init__(self, shape: ForeignArchitecture, inner: "PreTrainedModel | None" = None) -> None:
        super().__init__(shape, inner)
        if not self.token_table.is_meta:
            self.entry = entry_factor(self.body(), self.inner.get_input_embeddings())
        # Families whose positions come from the mask take none.
        self.takes_positions = "position_ids" in signature(self.body().forward).parameters

    def body(self) -> nn.Module:
        """Return the stack of layers."""
        # OPT's output layer asks the decoder inside of the base model, most others ask the base model.
        stack: nn.Module = self.inner.get_decoder()
        base: nn.Module = self.inner.base_model
        return base if stack is self.inner else stack

    def output_inputs(self, rows: Tensor) -> dict[str, Any]:
        """Return rows in the place of embeddings, which the body does not read."""
        return {"inputs_embeds": rows}

    def freeze_output(self) -> None:
        """Freeze the output layer, unless it is the table of the token embeddings too."""
        if not self.is_tied():
            self.head().requires_grad_(False)

    def _encode(self, words: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        columns = torch.arange(words.shape[1], device=words.device)
        check_positions(len(columns), lengths, 0, self.shape.positions)
        # Causal layers would let a target count padding between it and its prompt.
        shift = (len(columns) - lengths)[:, None]
        # Column c of a prompt that ends at the right edge is column c - shift of one that begins at the left edge.
        left = (columns - shift).clamp(min=0)
        mask = (columns >= shift).long()
        cache = cache_of()
        hidden = self._call(_moved(words, left), mask, left, cache)
        rows = _moved(hidden, (columns + shift).clamp(max=len(columns) - 1))
        return Memory(self.cached(cache), lengths, mask), rows

    def _after(self, rows: Tensor, memory: Memory, past: Stack | None, column: int) -> tuple[Tensor, Stack]:
        columns = column + torch.arange(rows.shape[1], device=rows.device)
        check_positions(memory.mask.shape[1], memory.lengths, column + rows.shape[1], self.shape.positions)
        seen = torch.cat([memory.mask, memory.mask.new_ones(len(rows), column + rows.shape[1])], dim=1)
        cache = cache_of(memory.layers, past)
        return self._call(rows, seen, memory.lengths[:, None] + columns, cache), self.cached(cache)

    def _call(self, rows: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        placed = {"position_ids": positions} if self.takes_positions else {}
        given = {"inputs_embeds": self.entry * rows, "attention_mask": mask, "past_key_values": cache, **placed}
        hidden: Tensor = self.body()(**given)[0]
        return hidden


def _moved(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the rows [B, S, D] in the order of columns [B, S]."""
    return rows.gather(1, columns[..., None].expand_as(rows))
