"""A model's weights laid out for decoding, where a few rows meet every matrix at each step.

Each matrix is held as [inputs, outputs]: products with few rows then read it in order. Matrices
are copies, so that what is prepared does not follow a model that is trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from s2s.model.block import Block
from s2s.model.transformer import PrefixTransformer

Map = Callable[[Tensor], Tensor]
"""A linear map with its bias, [N, inputs] to [N, outputs]."""
Attend = Callable[[int, Tensor], Tensor]
"""Queries, keys and values [N, 3 D] of new rows in a layer, to what their attention gives, [N, D]."""


@dataclass(frozen=True)
class Transposed:
    """x W + b."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        return torch.addmm(self.bias, x, self.weight)


def transposed(weight: Tensor, bias: Tensor) -> Map:
    """The map of a matrix [outputs, inputs] and a bias."""
    return Transposed(weight.t().contiguous(), bias.clone())


class PreparedBlock:
    """One layer for new rows alone; without dropout."""

    def __init__(self, block: Block, lay_out: Callable[[Tensor, Tensor], Map]) -> None:
        attention, (up, self.activation, down) = block.attention, block.feed_forward
        linears = attention.query_key_value, attention.output, up, down
        self.query_key_value, self.output, self.grow, self.shrink = (
            lay_out(linear.weight.detach(), linear.bias.detach())  # type: ignore[union-attr, operator]
            for linear in linears
        )
        self.pre = block.pre
        self.norms = block.attention_norm, block.feed_forward_norm

    def __call__(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows [N, D] to rows [N, D]."""
        first, second = self.norms
        if self.pre:
            x = self.output(attend(self.query_key_value(first(x)))).add_(x)
            return self.shrink(self.activation(self.grow(second(x)))).add_(x)
        x = first(self.output(attend(self.query_key_value(x))).add_(x))
        return second(self.shrink(self.activation(self.grow(x))).add_(x))


class PreparedModel:
    """A prefix LM whose layers are all of dot products, ready to decode; ``lay_out`` says how matrices are held.

    Of a model with other attention only the output layer is prepared.
    """

    @torch.no_grad()
    def __init__(self, model: PrefixTransformer, lay_out: Callable[[Tensor, Tensor], Map] = transposed) -> None:
        self.model = model
        embedding = model.embedding
        self.table, self.output = embedding.tokens.weight, lay_out(embedding.tokens.weight, model.output_bias)
        self.places = embedding.positions.weight[embedding.offset :] + embedding.segments.weight[1]
        blocks = [] if model.shape.has_slots else list(model.blocks)
        self.blocks = [PreparedBlock(block, lay_out) for block in blocks]  # type: ignore[arg-type]

    def step(self, tokens: Tensor, places: Tensor, attend: Attend) -> Tensor:
        """The last layer's rows [N, D] of ids [N] that stand at the places [N] of source and target together."""
        x = self.model.embedding.norm(functional.embedding(tokens, self.table) + self.places[places])
        for layer, block in enumerate(self.blocks):
            x = block(x, lambda rows, layer=layer: attend(layer, rows))  # type: ignore[misc]
        return self.model.final_norm(x)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [N, V] of the next token after rows [N, D], in float32."""
        return self.output(self.model.transform(hidden)).float().log_softmax(dim=-1)
