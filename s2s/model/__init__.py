"""The model: a prefix LM, its attention variants and its warm starts."""

from s2s.model.architecture import Architecture, ModelSettings
from s2s.model.transformer import Memory, PrefixTransformer

__all__ = ["Architecture", "Memory", "ModelSettings", "PrefixTransformer"]
