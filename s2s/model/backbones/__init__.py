"""The kinds of models: rows of ``BACKBONES``, each a ``Backbone`` that its shape alone determines."""

from collections.abc import Mapping
from typing import Any

import torch

from s2s.errors import nearest
from s2s.model.architecture import Architecture
from s2s.model.backbone import Backbone, Shape
from s2s.model.backbones.causal_lm import CausalLM
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.model.backbones.encoder_decoder import EncoderDecoder
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.model.transformer import PrefixTransformer

BACKBONES: dict[str, tuple[type[Backbone], type[Shape]]] = {
    "prefix_lm": (PrefixTransformer, Architecture),
    "encoder_decoder": (EncoderDecoder, ForeignArchitecture),
    "causal_lm": (CausalLM, ForeignArchitecture),
}
"""The values of ``model.backbone``: the class of a model, which is made of its shape, and the class of the shape."""


def is_foreign(kind: str) -> bool:
    """Return whether a row of ``BACKBONES`` is of models of ``transformers``."""
    return issubclass(BACKBONES[kind][0], ForeignBackbone)


def untrained(shape: Any) -> Backbone:
    """Return a model of this shape; its weights are to be drawn or loaded."""
    kind: Any = BACKBONES[shape.backbone][0]
    if kind is PrefixTransformer:
        return PrefixTransformer(shape)
    # A run is loaded on the device "meta", where buffers that are no weights would lose their values.
    # Nor do the weights, which are replaced, take numbers of the caller's generator.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model: Backbone = kind(shape)
    return model


def without_weights(shape: Any) -> Backbone:
    """Return a model of this shape on the device "meta", to which another process tells its tensors and measures."""
    kind: Any = BACKBONES[shape.backbone][0]
    with torch.device("meta"):
        model: Backbone = kind(shape)
    return model


def shape_class(values: Mapping[str, Any]) -> type[Shape]:
    """Return the class of a saved shape. Errors: a ValueError for a kind that is none of ``BACKBONES``."""
    kind = values.get("backbone", "prefix_lm")  # not among the values of a prefix LM
    if kind not in BACKBONES:
        raise ValueError(f"no backbone {str(kind)[:40]!r}{nearest(str(kind), BACKBONES)}")
    return BACKBONES[kind][1]
