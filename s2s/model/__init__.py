"""The model: a prefix LM, its attention variants and its warm starts."""

from s2s.model.architecture import Architecture, ModelSettings
from s2s.model.backbone import Backbone, Memory
from s2s.model.transformer import PrefixTransformer

__all__ = ["Architecture", "Backbone", "Memory", "ModelSettings", "PrefixTransformer"]
