"""AdaFactor's step of one parameter, in the parts of ``s2s.optim.adafactor.phases``."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.optim.adafactor.dtensor import division_of, local, local_gradient
from s2s.optim.adafactor.options import Options
from s2s.optim.adafactor.phases import Plan
from s2s.optim.adafactor.reductions import Run, Scratch, precise, runs, square_sum


class Update:
    """The step of a parameter whose second moments are all kept: a vector, or a matrix too small to be factored."""

    def __init__(self, name: str, parameter: Tensor, options: Options, state: dict[str, Any], scratch: Scratch) -> None:
        self.names = [name]
        self.options, self.state, self.scratch = options, state, scratch
        self.division, self.shape, self.elements = division_of(parameter), parameter.shape, parameter.numel()
        self.parameter, self.gradient = local(parameter), local_gradient(parameter)
        self.dtype = precise(parameter.dtype)
        epsilon: float = options["eps"][0] if options["eps"][0] is not None else torch.finfo(parameter.dtype).eps
        self.added, self.floor = (0.0, epsilon) if options["eps_floor"] else (epsilon, 0.0)
        self.least = max(self.floor**2, torch.finfo(self.dtype).tiny)  # below it a moment has no inverse square root

    def measure(self) -> list[Tensor]:
        """The sum of the gradient's squares, in which anything not finite shows."""
        self.gradient_squares = self.square_gradient()
        return [self.gradient_squares]

    def square_gradient(self) -> Tensor:
        """The sum of the gradient's squares."""
        return square_sum(self.gradient)

    def remember(self) -> list[Tensor]:
        """Count the step and mix the gradient into the second moments."""
        self.count()
        self.moments = self.all_moments()
        self.mix(self.moments, self.gradient.to(self.dtype).square())
        return []

    def count(self) -> None:
        """Count the step."""
        self.state["step"] = self.state.get("step", 0) + 1

    def all_moments(self) -> Tensor:
        """The second moments, or the part of them that belongs to the process; divided as the parameter is."""
        return self.kept("moments", self.shape, self.division and self.division.axis, self.dtype)

    def mix(self, moments: Tensor, squares: Tensor) -> None:
        """The moving average of rate beta2 = min(cap, 1 - step^decay_rate), from 0 at the first step."""
        moments.lerp_(squares.add_(self.added), self.share())

    def share(self) -> float:
        """The share 1 - beta2 of the newest squares."""
        return float(max(1 - self.options["beta2_cap"], self.state["step"] ** self.options["decay_rate"]))

    def compare(self) -> list[Tensor]:
        """The sums of squares of the update, if it is to be clipped, and of the parameter, if it is to scale it."""
        self.prepare()
        none = torch.zeros_like(self.gradient_squares)
        update = none if self.options["clip_threshold"] is None else self.square_update()
        self.squares = torch.stack([update, square_sum(self.parameter) if self.options["scale_parameter"] else none])
        return [self.squares]

    def prepare(self) -> None:
        """Make of the moments what the gradient is multiplied by."""
        self.inverse = self.inverse_root(self.moments)

    def inverse_root(self, moments: Tensor) -> Tensor:
        """1 / sqrt(v)."""
        return moments.clamp(min=self.least).rsqrt_()

    def square_update(self) -> Tensor:
        """The sum of the update's squares before it is clipped."""
        return sum(
            (square_sum(self.gradient[run] * self.scale(run)) for run in runs(self.gradient)),
            start=torch.zeros_like(self.gradient_squares),
        )

    def scale(self, run: Run) -> Tensor:
        """What a run of the gradient is multiplied by, elementwise."""
        return self.inverse[run]

    def apply(self, squares: list[float]) -> None:
        """Change the momentum and the parameter, given the sums of ``compare``."""
        plan = self.plan(*squares)
        if self.options["beta1"]:
            self.move_on_average(plan)
        else:
            self.move(plan)

    def plan(self, update_squares: float, parameter_squares: float) -> Plan:
        """Clipping, rate and decay as numbers."""
        options, size = self.options, self.step_size(parameter_squares)
        decay = options["weight_decay"] * self.decay_scale(size)
        late, clipping = options["beta1"] and options["momentum_before_scaling"], self.clipping(update_squares)
        return Plan(1 - decay, clipping, size) if late else Plan(1 - decay, clipping * size, 1.0)

    def move(self, plan: Plan) -> None:
        """Shrink the parameter and move it against the scaled gradient."""
        for run in runs(self.gradient):
            weights = self.parameter[run].to(self.dtype)
            if plan.keep != 1:
                weights.mul_(plan.keep)
            weights.addcmul_(self.gradient[run].to(self.dtype), self.scale(run), value=-plan.factor)
            store(weights, self.parameter[run])

    def move_on_average(self, plan: Plan) -> None:
        """Mix the scaled gradient into the momentum, shrink the parameter and move it against the momentum."""
        momentum, beta1 = self.momentum(), self.options["beta1"]
        for run in runs(self.gradient):
            weights = self.parameter[run].to(self.dtype)
            if plan.keep != 1:
                weights.mul_(plan.keep)
            mean = momentum[run].to(self.dtype).mul_(beta1)
            mean.addcmul_(self.gradient[run].to(self.dtype), self.scale(run), value=plan.factor * (1 - beta1))
            store(mean, momentum[run])
            store(weights.sub_(mean, alpha=plan.size), self.parameter[run])

    def step_size(self, parameter_squares: float) -> float:
        """The rate, times the parameter's scale max(eps2, RMS) if it is to be scaled."""
        if not self.options["scale_parameter"]:
            return self.rate()
        return self.rate() * max(self.options["eps"][1], math.sqrt(parameter_squares / self.elements))

    def clipping(self, update_squares: float) -> float:
        """1 / max(1, RMS(update) / threshold)."""
        threshold = self.options["clip_threshold"]
        return 1.0 if threshold is None else 1 / max(1.0, math.sqrt(update_squares / self.elements) / threshold)

    def rate(self) -> float:
        """The given rate, or the relative one: 1 / sqrt(step), bounded."""
        if not self.options["relative_step"]:
            return float(self.options["lr"])
        step = self.state["step"]
        bound = 1e-6 * step if self.options["warmup_init"] else self.options["max_relative_step"]
        return min(bound, 1 / math.sqrt(step))

    def decay_scale(self, size: float) -> float:
        """Return what the weight decay is multiplied by: the schedule, the step's size or the highest rate."""
        if self.options["decay_by_schedule"]:
            return float(self.options["lr"] / self.options["initial_lr"])
        return size if self.options["scale_weight_decay"] else self.highest_rate()

    def highest_rate(self) -> float:
        """The given rate, or the bound of the relative one."""
        return float(self.options["max_relative_step" if self.options["relative_step"] else "lr"])

    def momentum(self) -> Tensor:
        """The first moments, or the part of them that belongs to the process; divided as the parameter is."""
        dtype = self.options["momentum_dtype"] or self.dtype
        return self.kept("momentum", self.shape, self.division and self.division.axis, dtype)

    def kept(self, name: str, shape: Sequence[int], axis: int | None, dtype: torch.dtype) -> Tensor:
        """A tensor of the state, 0 at first, or the process's part of it; ``axis`` is the one that processes divide."""
        if name not in self.state:
            device = self.parameter.device
            if self.division is None or axis is None:
                self.state[name] = torch.zeros(shape, dtype=dtype, device=device)
            else:
                self.state[name] = self.division.zeros(shape, axis, dtype, device)
        return local(self.state[name])


def store(computed: Tensor, place: Tensor) -> None:
    """Write back what was computed in another type; in the same type it was computed in place."""
    if computed.dtype != place.dtype:
        place.copy_(computed)
