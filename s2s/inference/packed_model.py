"""A model's weights laid out for decoding, where a few rows meet every matrix at each step.

On CPU each matrix is kept in the order in which oneDNN's product reads it: with the rows of a beam this is twice as
fast as a plain matrix, and a row's result does not depend on the other rows. Elsewhere it is kept as [inputs, outputs],
which products with few rows read in order. The matrices are copies: they do not follow a model that is trained further.
Models other than the prefix LM are a ``PlainModel``, which packs nothing.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.inference import c_code
from s2s.inference.c_products import CLinear, CQuantisedLinear, gelu
from s2s.inference.c_step import CNorm, CStep
from s2s.machine.paths import way
from s2s.model.attention import Cached, DotProductAttention, kernel_mask, merge_heads, softmax_attention
from s2s.model.backbone import Backbone
from s2s.model.block import Block
from s2s.model.layers import activations, multiply
from s2s.model.output_rows import filled
from s2s.model.transformer import Memory, PrefixTransformer, Transform

Map = Callable[[Tensor], Tensor]
"""A map of rows [N, inputs] to rows [N, outputs], such as a linear map with its bias."""
Layout = Callable[[Tensor, Tensor], Map]
"""A function that makes a map from a weight [outputs, inputs] and a bias [outputs]."""
Attend = Callable[[int, Tensor], Tensor]
"""A step's attention: from a layer's number and the new rows' queries, keys and values [N, 3 D] to [N, D]."""


@dataclass(frozen=True)
class TransposedLinear:
    """x W + b with W [inputs, outputs]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True)
class PackedLinear:
    """activation(x W^T + b) as one operation of oneDNN, with W in oneDNN's own order.

    ``few`` computes the same bits faster for up to ``FEW`` rows. It has no activation.
    """

    weight: Tensor
    bias: Tensor
    activation: str = "none"
    few: CLinear | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.few is not None and x.shape[0] <= FEW:
            return self.few(x)
        return multiply(x, self.weight, self.bias, self.activation)


FUSED = ("gelu", "relu")
"""Activations that oneDNN computes with the product."""
FEW = 32
"""The most rows for which C is faster than oneDNN: with 64 both take the same time (measured on Zen 4)."""
ROWS = 4
"""Batch-size hint for oneDNN's weight reordering.

The layout chosen for 1 row is slow for larger batches; the one for 4 is fast for all of them (measured).
"""


@lru_cache(maxsize=1)
def has_bfloat16_product() -> bool:
    """Return whether oneDNN multiplies in bfloat16 here; it raises an error where the processor, or its limit, cannot.

    torch's own question reads the processor alone, so a limit such as ``ONEDNN_MAX_CPU_ISA=AVX2`` needs the attempt.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    weight = torch.zeros(16, 16, dtype=torch.bfloat16)
    try:
        multiply(weight, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), weight[0])
    except RuntimeError:
        return False
    return True


def packed(weight: Tensor, bias: Tensor) -> Map:
    """Return the linear map of a weight [outputs, inputs] and a bias, in oneDNN's order where that is the way.

    Of torch's own product, a row's last bits may depend on the other rows.
    """
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and way("packed") == "onednn"
    half = on_cpu and weight.dtype == torch.bfloat16 and has_bfloat16_product()
    if not (half or (on_cpu and weight.dtype == torch.float32)):
        return TransposedLinear(weight.t().contiguous(), bias.clone())
    in_c = way("few") == "c" and not half and c_code.build().functions is not None
    span = span_of_onednn(weight.shape[1]) if in_c else None
    few = CLinear(weight, bias, span) if span else None
    return PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias.clone(), few=few)


SPANS = 64, 128, 256, 384, 512, 1024, 2048
"""The numbers of inputs that oneDNN may sum before it adds the sums: 512 or 1024 on x86 (found by comparing)."""


@lru_cache(maxsize=64)
def span_of_onednn(inputs: int) -> int | None:
    """Return the span with which ``CLinear`` has the bits of oneDNN's product here, or None where none has.

    Without equal bits a row's result would depend on the number of rows, and so on the batch.
    """
    generator = torch.Generator().manual_seed(0)
    # More rows than few ones, and outputs that fill neither a panel nor a register.
    shapes = (2 * FEW, inputs), (150, inputs), (150,)
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes)
    wanted = multiply(x, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias)
    spans = [inputs, *(span for span in SPANS if span < inputs)]
    return next((span for span in spans if torch.equal(CLinear(weight, bias, span)(x), wanted)), None)


def _name(activation: nn.Module) -> str | None:
    """Return the name of one of the ``FUSED`` activations, None of any other."""
    # By type, as every look-up makes a new module.
    return {type(activations()[name]): name for name in FUSED}.get(type(activation))


def _activated(linear: Map, activation: nn.Module) -> Map:
    """Return the map followed by the activation, as one operation where oneDNN has it and always computes the map."""
    name = _name(activation)
    in_c = _in_c(linear) is not None
    if in_c and name == "gelu":
        return lambda x: gelu(linear(x))
    # oneDNN rounds an activation in other ways than torch, so that bits would depend on the number of rows.
    if isinstance(linear, PackedLinear) and not in_c and name is not None:
        return replace(linear, activation=name)
    return lambda x: activation(linear(x))


def _in_c(linear: Map) -> CLinear | CQuantisedLinear | None:
    """Return the map in C that computes few rows, or None where there is none."""
    for_few = linear.few if isinstance(linear, PackedLinear) else linear
    return for_few if isinstance(for_few, CLinear | CQuantisedLinear) else None


def _normalised(norm: nn.Module, in_c: bool = False) -> Map:
    """Return a layer norm as a plain function, of C or of torch; any other module as it is."""
    if not isinstance(norm, nn.LayerNorm):
        return norm
    if in_c:
        return CNorm(norm)
    # The call of a module costs as much as the norm of a few rows.
    shape, weight, bias, epsilon = list(norm.normalized_shape), norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon)


def _transform(module: nn.Module, layout: Layout) -> Map:
    """Return the model's prediction transform, or the module as it is where the model has none."""
    if not isinstance(module, Transform):
        return module
    dense, activation, norm = module.children()
    mapped = _activated(layout(dense.weight.detach(), dense.bias.detach()), activation)  # type: ignore[operator]
    last = _normalised(norm)
    return lambda x: last(mapped(x))


class PackedBlock:
    """One layer as a function of rows [N, D], without dropout."""

    def __init__(self, block: Block, layout: Layout) -> None:
        attention, (up, activation, down) = cast(DotProductAttention, block.attention), block.feed_forward
        maps = [
            layout(linear.weight.detach(), linear.bias.detach())  # type: ignore[operator]
            for linear in (attention.query_key_value, attention.output, up, down)
        ]
        self.query_key_value, self.output, grow, self.shrink = maps
        self.grow, self.pre = _activated(grow, activation), block.pre
        self.maps_in_c = [in_c for in_c in map(_in_c, maps) if in_c is not None]
        whole = len(self.maps_in_c) == len(maps)
        self.norms = [_normalised(norm, whole) for norm in (block.attention_norm, block.feed_forward_norm)]
        self.gelu = _name(activation) == "gelu"

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values [N, 3 D] of rows [N, D]."""
        return self.query_key_value(self.norms[0](x) if self.pre else x)

    def __call__(self, x: Tensor, attend: Map) -> Tensor:
        """Map rows [N, D] to rows [N, D]; ``attend`` maps their queries, keys and values [N, 3 D] to [N, D]."""
        first, second = self.norms
        if self.pre:
            x = self.output(attend(self.project(x))).add_(x)
            return self.shrink(self.grow(second(x))).add_(x)
        x = first(self.output(attend(self.project(x))).add_(x))
        return second(self.shrink(self.grow(x)).add_(x))


def _step_in_c(blocks: Sequence[PackedBlock]) -> CStep | None:
    """Return the step through the blocks in one call, or None where some part of one is not in C."""
    layers = []
    for block in blocks:
        norms = [norm for norm in block.norms if isinstance(norm, CNorm)]
        if not block.gelu or len(block.maps_in_c) + len(norms) < 6:
            return None
        layers.append((block.maps_in_c, norms))
    return CStep(layers, blocks[0].pre) if layers else None


class SourceAttention:
    """Attention of sources [B, S] to themselves, for N rows of theirs; it keeps keys and values.

    On CPU these are the rows that are not padding. A GPU computes all B S rows in less time than it takes to ask it
    which are not. ``valid`` [B, S] marks those and ``mask`` [B, 1, 1, S] hides the others. On CPU sources are attended
    to one at a time: with padding, the order in which sums are added up, and so their last bits, would depend on the
    batch.
    """

    def __init__(self, mask: Tensor, lengths: Tensor, heads: int) -> None:
        self.mask, self.valid, self.heads = kernel_mask(mask, mask), mask[:, 0, 0] == 0, heads
        self.lengths: list[int] | None = lengths.tolist() if mask.device.type == "cpu" else None
        self.layers: list[Cached] = []

    def rows(self, x: Tensor) -> Tensor:
        """Return the rows [N, D] of x [B, S, D]."""
        return x.flatten(0, 1) if x.is_cuda else x[self.valid]

    def keep(self, projected: Tensor) -> list[Tensor]:
        """Keep a layer's keys and values from queries, keys and values [N, 3 D] of the rows.

        Returns the three as [3, n, H, L, d] for the sources that are attended to together: one alone on CPU, else all.
        """
        heads = projected.unflatten(1, (3, self.heads, -1))
        if self.lengths is None:
            # Zeros, because padding may be NaN where a source has no rows, and NaN times a weight of 0 would be too.
            padded = heads.unflatten(0, self.valid.shape).masked_fill(~self.valid[..., None, None, None], 0.0)
            parts = [padded.permute(2, 0, 3, 1, 4)]
            self.layers.append((parts[0][1], parts[0][2]))
            return parts
        sources, longest = self.valid.shape
        kept = projected.new_zeros(2, sources, self.heads, longest, heads.shape[3])
        parts = [rows.permute(1, 2, 0, 3)[:, None] for rows in heads.split(self.lengths)]
        for source, (part, length) in enumerate(zip(parts, self.lengths, strict=True)):
            kept[:, source, :, :length] = part[1:, 0]
        self.layers.append((kept[0], kept[1]))
        return parts

    def __call__(self, projected: Tensor) -> Tensor:
        """Map a layer's queries, keys and values [N, 3 D] to [N, D]."""
        parts = self.keep(projected)
        if self.lengths is None:
            query, keys, values = parts[0]
            return self.rows(merge_heads(softmax_attention(query, keys, values, self.mask)))
        return torch.cat([merge_heads(softmax_attention(*part))[0] for part in parts])


class PackedModel:
    """A prefix LM laid out for decoding; ``layout`` makes its maps.

    With ``rounds_cache`` keys and values are kept in bfloat16. Where the attention of some layer is not ``packable``,
    only the output layer is packed, and ``blocks`` is empty.
    """

    @torch.no_grad()
    def __init__(self, model: PrefixTransformer, layout: Layout = packed, rounds_cache: bool = False) -> None:
        self.model, self.rounds_cache = model, rounds_cache
        embedding = model.embedding
        self.table = embedding.tokens.weight
        self.output = layout(filled(self.table), filled(model.output_bias))
        # Target tokens all have segment 1, so one lookup gives position and segment.
        self.positions = embedding.positions.weight[embedding.offset :] + embedding.segments.weight[1]
        self.transform = _transform(model.transform, layout)
        self.first_norm, self.last_norm = _normalised(embedding.norm), _normalised(model.final_norm)
        packable = all(block.attention.packable for block in model.blocks)  # type: ignore[union-attr]
        blocks: Sequence[Block] = list(model.blocks) if packable else []  # type: ignore[arg-type]
        self.blocks = [PackedBlock(block, layout) for block in blocks]
        self.in_c = _step_in_c(self.blocks)
        # More rows are faster by oneDNN, with the same bits; of int8 any number is in C.
        self.most_in_c = FEW if layout is packed else sys.maxsize

    def encode(self, source: Tensor, lengths: Tensor) -> Memory:
        """Encode sources [B, S] of the lengths [B] as ``PrefixTransformer.encode`` does."""
        if not self.blocks:
            return self.model.encode(source, lengths)
        x, mask = self.model.embed_source(source, lengths)
        attention = SourceAttention(mask, lengths, self.model.shape.heads)
        rows = attention.rows(x)
        for block in self.blocks[:-1]:
            rows = block(rows, attention)
        # Of the last layer only keys and values are wanted: the target attends to them.
        attention.keep(self.blocks[-1].project(rows))
        return Memory(tuple(attention.layers), lengths, mask)

    def step(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the last layer's rows [N, D] of ids [N] at the positions [N], which count source and target."""
        x = self.first_norm(functional.embedding(tokens, self.table) + self.positions[positions])
        in_c = self.in_c if len(x) <= self.most_in_c else None
        if in_c is not None and in_c.suits(attend, len(x)):
            return self.last_norm(in_c(x, attend))
        for layer, block in enumerate(self.blocks):
            x = block(x, lambda rows, layer=layer: attend(layer, rows))  # type: ignore[misc]
        return self.last_norm(x)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities [N, V] of the next token after rows [N, D], in float32."""
        scores = self.output(self.transform(hidden))[:, : len(self.table)]
        return scores.float().log_softmax(dim=-1)


class PlainModel:
    """A model that decodes by its own ``encode`` and ``step``."""

    blocks: Sequence[Any] = ()
    rounds_cache = False

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
