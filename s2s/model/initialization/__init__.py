"""The initial weights of a model without a checkpoint; ``python -m s2s.model.initialization`` reports on them."""

from torch import nn

from s2s.model.attention import FusedLinear
from s2s.model.attention_scores import SCORES
from s2s.model.initialization.rules import INITIALIZATIONS, truncated_normal_

__all__ = ["INITIALIZATIONS", "initialise"]


def initialise(module: nn.Module, name: str = "xavier") -> None:
    """Draw linear maps and embeddings by a row of ``INITIALIZATIONS``, and set biases to 0.

    The classes of attention scores draw their own tables.
    """
    law = INITIALIZATIONS[name]
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            truncated_normal_(part.weight, law.embedding(part.embedding_dim))
        if isinstance(part, nn.Linear):
            # Query, key and value are three maps in one matrix; a law reads the shape of one.
            for block in part.weight.chunk(part.maps if isinstance(part, FusedLinear) else 1):
                law.fill(block)
            nn.init.zeros_(part.bias)
        if isinstance(part, tuple(SCORES.values())):
            part.draw()  # type: ignore[operator]
