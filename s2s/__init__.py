"""Sequence-to-sequence generation that takes exposure bias seriously."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2s.errors import UserError
    from s2s.recipe.recipe import Recipe
    from s2s.runs.run import Hypothesis, Run, load
    from s2s.train import fit

__all__ = ["Hypothesis", "Recipe", "Run", "UserError", "fit", "load"]
__version__ = "0.1.0"

# Looked up when first asked for: scoring a file should not wait for torch.
_HOMES = {
    "Hypothesis": "s2s.runs.run",
    "Recipe": "s2s.recipe.recipe",
    "Run": "s2s.runs.run",
    "UserError": "s2s.errors",
    "fit": "s2s.train",
    "load": "s2s.runs.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's2s' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
