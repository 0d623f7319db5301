"""A slow prefix LM with synthesised attention: one example, one sequence, one mask, scores by slot."""

import math

import torch
from torch import Tensor, nn

from s2s.model.attention_scores import Sizes
from s2s.model.synthesizer import Synthesizer

KINDS = ("weight", "bias")
SLOTS = {"source_slots": 11, "target_slots": 8}
SINGLE = ("dense", "random", "fixed_random", "factorized_dense", "factorized_random")
MIXED = ("dot+random", "dense+random", "random+factorized_random", "dot+dense+fixed_random+factorized_dense")
LAYERED = ("dot,random", "dense+dot,fixed_random")
VARIANTS = (*SINGLE, *MIXED, *LAYERED)
CHOSEN = ("dense", "random", "factorized_dense", "dot+random", "random+factorized_random", "dense+dot,fixed_random")
"""One of each way through the code."""
SHARED = ("random", "fixed_random", "factorized_random")
"""Scores that no input changes."""


HEADS, WIDTH = 2, 6
SIZES = Sizes(WIDTH, HEADS, sum(SLOTS.values()), rank=3)


def attention_of(name: str, seed: int = 0) -> Synthesizer:
    attention, generator = Synthesizer(name.split("+"), SIZES).double(), torch.Generator().manual_seed(seed)
    for parameter in attention.parameters():
        parameter.data.normal_(0.1, 0.7, generator=generator)
    return attention


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def scores(state: dict[str, Tensor], kind: str, x: Tensor, slots: list[int], heads: int, head: int) -> Tensor:
    """Scores [n, n] of one head for rows x [n, D] in the given slots; ``state`` is that of one kind of scores."""
    each = x.shape[1] // heads
    own = slice(head * each, (head + 1) * each)
    if kind == "dot":
        query, key = (part[:, own] for part in linear(state, x, "query_key").chunk(2, dim=1))
        return query @ key.T / math.sqrt(each)
    if kind in ("random", "fixed_random"):
        return state["table"][head][slots][:, slots]
    if kind == "factorized_random":
        rows, columns = state["rows"][head], state["columns"][head].T
        return torch.stack([(rows[slots] * columns[j]).sum(dim=1) for j in slots], dim=1)
    hidden = linear(state, x, "hidden")[:, own]
    hidden = hidden * (hidden > 0)
    if kind == "dense":
        return hidden @ state["keys"][head][:, slots] + state["bias"][head, 0, slots]
    assert kind == "factorized_dense"
    total = SLOTS["source_slots"] + SLOTS["target_slots"]
    tiled = math.ceil(math.sqrt(total))
    both = hidden @ state["factors"][head] + state["bias"][head, 0]
    return torch.stack([both[:, j % tiled] * both[:, tiled + j // tiled] for j in slots], dim=1)


def part_of(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}


def attend(state: dict[str, Tensor], kinds: list[str], x: Tensor, slots: list[int], visible: Tensor, heads: int):
    """One layer's attention over rows x [n, D]."""
    each, found = x.shape[1] // heads, []
    if kinds == ["dot"]:
        pairs = {kind: state[f"query_key_value.{kind}"].split([2 * x.shape[1], x.shape[1]]) for kind in KINDS}
        new = {f"parts.dot.query_key.{kind}": pair[0] for kind, pair in pairs.items()}
        state = state | new | {f"value.{kind}": pair[1] for kind, pair in pairs.items()}
    values = linear(state, x, "value")
    for head in range(heads):
        raised = state["mixture"][:, head].exp() if len(kinds) > 1 else torch.ones(1, dtype=x.dtype)
        mixed = torch.zeros(len(x), len(x), dtype=x.dtype)
        for share, kind in zip(raised / raised.sum(), kinds, strict=True):
            mixed = mixed + share * scores(part_of(state, f"parts.{kind}."), kind, x, slots, heads, head)
        chances = mixed.exp() * visible
        found.append(chances / chances.sum(dim=1, keepdim=True) @ values[:, head * each : (head + 1) * each])
    return linear(state, torch.cat(found, dim=1), "output")


def hidden_rows(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """The target's last rows [T, D] of one example's ids."""
    shape, first, total = model.shape, len(source), len(source) + len(target)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    slots = [*range(first), *range(shape.source_slots, shape.source_slots + len(target))]
    visible = torch.tensor([[k < first or first <= k <= q for k in range(total)] for q in range(total)])
    layers = [layer.split("+") for layer in shape.attention.split(",")]
    layers = layers * shape.layers if len(layers) == 1 else layers

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + shape.epsilon).sqrt()
        return scaled * state[name + ".weight"] + state[name + ".bias"]

    def feed_forward(x: Tensor, name: str) -> Tensor:
        inner = linear(state, x, name + "feed_forward.0")
        return linear(state, inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, name + "feed_forward.2")

    x = state["embedding.tokens.weight"][torch.cat([source, target])] + state["embedding.positions.weight"][:total]
    x = x + state["embedding.segments.weight"][[0] * first + [1] * len(target)]
    x = x if shape.norm == "pre" else norm(x, "embedding.norm")
    for layer, kinds in enumerate(layers):
        name = f"blocks.{layer}."
        own = part_of(state, name + "attention.")
        if shape.norm == "pre":
            x = x + attend(own, kinds, norm(x, name + "attention_norm"), slots, visible, shape.heads)
            x = x + feed_forward(norm(x, name + "feed_forward_norm"), name)
        else:
            x = norm(x + attend(own, kinds, x, slots, visible, shape.heads), name + "attention_norm")
            x = norm(x + feed_forward(x, name), name + "feed_forward_norm")
    return (norm(x, "final_norm") if shape.norm == "pre" else x)[first:]
