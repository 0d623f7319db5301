"""LoRA by ``peft``: low-rank products that train next to the frozen matrices of a model of ``transformers``.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": W x + (alpha / rank) B A x, where B begins at 0.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from s2s.errors import UserError, first_line, optional_module

AUTO = "all-linear"
"""The library's name for every linear layer but the output."""


def adapt(inner: Any, values: Mapping[str, Any]) -> None:
    """Put the products into a model, and freeze all else. Errors: a UserError for targets that it does not have."""
    peft = optional_module("peft", "lora", "model.lora")
    config = peft.LoraConfig(
        r=values["rank"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=values["targets"] or AUTO,
    )
    try:
        with warnings.catch_warnings():
            # GPT-2's matrices are transposed, which the library finds out by itself, and warns of.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            peft.inject_adapter_in_model(config, inner)
    except ValueError as error:
        raise UserError(f"model.lora.targets: {values['targets']}: {first_line(error)}") from error


def merge(inner: nn.Module) -> None:
    """Add the products of a model to its matrices, and leave it as it was without LoRA."""
    layers = optional_module("peft.tuners.tuners_utils", "lora", "model.lora")
    adapted = [(name, part) for name, part in inner.named_modules() if isinstance(part, layers.BaseTunerLayer)]
    for name, part in adapted:
        part.merge()
        owner, _, last = name.rpartition(".")
        setattr(inner.get_submodule(owner), last, part.get_base_layer())
    inner.requires_grad_(True)
