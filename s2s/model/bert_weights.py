"""Import: a BERT checkpoint's tensors under this model's names, and a report of the ones that have no counterpart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.model.architecture import Architecture
from s2s.model.attention_variants import by_layer

State = dict[str, Tensor]

EMBEDDINGS = {
    "embedding.tokens.weight": "embeddings.word_embeddings.weight",
    "embedding.positions.weight": "embeddings.position_embeddings.weight",
    "embedding.segments.weight": "embeddings.token_type_embeddings.weight",
    "embedding.norm.weight": "embeddings.LayerNorm.weight",
    "embedding.norm.bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.0": "intermediate.dense",
    "feed_forward.2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
KINDS = ("weight", "bias")
HEAD_START = 3.0
"""The dot product's number in the softmax of a mixture, where other scores have 0: it gets 95 % of the weight of two.

A mixture thus starts close to the checkpoint's function.
"""
TRANSFORMS = (
    {
        "0": "cls.predictions.transform.dense",
        "2": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    {"0": "lm_head.dense", "2": "lm_head.layer_norm", "bias": "lm_head.bias"},
)
"""The names of the prediction transform's two layers and of the output's bias, in BERT and in RoBERTa."""


def bias_name(state: State) -> str | None:
    """Return the name of the output's bias, which a checkpoint may have without a transform."""
    return next((names["bias"] for names in TRANSFORMS if names["bias"] in state), None)


def transform_names(state: State) -> dict[str, str] | None:
    """Return the names of a checkpoint's prediction transform, if it has one."""
    return next((names for names in TRANSFORMS if names["0"] + ".weight" in state), None)


def translate(name: str, shape: Architecture, original: State, keep: Sequence[int] | None) -> tuple[State, set[str]]:
    """Return this model's state from the checkpoint's, and the checkpoint's names that it uses.

    ``keep`` are the rows of the vocabulary that stay, in order. Raises a UserError for a checkpoint that lacks tensors.
    """
    names = {key: theirs for key, theirs in EMBEDDINGS.items() if theirs in original}
    for layer in range(shape.layers):
        for part, theirs in LAYER.items():
            for kind in KINDS:
                names[f"blocks.{layer}.{part}.{kind}"] = f"encoder.layer.{layer}.{theirs}.{kind}"
    if (transform := transform_names(original)) is not None:
        for part in "02":
            names |= {f"transform.{part}.{kind}": f"{transform[part]}.{kind}" for kind in KINDS}
    if (bias := transform["bias"] if transform else bias_name(original)) is not None:
        names["output_bias"] = bias
    if missing := sorted(set(names.values()) - original.keys()):
        raise UserError(f"model.pretrained: '{name}' lacks {len(missing)} tensors, among them {missing[0]}")
    state = {key: original[theirs].clone() for key, theirs in names.items()}
    used = set(names.values()) | _fuse(shape, original, state)
    _fit(shape, state, keep)
    return state, used


def _fuse(shape: Architecture, original: State, state: State) -> set[str]:
    """Put query, key and value of each layer where its attention has them; return the checkpoint's names of them."""
    used = set()
    for layer, kinds in enumerate(by_layer(shape.attention, shape.layers)):
        prefix = f"blocks.{layer}.attention."
        for linear, parts in _projections(kinds).items():
            for kind in KINDS:
                theirs = [f"encoder.layer.{layer}.attention.self.{part}.{kind}" for part in parts]
                state[f"{prefix}{linear}.{kind}"] = torch.cat([original[name] for name in theirs])
                used.update(theirs)
        if "dot" in kinds and len(kinds) > 1:
            rows = torch.tensor([HEAD_START * (kind == "dot") for kind in kinds])
            state[f"{prefix}mixture"] = rows[:, None].repeat(1, shape.heads)
    return used


def _projections(kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the linear maps of a layer that the checkpoint has, each with its parts there."""
    if list(kinds) == ["dot"]:
        return {"query_key_value": ("query", "key", "value")}
    return {"value": ("value",)} | ({"parts.dot.query_key": ("query", "key")} if "dot" in kinds else {})


def _fit(shape: Architecture, state: State, keep: Sequence[int] | None) -> None:
    """Trim vocabulary and positions in place; where the checkpoint has fewer than two segments, copy the first."""
    if keep is not None:
        rows = torch.tensor(keep)
        state["embedding.tokens.weight"] = state["embedding.tokens.weight"][rows]
        if "output_bias" in state:
            state["output_bias"] = state["output_bias"][rows]
    # Rows before ``position_offset`` belong to no token; they are kept so that the others keep their numbers.
    last = shape.position_offset + shape.positions
    # A copy, because a view would keep the whole table in memory.
    state["embedding.positions.weight"] = state["embedding.positions.weight"][:last].clone()
    # RoBERTa has one segment. Its copy changes no output, and training can move the two apart.
    segments = state.get("embedding.segments.weight", torch.zeros(1, shape.width))
    state["embedding.segments.weight"] = torch.cat([segments, segments])[:2] if len(segments) < 2 else segments[:2]


def report(
    sizes: tuple[int, int], shape: Architecture, original: State, unknown: Sequence[str], used: set[str]
) -> list[str]:
    """Return lines that tell what of the checkpoint the model does not use, and what of the model it does not have.

    ``sizes`` are the checkpoint's numbers of layers and of pieces, ``unknown`` the names that no masked LM has.
    """
    unused = sorted({*original, *unknown} - used - _tied(original))
    lines = [f"warm start: {shape.layers} of {sizes[0]} layers, width {shape.width}"]
    lines.append(f"vocabulary: {shape.vocabulary} of {sizes[1]} pieces")
    if unused:
        lines.append(f"not used of the checkpoint: {', '.join(_by_layer(unused, shape.layers))}")
    if not shape.transform:
        bias = "its bias" if bias_name(original) else "a bias of zeros"
        lines.append(f"not in the checkpoint: the prediction head; the output is the embeddings and {bias}")
    segments = original.get(EMBEDDINGS["embedding.segments.weight"])
    if segments is None or len(segments) < 2:
        lines.append("not in the checkpoint: a second segment; the first was copied")
    if shape.has_slots:
        lines.append(f"not in the checkpoint: the scores of {shape.attention} but for dot products")
    return lines


def _tied(original: State) -> set[str]:
    """Return the names of an output layer that only repeats the embeddings and the bias."""
    pairs = [
        ("cls.predictions.decoder.weight", EMBEDDINGS["embedding.tokens.weight"]),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("lm_head.decoder.weight", EMBEDDINGS["embedding.tokens.weight"]),
        ("lm_head.decoder.bias", "lm_head.bias"),
    ]
    # Files may hold a tied output a second time. Other values mean that it is not tied, and it is reported as unused.
    return {copy for copy, source in pairs if copy in original and torch.equal(original[copy], original[source])}


def _by_layer(names: Sequence[str], layers: int) -> list[str]:
    """Return names with each left-out layer as one name, and a tensor of several used layers as one."""
    return list(dict.fromkeys(_folded(name, layers) for name in names))


def _folded(name: str, layers: int) -> str:
    if not name.startswith("encoder.layer."):
        return name
    parts = name.split(".")
    return ".".join(parts[:3] if int(parts[2]) >= layers else ["encoder.layer.*", *parts[3:]])
