"""An encoder-decoder of ``transformers``: the encoder's rows are computed once, and the decoder's keys and values of
them too, in one go with the encoder.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from s2s.errors import UserError
from s2s.model.backbone import Memory, Stack
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.model.backbones.foreign import BodyOutput, ForeignBackbone, cache_of, entry_factor

if TYPE_CHECKING:  # see ``foreign``
    from transformers import PreTrainedModel


class NeverUpdated(dict[int, bool]):
    """Marks of layers whose keys of the source are in the cache: none ever is.

    So a layer that recomputation runs again computes them again, as it did before.
    """

    def __setitem__(self, layer: int, updated: bool) -> None:
        """Set no mark."""


class EncoderDecoder(ForeignBackbone):
    """Decode targets against the decoder's keys and values of a source.

    The memory's layers are those keys and values. ``shape.prefix`` are ids that the decoder reads before the begin
    symbol of every target, as BART's.
    """

    measured = ("factor", "entry", "decoder_entry")

    def __init__(self, shape: ForeignArchitecture, inner: "PreTrainedModel | None" = None) -> None:
        super().__init__(shape, inner)
        encoder, decoder = self.encoder(), self.body()
        # Methods replace and perturb the embeddings of sources and targets by one table.
        tables = {id(stack.get_input_embeddings().weight) for stack in (encoder, decoder, self.inner)}
        if len(tables) > 1:
            raise UserError(f"model: this {shape.model_type} has two tables of token embeddings; methods know one only")
        if self.token_table.is_meta:
            return
        embed = self.inner.get_input_embeddings()
        encoded = embed.weight.new_zeros(1, 3, shape.width)
        self.entry, self.decoder_entry = (
            entry_factor(encoder, embed),
            entry_factor(decoder, embed, encoder_hidden_states=encoded),
        )

    def body(self) -> Any:
        """Return the decoder."""
        return self.inner.get_decoder()

    def encoder(self) -> Any:
        """Return the encoder."""
        return self.inner.get_encoder()

    def output_inputs(self, rows: Tensor) -> dict[str, Any]:
        """Return rows in the place of the encoder's and of the embeddings; the decoder does not read them."""
        return {"encoder_outputs": BodyOutput(last_hidden_state=rows), "decoder_inputs_embeds": rows}

    def freeze_output(self) -> None:
        """Freeze all that the encoder does not use."""
        used = {id(parameter) for parameter in self.encoder().parameters()}
        for parameter in self.inner.parameters():
            parameter.requires_grad_(id(parameter) in used)

    def _encode(self, words: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        columns = words.shape[1]
        if columns > self.shape.positions:
            raise ValueError(f"a source of {columns} tokens is beyond the model's {self.shape.positions} positions")
        mask = (torch.arange(columns, device=words.device) < lengths[:, None]).long()
        rows: Tensor = self.encoder()(inputs_embeds=self.entry * words, attention_mask=mask)[0]
        # A pass of one column, whose own result nobody reads, leaves the decoder's keys and values of the source in the
        # cache: no family has another call for them.
        cache = EncoderDecoderCache(cache_of(), cache_of())
        cache.is_updated = NeverUpdated()
        self._decode(words.new_zeros(len(rows), 1, words.shape[2]), rows, mask, cache)
        return Memory(self.cached(cache.cross_attention_cache), lengths, mask), rows

    def _with_prefix(self, rows: Tensor) -> Tensor:
        """Put the embeddings of the prefix before rows [N, T, D]."""
        if not self.shape.prefix:
            return rows
        prefix = self.words(torch.tensor(self.shape.prefix, device=rows.device))
        return torch.cat([prefix.to(rows.dtype).expand(len(rows), -1, -1), rows], dim=1)

    def _after(self, rows: Tensor, memory: Memory, past: Stack | None, column: int) -> tuple[Tensor, Stack]:
        new = rows.shape[1]
        if (columns := column + new) > self.shape.room(0):
            raise ValueError(f"a target of {columns} tokens is beyond the model's {self.shape.positions} positions")
        rows = self._with_prefix(rows) if past is None else rows
        cache = EncoderDecoderCache(cache_of(past), cache_of(memory.layers))
        # Only the shape of the encoder's rows is read, as their keys and values are in the cache.
        unread = rows.new_zeros(1).expand(len(rows), memory.mask.shape[1], rows.shape[2])
        hidden = self._decode(rows, unread, memory.mask, cache)
        return hidden[:, -new:], self.cached(cache.self_attention_cache)

    def _decode(self, rows: Tensor, encoded: Tensor, mask: Tensor, cache: EncoderDecoderCache) -> Tensor:
        hidden: Tensor = self.body()(
            inputs_embeds=self.decoder_entry * rows,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            past_key_values=cache,
        )[0]
        return hidden
