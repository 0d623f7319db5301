"""The weights that a model without a checkpoint starts from."""

from torch import nn

from s2s.model.attention import DotProductAttention


def initialise(module: nn.Module) -> None:
    """Xavier's normals for linear maps, embeddings of deviation width^-1/2, biases 0.

    The variance of a linear map is 2 / (fan in + fan out) (Glorot and Bengio 2010); query, key and value are three
    maps in one matrix and are drawn one by one. The tied output then gives scores of unit variance.
    """
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=part.embedding_dim**-0.5)
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
        if isinstance(part, DotProductAttention):
            for block in part.query_key_value.weight.chunk(3):
                nn.init.xavier_normal_(block)
