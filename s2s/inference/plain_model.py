"""Any model laid out for decoding as it is: each hypothesis has keys and values of its own, and nothing is packed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from s2s.inference.packed_model import PackedModel
from s2s.model.backbone import Backbone, Memory
from s2s.model.transformer import PrefixTransformer


class PlainModel:
    """A model that decodes by its own ``encode`` and ``step``."""

    blocks: Sequence[Any] = ()

    def __init__(self, model: Backbone) -> None:
        self.model = model

    def encode(self, source: Tensor, lengths: Tensor) -> Memory:
        """Encode sources [B, S] of the lengths [B]."""
        return self.model.encode(source, lengths)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities [N, V] of the next token after rows [N, D], in float32."""
        return self.model.logits(hidden).float().log_softmax(dim=-1)


DecodingModel = PackedModel | PlainModel
"""A model laid out for decoding."""


def laid_out(model: Backbone) -> DecodingModel:
    """Return the model as it decodes fastest: the prefix LM packed, any other as it is."""
    return PackedModel(model) if isinstance(model, PrefixTransformer) else PlainModel(model)
