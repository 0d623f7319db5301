"""A model's weights laid out for decoding, where a few rows meet every matrix at each step.

On CPU each matrix is held in the order in which oneDNN's product reads it: with the rows of a beam this is twice as
fast as a plain matrix, and a row's result does not depend on the others. Elsewhere it is held as [inputs, outputs],
which products with few rows read in order. Matrices are copies: what is prepared does not follow a model that is
trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from s2s.model.attention import Cached, merge, softmax_attention, split
from s2s.model.block import Block
from s2s.model.layers import multiply
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
    """x W + b by oneDNN, in whose own order W is, and what it makes of the product at once."""

    weight: Tensor
    bias: Tensor
    activation: str = "none"

    def __call__(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        return multiply(x, self.weight, self.bias, self.activation)


FUSED = {type(ACT2FN["gelu"]): "gelu", type(ACT2FN["relu"]): "relu"}
"""Activations, and oneDNN's names of them."""
ROWS = 4
"""For how many rows oneDNN is asked to order a matrix: the order for one row is slow for several, not so the others."""


def packed(weight: Tensor, bias: Tensor) -> Map:
    """The map of a matrix [outputs, inputs] and a bias, in oneDNN's order where it has one."""
    if not _has_order(weight):
        return Transposed(weight.t().contiguous(), bias.clone())
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias.clone())


def activated(mapped: Map, activation: nn.Module) -> Map:
    """The map and then the activation, in one operation where oneDNN has it."""
    if isinstance(mapped, Packed) and type(activation) in FUSED:
        return replace(mapped, activation=FUSED[type(activation)])
    return lambda x: activation(mapped(x))


def normalised(norm: nn.Module) -> Map:
    """A layer norm without what a module's call costs, of a few rows as much as the norm; anything else as it is."""
    if not isinstance(norm, nn.LayerNorm):
        return norm
    shape, weight, bias, epsilon = list(norm.normalized_shape), norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)


def _has_order(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or half


class PreparedBlock:
    """One layer for new rows alone; without dropout."""

    def __init__(self, block: Block, lay_out: Callable[[Tensor, Tensor], Map]) -> None:
        attention, (up, activation, down) = block.attention, block.feed_forward
        linears = attention.query_key_value, attention.output, up, down
        self.query_key_value, self.output, grow, self.shrink = (
            lay_out(linear.weight.detach(), linear.bias.detach())  # type: ignore[union-attr, operator]
            for linear in linears
        )
        self.grow = activated(grow, activation)
        self.pre = block.pre
        self.norms = normalised(block.attention_norm), normalised(block.feed_forward_norm)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values [N, 3 D] of rows [N, D]."""
        return self.query_key_value(self.norms[0](x) if self.pre else x)

    def __call__(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows [N, D] to rows [N, D]."""
        first, second = self.norms
        if self.pre:
            x = self.output(attend(self.project(x))).add_(x)
            return self.shrink(self.grow(second(x))).add_(x)
        x = first(self.output(attend(self.project(x))).add_(x))
        return second(self.shrink(self.grow(x)).add_(x))


def transform(module: nn.Module, lay_out: Callable[[Tensor, Tensor], Map]) -> Callable[[Tensor], Tensor]:
    """The model's last map before its output layer, or none."""
    if not isinstance(module, Transform):
        return module
    dense, activation, norm = module.children()
    mapped = activated(lay_out(dense.weight.detach(), dense.bias.detach()), activation)  # type: ignore[operator]
    last = normalised(norm)
    return lambda x: last(mapped(x))


def _one_by_one(lengths: Sequence[int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What attention over sources [B, H, S, d] gives their first rows, [sum of lengths, D].

    Padding would move what is added to what: the bits of a source would depend on its batch.
    """
    rows = []
    for source, length in enumerate(lengths):
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
        self.first_norm, self.last_norm = normalised(embedding.norm), normalised(model.final_norm)
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
        each = lengths.tolist() if x.device.type == "cpu" else None

        def parts(projected: Tensor) -> list[Tensor]:
            padded = projected.new_zeros(*source.shape, projected.shape[1])
            padded[real] = projected
            return [split(part, self.model.shape.heads) for part in padded.chunk(3, dim=-1)]

        def attend(projected: Tensor) -> Tensor:
            query, key, value = parts(projected)
            cached.append((key, value))
            if each is not None:
                return _one_by_one(each, query, key, value)
            return merge(softmax_attention(query, key, value, mask))[real]

        rows = x[real]
        for block in self.source_blocks[:-1]:
            rows = block(rows, attend)
        _, key, value = parts(self.source_blocks[-1].project(rows))
        return Memory((*cached, (key, value)), lengths, mask)

    def step(self, tokens: Tensor, places: Tensor, attend: Attend) -> Tensor:
        """The last layer's rows [N, D] of ids [N] that stand at the places [N] of source and target together."""
        x = self.first_norm(functional.embedding(tokens, self.table) + self.places[places])
        for layer, block in enumerate(self.blocks):
            x = block(x, lambda rows, layer=layer: attend(layer, rows))  # type: ignore[misc]
        return self.last_norm(x)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [N, V] of the next token after rows [N, D], in float32."""
        return self.output(self.transform(hidden)).float().log_softmax(dim=-1)
