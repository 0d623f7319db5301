"""Export: a model's weights laid out as a BERT checkpoint of ``transformers``."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from s2s.errors import UserError
from s2s.model.backbone import Backbone
from s2s.model.bert_weights import EMBEDDINGS, KINDS, LAYER, TRANSFORMS, State
from s2s.model.transformer import PrefixTransformer

PREFIX = "bert."


def as_bert(model: Backbone) -> PrefixTransformer:
    """Return the model. Errors: a UserError with the reason where it computes another function than BERT."""
    if not isinstance(model, PrefixTransformer):
        raise UserError("export: this model is one of transformers, and no BERT; only the prefix LM becomes one")
    shape = model.shape
    if shape.norm != "post":
        raise UserError("export: BERT normalises after each half of a block, this model before (model.norm: pre)")
    if shape.has_slots:
        raise UserError(f"export: BERT attends by dot products, this model by '{shape.attention}' (model.attention)")
    return model


def bert_config(model: PrefixTransformer, padding: int) -> dict[str, Any]:
    """Return the values of a ``BertConfig``; its positions count from 0, wherever the model's table starts."""
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
        # This model never drops weights of attention.
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": 2,
        "layer_norm_eps": shape.epsilon,
        "pad_token_id": padding,
        "dtype": "float32",
    }


def bert_state(model: PrefixTransformer) -> State:
    """Return the weights under BERT's names, in float32, with the output's bias also where there is no transform."""
    state = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    offset = model.shape.position_offset
    state["embedding.positions.weight"] = state["embedding.positions.weight"][offset:]
    bert = {PREFIX + theirs: state[name] for name, theirs in EMBEDDINGS.items()}
    for layer in range(model.shape.layers):
        bert |= {PREFIX + name: tensor for name, tensor in _layer(state, layer)}
    head = TRANSFORMS[0]
    bert[head["bias"]] = state["output_bias"]
    if model.shape.transform:
        bert |= {f"{head[part]}.{kind}": state[f"transform.{part}.{kind}"] for part in "02" for kind in KINDS}
    # safetensors refuses tensors that share memory, as the three parts of a fused matrix do.
    return {name: tensor.contiguous().clone() for name, tensor in bert.items()}


def _layer(state: State, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a layer's tensors under BERT's names; query, key and value are one matrix here and three there."""
    for name, theirs in LAYER.items():
        for kind in KINDS:
            yield f"encoder.layer.{layer}.{theirs}.{kind}", state[f"blocks.{layer}.{name}.{kind}"]
    for kind in KINDS:
        fused = state[f"blocks.{layer}.attention.query_key_value.{kind}"].chunk(3)
        for name, part in zip(("query", "key", "value"), fused, strict=True):
            yield f"encoder.layer.{layer}.attention.self.{name}.{kind}", part
