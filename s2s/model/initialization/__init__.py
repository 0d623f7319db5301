"""The weights that a model without a checkpoint starts from; ``python -m s2s.model.initialization`` reports on them."""

from torch import nn

from s2s.model.attention import FusedLinear
from s2s.model.attention_scores import Scores
from s2s.model.initialization.rules import INITIALIZATIONS, truncated_normal_

__all__ = ["INITIALIZATIONS", "initialise"]


def initialise(module: nn.Module, name: str = "xavier") -> None:
    """Draw linear maps and embeddings by a row of ``INITIALIZATIONS``, with biases 0; tables of scores by their own.

    Query, key and value are three maps in one matrix and are drawn one by one.
    """
    law = INITIALIZATIONS[name]
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            truncated_normal_(part.weight, law.embedding(part.embedding_dim))
        if isinstance(part, nn.Linear):
            for block in part.weight.chunk(part.maps if isinstance(part, FusedLinear) else 1):
                law.fill(block)
            nn.init.zeros_(part.bias)
        if isinstance(part, Scores):
            part.draw()
