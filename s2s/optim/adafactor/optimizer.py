"""AdaFactor: second moments of a matrix in the memory of its rows and columns (Shazeer and Stern 2018)."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from s2s.errors import UserError
from s2s.optim.adafactor.factored import FactoredUpdate, factored_axes
from s2s.optim.adafactor.options import check
from s2s.optim.adafactor.phases import batches, finish, measure
from s2s.optim.adafactor.reductions import Scratch
from s2s.optim.adafactor.small_matrices import bundled
from s2s.optim.adafactor.unfactored import Update

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Adafactor(Optimizer):
    """AdaFactor (Shazeer and Stern 2018, algorithms 4 and 5), for plain parameters and for DTensors (FSDP2).

    With g the gradient of step t = 1, 2, ... and moving averages of rate b = min(beta2_cap, 1 - t^decay_rate), a
    matrix has r of the row means and c of the column means of g^2 + eps1, and v_ij = r_i c_j / mean(r); other
    parameters have v of g^2 + eps1. Then u = g / sqrt(v), u := u / max(1, RMS(u) / clip_threshold), and the parameter
    p moves by -a u, where a = rate max(eps2, RMS(p)).

    The first ten options are those of ``transformers`` and mean the same; any but ``skip_nonfinite`` may be a group's
    own (``{"params": biases, "scale_parameter": False}``).

    lr: the rate; None with ``relative_step``, which takes min(1e-2, 1 / sqrt(t)) and never looks at ``lr``.
    eps: eps1 and eps2.
    clip_threshold: the largest RMS of u; None clips nothing.
    beta1: rate of a moving average of the steps a u, which then is what p moves by; None or 0: none, and no memory.
    weight_decay: p shrinks by the share weight_decay a before it moves.
    scale_parameter: whether a has the factor max(eps2, RMS(p)).
    warmup_init: 1e-6 t in place of 1e-2.
    min_dim_size_to_factor: axes shorter than this are not factored; 0, as in ``transformers``, factors every matrix.
    largest_axes: factor the two largest axes of a parameter with three or more, not the last two.
    beta2_cap: the largest b; 0.999 keeps v from freezing in long runs (Zhai et al. 2022, section 3.3).
    momentum_dtype: of the first moments; None is float32, or float64 for float64 parameters, as all other state.
    momentum_before_scaling: average u and multiply by a afterwards.
    max_relative_step: in place of 1e-2.
    scale_weight_decay: False shrinks p by weight_decay times ``lr`` (or max_relative_step), whatever the step.
    decay_by_schedule: p shrinks by weight_decay times the schedule, which is ``lr`` over the ``lr`` with which its
    group began (``initial_lr``, as torch's schedulers call it).
    eps_floor: eps1 is no summand but the least mean(r) and the least sqrt(v); with eps1 None it is the type's epsilon.
    skip_nonfinite: leave out a step whose gradient is not finite, and count it in ``skipped``, instead of refusing it.

    compiled: walk large float32 matrices on a processor in C (``large_matrices``) where a compiler is there.

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
        defaults = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    @classmethod
    def paper(cls, params: Parameters) -> "Adafactor":
        """The paper's algorithm: relative steps, every matrix factored, neither momentum nor weight decay."""
        return cls(params)

    @classmethod
    def mesh_tf(cls, params: Parameters, lr: float | None = None, beta1: float | None = None) -> "Adafactor":
        """As Mesh TensorFlow's, T5's optimizer: the two largest axes are factored if both have 128 elements."""
        return cls(params, lr, beta1=beta1, relative_step=lr is None, min_dim_size_to_factor=128, largest_axes=True)

    @classmethod
    def big_vision(cls, params: Parameters, lr: float, weight_decay: float = 0.0) -> "Adafactor":
        """As big_vision's (Zhai et al. 2022, section 3.3): like Adam, with bfloat16 momentum.

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
        """As ``torch.optim.Adafactor``: the rate min(lr, 1 / sqrt(t)), eps1 as a floor, p shrinks by lr decay."""
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
        """Add a group; its options are checked."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check(group)
        if group["decay_by_schedule"]:
            group.setdefault("initial_lr", group["lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stages = bundled(self._updates())
        if broken := measure(stages):
            if not self.defaults["skip_nonfinite"]:
                raise UserError(f"the gradient of {broken[0]} is not finite; nothing was changed")
            self.skipped += 1
            return loss
        for some in batches(stages):
            finish(some)
        return loss

    def _updates(self) -> Iterator[Update]:
        """The updates of all parameters that have a gradient."""
        scratch = Scratch()
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
                    yield Update(name, parameter, group, state, scratch)
                else:
                    yield FactoredUpdate(name, parameter, group, state, scratch, axes)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; each tensor keeps its type, where torch's own way would give it the parameter's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # a state of before an option came has no value for it
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)
