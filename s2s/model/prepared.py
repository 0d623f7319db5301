"""A model's weights laid out for decoding, where a few rows meet every matrix at each step.

On CPU each matrix is held in the order in which oneDNN's product reads it: with the rows of a beam this is twice as
fast as a plain matrix, and a row's result does not depend on the others. Elsewhere it is held as [inputs, outputs],
which products with few rows read in order. Matrices are copies: what is prepared does not follow a model that is
trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model.attention import Cached, merge, softmax_attention, split
from s2s.model.block import Block
from s2s.model.transformer import Memory, PrefixTransformer, Transform

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


@dataclass(frozen=True)
class Packed:
    """x W + b by oneDNN, in whose own order W is."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


ROWS = 4
"""For how many rows oneDNN is asked to order a matrix: the order for one row is slow for several, not so the others."""


def packed(weight: Tensor, bias: Tensor) -> Map:
    """The map of a matrix [outputs, inputs] and a bias, in oneDNN's order where it has one."""
    if not _has_order(weight):
        return Transposed(weight.t().contiguous(), bias.clone())
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias.clone())


def _has_order(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or half


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

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values [N, 3 D] of rows [N, D]."""
        return self.query_key_value(self.norms[0](x) if self.pre else x)

    def __call__(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows [N, D] to rows [N, D]."""
        first, second = self.norms
        if self.pre:
            x = self.output(attend(self.project(x))).add_(x)
            return self.shrink(self.activation(self.grow(second(x)))).add_(x)
        x = first(self.output(attend(self.project(x))).add_(x))
        return second(self.shrink(self.activation(self.grow(x))).add_(x))


def transform(module: nn.Module, lay_out: Callable[[Tensor, Tensor], Map]) -> Callable[[Tensor], Tensor]:
    """The model's last map before its output layer, or none."""
    if not isinstance(module, Transform):
        return module
    dense, activation, norm = module.children()
    mapped = lay_out(dense.weight.detach(), dense.bias.detach())  # type: ignore[operator]
    return lambda x: norm(activation(mapped(x)))


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    """What attention over sources [B, H, S, d] gives their rows that are no padding, [N, D]."""
    if query.device.type != "cpu":
        return merge(softmax_attention(query, key, value, mask))[real]
    rows = []
    for source, length in enumerate(real.sum(dim=1).tolist()):  # one by one: padding moves what is added to what
        own = (each[source : source + 1, :, :length] for each in (query, key, value))
        rows.append(merge(softmax_attention(*own))[0])
    return torch.cat(rows)


class PreparedModel:
    """A prefix LM whose layers are all of dot products, ready to decode; ``lay_out`` holds a step's matrices.

    The source's are packed in any case. Of a model with other attention only the output layer is prepared.
    """

    @torch.no_grad()
    def __init__(self, model: PrefixTransformer, lay_out: Callable[[Tensor, Tensor], Map] = packed) -> None:
        self.model = model
        embedding = model.embedding
        self.table, self.output = embedding.tokens.weight, lay_out(embedding.tokens.weight, model.output_bias)
        self.places = embedding.positions.weight[embedding.offset :] + embedding.segments.weight[1]
        self.transform = transform(model.transform, lay_out)
        blocks = [] if model.shape.has_slots else list(model.blocks)
        self.blocks = [PreparedBlock(block, lay_out) for block in blocks]  # type: ignore[arg-type]
        packs = lay_out is packed
        self.source_blocks = self.blocks if packs else [PreparedBlock(block, packed) for block in blocks]  # type: ignore[arg-type]

    def encode(self, source: Tensor, lengths: Tensor) -> Memory:
        """What ``PrefixTransformer.encode`` gives of sources [B, S] of the lengths [B]."""
        if not self.blocks:
            return self.model.encode(source, lengths)
        x, mask = self.model.embed_source(source, lengths)
        real, cached = mask[:, 0, 0] == 0, list[Cached]()

        def parts(projected: Tensor) -> list[Tensor]:
            padded = projected.new_zeros(*source.shape, projected.shape[1])
            padded[real] = projected
            return [split(part, self.model.shape.heads) for part in padded.chunk(3, dim=-1)]

        def attend(projected: Tensor) -> Tensor:
            query, key, value = parts(projected)
            cached.append((key, value))
            return _attended(query, key, value, mask, real)

        rows = x[real]
        for block in self.source_blocks[:-1]:
            rows = block(rows, attend)
        _, key, value = parts(self.source_blocks[-1].project(rows))
        return Memory((*cached, (key, value)), lengths, mask)

    def step(self, tokens: Tensor, places: Tensor, attend: Attend) -> Tensor:
        """The last layer's rows [N, D] of ids [N] that stand at the places [N] of source and target together."""
        x = self.model.embedding.norm(functional.embedding(tokens, self.table) + self.places[places])
        for layer, block in enumerate(self.blocks):
            x = block(x, lambda rows, layer=layer: attend(layer, rows))  # type: ignore[misc]
        return self.model.final_norm(x)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [N, V] of the next token after rows [N, D], in float32."""
        return self.output(self.transform(hidden)).float().log_softmax(dim=-1)
