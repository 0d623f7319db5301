"""Checks that a saved optimizer state fits the parameters for which it is loaded.

Torch's fused kernels trust a state: one with shorter moments would make them read past the end of its memory.
"""

from collections.abc import Sequence
from itertools import chain
from math import isfinite
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from s2s.optim.adafactor.optimizer import Adafactor
from s2s.optim.adafactor.updates import factored_axes

ADAMW = {"step", "exp_avg", "exp_avg_sq"}


def check_saved(optimizer: Optimizer, saved: Any) -> None:
    """Raise a ValueError that names what in a saved state does not fit the optimizer, before any of it is used."""
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict) or len(groups) != len(optimizer.param_groups):
        raise ValueError("the optimizer's groups or states are not those of this recipe")
    for number, (group, expected) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if not isinstance(group, dict) or not isinstance(ids := group.get("params"), list):
            raise ValueError(f"group {number} of the optimizer has no parameters")
        if len(ids) != len(expected["params"]):
            raise ValueError(
                f"group {number} of the optimizer has {len(ids)} parameters, not {len(expected['params'])}"
            )
        if wrong := [name for name, value in expected.items() if name in group and not _is_like(value, group[name])]:
            raise ValueError(f"{wrong[0]} of the optimizer is {str(group[wrong[0]])[:40]!r}")
    numbers = list(chain.from_iterable(group["params"] for group in groups))
    in_order = all(type(number) is int for number in numbers) and numbers == sorted(set(numbers))
    if not in_order or not set(states) <= set(numbers):
        raise ValueError("the optimizer has states of other parameters")
    parameters = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    for (parameter, options), number in zip(parameters, numbers, strict=True):
        if number in states and (wrong := _misfits(optimizer, parameter, options, states[number])):
            raise ValueError(f"{wrong[0]} of parameter {number} does not fit a parameter of shape {[*parameter.shape]}")


def _is_like(expected: Any, saved: Any) -> bool:
    """Return whether an option may have a saved value: a finite number where a number is expected."""
    # First, as a bool is an int too.
    if isinstance(expected, bool) or isinstance(saved, bool):
        return type(expected) is type(saved)
    if isinstance(expected, int | float):
        return isinstance(saved, int | float) and isfinite(saved)
    if isinstance(expected, tuple):
        same_length = isinstance(saved, tuple | list) and len(saved) == len(expected)
        return same_length and all(map(_is_like, expected, saved))
    return True  # None stands for a number that is left out


def _misfits(optimizer: Optimizer, parameter: Tensor, options: dict[str, Any], state: Any) -> list[str]:
    """Return the names of entries that a parameter's state lacks, or that do not fit the parameter."""
    if not isinstance(state, dict):
        return ["state"]
    shapes = _shapes(optimizer, parameter, options)
    # A momentum may be missing: it is stored with beta1 only, and one that is missing begins at 0.
    names = {"step"} | (shapes.keys() - {"momentum"}) if isinstance(optimizer, Adafactor) else ADAMW
    lacking = sorted(names - state.keys()) if state else []
    return lacking + [str(name) for name, value in state.items() if not _fits(name, value, shapes)]


def _shapes(optimizer: Optimizer, parameter: Tensor, options: dict[str, Any]) -> dict[str, Sequence[int]]:
    """Return the shape of each moment of a parameter."""
    shape = list(parameter.shape)
    if not isinstance(optimizer, Adafactor):
        return {"exp_avg": shape, "exp_avg_sq": shape}
    if (axes := factored_axes(shape, options)) is None:
        return {"moments": shape, "momentum": shape}
    leading = [length for axis, length in enumerate(shape) if axis not in axes]
    return {"rows": [*leading, shape[axes[0]]], "columns": [*leading, shape[axes[1]]], "momentum": shape}


def _fits(name: Any, value: Any, shapes: dict[str, Sequence[int]]) -> bool:
    if name == "step":
        return (isinstance(value, Tensor) and value.numel() == 1 and float(value) >= 0) or type(value) is int
    return (
        name in shapes and isinstance(value, Tensor) and value.is_floating_point() and list(value.shape) == shapes[name]
    )
