"""The way back: a model's weights laid out as a BERT checkpoint of ``transformers``."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from s2s.errors import UserError
from s2s.model.bert_weights import EMBEDDINGS, LAYER, TRANSFORMS, State
from s2s.model.transformer import PrefixTransformer

PREFIX = "bert."
KINDS = ("weight", "bias")


def refuse_what_bert_cannot_hold(model: PrefixTransformer) -> None:
    """Raises a ``UserError`` with the reason for a model that is not BERT's function of its source."""
    shape = model.shape
    if shape.norm != "post":
        raise UserError("export: BERT normalises after each half of a block, this model before (model.norm: pre)")
    if shape.attention != "dot":
        raise UserError(f"export: BERT attends by dot products, this model by '{shape.attention}' (model.attention)")


def bert_config(model: PrefixTransformer, padding: int) -> dict[str, Any]:
    """The values of a ``BertConfig``; positions count from 0, wherever the model's own table starts."""
    shape = model.shape
    return {
        "architectures": ["BertForMaskedLM" if shape.transform else "BertModel"],
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward,
        "hidden_act": shape.activation,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": 2,
        "layer_norm_eps": shape.epsilon,
        "pad_token_id": padding,
        "dtype": "float32",
    }


def bert_state(model: PrefixTransformer) -> State:
    """The weights under BERT's names, in float32; the output's bias too, which needs no transform before it."""
    ours = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    offset = model.shape.position_offset
    ours["embedding.positions.weight"] = ours["embedding.positions.weight"][offset:]
    theirs = {PREFIX + name: ours[own] for own, name in EMBEDDINGS.items()}
    for layer in range(model.shape.layers):
        theirs |= {PREFIX + name: tensor for name, tensor in _layer(ours, layer)}
    head = TRANSFORMS[0]
    theirs[head["bias"]] = ours["output_bias"]
    if model.shape.transform:
        theirs |= {f"{head[part]}.{kind}": ours[f"transform.{part}.{kind}"] for part in "02" for kind in KINDS}
    return {name: tensor.contiguous().clone() for name, tensor in theirs.items()}


def _layer(ours: State, layer: int) -> Iterator[tuple[str, Tensor]]:
    for own, name in LAYER.items():
        for kind in KINDS:
            yield f"encoder.layer.{layer}.{name}.{kind}", ours[f"blocks.{layer}.{own}.{kind}"]
    for kind in KINDS:
        fused = ours[f"blocks.{layer}.attention.query_key_value.{kind}"].chunk(3)
        for name, part in zip(("query", "key", "value"), fused, strict=True):
            yield f"encoder.layer.{layer}.attention.self.{name}.{kind}", part
