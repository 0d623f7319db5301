"""Whether a saved state of an optimizer fits the parameters it is for: torch's kernels trust it."""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isfinite
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from s2s.optim.adafactor.factored import factored_axes
from s2s.optim.adafactor.optimizer import Adafactor

ADAMW = {"step", "exp_avg", "exp_avg_sq"}


def check_saved(optimizer: Optimizer, saved: Any) -> None:
    """Raise a ValueError that says what of a saved state is not this optimizer's, before any of it is used."""
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict) or len(groups) != len(optimizer.param_groups):
        raise ValueError("the optimizer's groups or states are not those of this recipe")
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if not isinstance(group, dict) or not isinstance(ids := group.get("params"), list):
            raise ValueError(f"group {number} of the optimizer has no parameters")
        if len(ids) != len(own["params"]):
            raise ValueError(f"group {number} of the optimizer has {len(ids)} parameters, not {len(own['params'])}")
        if wrong := [name for name, value in own.items() if name in group and not _is_like(value, group[name])]:
            raise ValueError(f"{wrong[0]} of the optimizer is {str(group[wrong[0]])[:40]!r}")
    known = list(chain.from_iterable(group["params"] for group in groups))
    if any(type(each) is not int for each in known) or known != sorted(set(known)) or not set(states) <= set(known):
        raise ValueError("the optimizer has states of other parameters")
    for (parameter, options), number in zip(_parameters(optimizer), known, strict=True):
        if number in states and (wrong := _misfits(optimizer, parameter, options, states[number])):
            raise ValueError(f"{wrong[0]} of parameter {number} is none of a parameter of shape {[*parameter.shape]}")


def _parameters(optimizer: Optimizer) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group


def _is_like(own: Any, saved: Any) -> bool:
    """Return whether an option may have a saved value: a finite number where it is a number."""
    if isinstance(own, bool) or isinstance(saved, bool):
        return type(own) is type(saved)
    if isinstance(own, int | float):
        return isinstance(saved, int | float) and isfinite(saved)
    if isinstance(own, tuple):
        return isinstance(saved, tuple | list) and len(saved) == len(own) and all(map(_is_like, own, saved))
    return True  # None stands for a number that is left out


def _misfits(optimizer: Optimizer, parameter: Tensor, options: dict[str, Any], state: Any) -> list[str]:
    """Return the names of what a state has, or lacks, against its parameter; none where it fits."""
    if not isinstance(state, dict):
        return ["state"]
    shapes = _shapes(optimizer, parameter, options)
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
    first = [length for axis, length in enumerate(shape) if axis not in axes]
    return {"rows": [*first, shape[axes[0]]], "columns": [*first, shape[axes[1]]], "momentum": shape}


def _fits(name: Any, value: Any, shapes: dict[str, Sequence[int]]) -> bool:
    if name == "step":
        return (isinstance(value, Tensor) and value.numel() == 1 and float(value) >= 0) or type(value) is int
    return (
        name in shapes and isinstance(value, Tensor) and value.is_floating_point() and list(value.shape) == shapes[name]
    )
