"""The model: a prefix LM, its attention variants and warm starts, and backbones for models of ``transformers``."""

from s2s.model.architecture import Architecture, ModelSettings
from s2s.model.backbone import Backbone, Memory
from s2s.model.transformer import PrefixTransformer

__all__ = ["Architecture", "Backbone", "Memory", "ModelSettings", "PrefixTransformer"]
