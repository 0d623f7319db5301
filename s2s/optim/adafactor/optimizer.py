"""AdaFactor: second moments of a matrix in the memory of its rows and columns (Shazeer and Stern 2018)."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from s2s.errors import UserError
from s2s.optim.adafactor.bundles import bundled
from s2s.optim.adafactor.phases import batches, finish, measure
from s2s.optim.adafactor.reductions import Workspace
from s2s.optim.adafactor.updates import FactoredUpdate, Options, Update, factored_axes

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Adafactor(Optimizer):
    """AdaFactor (Shazeer and Stern 2018, algorithms 4 and 5), for plain parameters and for DTensors (FSDP2).

    With g the gradient of step t = 1, 2, ... and moving averages of rate b = min(beta2_cap, 1 - t^decay_rate), a
    matrix has r of the row means and c of the column means of g^2 + eps1, and v_ij = r_i c_j / mean(r); other
    parameters have v of g^2 + eps1. Then u = g / sqrt(v), u := u / max(1, RMS(u) / clip_threshold), and the parameter
    p moves by -a u, where a = rate max(eps2, RMS(p)).

    The first ten options are those of ``transformers`` and mean the same; any but ``skip_nonfinite`` may be a group's
    own (``{"params": biases, "scale_parameter": False}``).

    lr: the rate; None with ``relative_step``, which takes min(1e-2, 1 / sqrt(t)).
    eps: eps1 and eps2.
    clip_threshold: the largest RMS of u; None clips nothing.
    beta1: rate of a moving average (momentum) of the steps a u, by which p then moves; None or 0 stores none.
    weight_decay: p shrinks by the share weight_decay a before it moves.
    scale_parameter: whether a has the factor max(eps2, RMS(p)).
    warmup_init: 1e-6 t in place of 1e-2.
    min_dim_size_to_factor: axes shorter than this are not factored; 0, as in ``transformers``, factors every matrix.
    largest_axes: factor the two largest axes of a parameter with three or more, not the last two.
    beta2_cap: the largest b; 0.999 keeps v following the gradients in long runs (Zhai et al. 2022, section 3.3).
    momentum_dtype: of the first moments; None is float32, or float64 for float64 parameters, as all other state.
    momentum_before_scaling: average u and multiply by a afterwards.
    max_relative_step: replaces the 1e-2 of the relative step.
    scale_weight_decay: False shrinks p by weight_decay times ``lr`` (or max_relative_step), whatever the step.
    decay_by_schedule: p shrinks by weight_decay times the schedule, which is ``lr`` over the ``lr`` with which its
    group began (``initial_lr``, as torch's schedulers call it).
    eps_floor: eps1 is not added but bounds mean(r) and sqrt(v) from below; None is the type's epsilon.
    skip_nonfinite: skip a step whose gradient is not finite and count it in ``skipped``, instead of raising an error.
    compiled: walk large float32 matrices on a processor in C (``kernels``) where there is a compiler.

    DTensors may be divided along one dimension of a mesh; rows, columns and momentum are divided as well.
    Errors: a UserError for values without meaning, for sparse or complex gradients and, with nothing changed, for
    gradients that are not finite (or so large that their squares are not).
    """

    skipped: int = 0

    def __init__(
        self,
        params: Parameters,
        lr: float | None = None,
        eps: tuple[float | None, float] = (1e-30, 1e-3),
        clip_threshold: float | None = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        *,
        min_dim_size_to_factor: int = 0,
        largest_axes: bool = False,
        beta2_cap: float = 1.0,
        momentum_dtype: torch.dtype | None = None,
        momentum_before_scaling: bool = False,
        max_relative_step: float = 1e-2,
        scale_weight_decay: bool = True,
        decay_by_schedule: bool = False,
        eps_floor: bool = False,
        skip_nonfinite: bool = False,
        compiled: bool = True,
    ) -> None:
        # The options are exactly the other arguments of this function.
        defaults = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    @classmethod
    def paper(cls, params: Parameters) -> "Adafactor":
        """Build the paper's algorithm: relative steps, every matrix factored, neither momentum nor weight decay."""
        return cls(params)

    @classmethod
    def mesh_tf(cls, params: Parameters, lr: float | None = None, beta1: float | None = None) -> "Adafactor":
        """Build Mesh TensorFlow's, the optimizer of T5: it factors the two largest axes if both have 128 elements."""
        return cls(params, lr, beta1=beta1, relative_step=lr is None, min_dim_size_to_factor=128, largest_axes=True)

    @classmethod
    def big_vision(cls, params: Parameters, lr: float, weight_decay: float = 0.0) -> "Adafactor":
        """Build big_vision's (Zhai et al. 2022, section 3.3): like Adam, with bfloat16 momentum.

        As in its code, p shrinks by ``weight_decay`` times the schedule, whatever the rate: a decay of 1e-4 takes 1e-4
        of p in a step at the schedule's peak.
        """
        return cls(
            params,
            lr,
            clip_threshold=None,
            beta1=0.9,
            weight_decay=weight_decay,
            scale_parameter=False,
            relative_step=False,
            min_dim_size_to_factor=32,
            largest_axes=True,
            beta2_cap=0.999,
            momentum_dtype=torch.bfloat16,
            momentum_before_scaling=True,
            decay_by_schedule=True,
        )

    @classmethod
    def pytorch(
        cls,
        params: Parameters,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
    ) -> "Adafactor":
        """Build that of ``torch.optim``: the rate is min(lr, 1 / sqrt(t)), eps1 is a floor, p shrinks by lr decay."""
        return cls(
            params,
            None,
            eps,
            d,
            beta2_decay,
            weight_decay=weight_decay,
            max_relative_step=lr,
            scale_weight_decay=False,
            eps_floor=True,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and check its options."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _check(group)
        if group["decay_by_schedule"]:
            group.setdefault("initial_lr", group["lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stages = bundled(self._updates())
        # All gradients are measured before any parameter changes: a refused step leaves everything as it was.
        if broken := measure(stages):
            if not self.defaults["skip_nonfinite"]:
                raise UserError(f"the gradient of {broken[0]} is not finite; nothing was changed")
            self.skipped += 1
            return loss
        for batch in batches(stages):
            finish(batch)
        return loss

    def _updates(self) -> Iterator[Update]:
        """Yield the update of each parameter that has a gradient."""
        workspace = Workspace()
        for number, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is None or parameter.numel() == 0:
                    continue
                named = f" '{group['param_names'][index]}'" if "param_names" in group else ""
                name = f"parameter {index}{named} of group {number}, shape {tuple(parameter.shape)},"
                if parameter.grad.is_sparse or parameter.is_complex():
                    raise UserError(f"the gradient of {name} is sparse or complex")
                axes, state = factored_axes(parameter.shape, group), self.state[parameter]
                if axes is None:
                    yield Update(name, parameter, group, state, workspace)
                else:
                    yield FactoredUpdate(name, parameter, group, state, workspace, axes)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; its tensors keep their types, which torch's own method would cast to the parameter's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # a state saved before an option was added has no value for it
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


def _check(options: Options) -> None:
    """Raise a UserError for options without meaning."""
    lr, (eps1, eps2) = options["lr"], options["eps"]
    if options["relative_step"] and lr is not None:
        raise UserError("lr: relative_step makes its own rate; give lr with relative_step=False")
    if not options["relative_step"] and lr is None:
        raise UserError("lr: needed with relative_step=False")
    if options["warmup_init"] and not options["relative_step"]:
        raise UserError("warmup_init: needs relative_step=True")
    if eps1 is None and not options["eps_floor"]:
        raise UserError("eps: the first may be None with eps_floor=True only")
    if options["decay_by_schedule"] and not (lr is not None and lr > 0):
        raise UserError("lr: decay_by_schedule measures the schedule by it, so it must be above 0")
    threshold, beta1 = options["clip_threshold"], options["beta1"]
    rules = {
        "lr": lr is None or lr >= 0,
        "eps": (eps1 is None or eps1 >= 0) and eps2 >= 0,
        "clip_threshold": threshold is None or threshold > 0,
        "decay_rate": options["decay_rate"] <= 0,
        "beta1": beta1 is None or 0 <= beta1 < 1,
        "weight_decay": options["weight_decay"] >= 0,
        "beta2_cap": 0 <= options["beta2_cap"] <= 1,
        "max_relative_step": options["max_relative_step"] >= 0,
    }
    for name, holds in rules.items():
        if not holds:
            raise UserError(f"{name}: {options[name]} is out of range")
