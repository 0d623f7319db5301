"""AdaFactor's step of one parameter, in the phases of ``s2s.optim.adafactor.phases``.

``Update`` stores a second moment for every element; ``FactoredUpdate`` stores those of rows and columns.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.optim.adafactor.dtensor import division_of, local, local_gradient
from s2s.optim.adafactor.phases import Plan
from s2s.optim.adafactor.reductions import (
    Rows,
    Workspace,
    chunks,
    precise,
    row_and_column_sums,
    square_sum,
    weighted_square_sum,
)

Options = dict[str, Any]
"""The options of a group of parameters by their names."""


class Update:
    """The step of a parameter with a second moment for every element: a vector, or a matrix too small to be factored.

    All tensors are this process's part, divided among processes as the parameter is.
    """

    def __init__(
        self, name: str, parameter: Tensor, options: Options, state: dict[str, Any], workspace: Workspace
    ) -> None:
        self.names = [name]
        self.options, self.state, self.workspace = options, state, workspace
        # Shape and number are those of the whole parameter, also where processes divide it, and so are all means.
        self.division, self.shape, self.elements = division_of(parameter), parameter.shape, parameter.numel()
        self.parameter, self.gradient = local(parameter), local_gradient(parameter)
        self.dtype = precise(parameter.dtype)
        epsilon: float = options["eps"][0] if options["eps"][0] is not None else torch.finfo(parameter.dtype).eps
        self.added, self.floor = (0.0, epsilon) if options["eps_floor"] else (epsilon, 0.0)
        # Below the smallest normal number a moment has no finite inverse square root.
        self.least = max(self.floor**2, torch.finfo(self.dtype).tiny)

    def measure(self) -> list[Tensor]:
        """Sum the gradient's squares: the sum is not finite if any element is not."""
        self.gradient_squares = self.square_gradient()
        return [self.gradient_squares]

    def square_gradient(self) -> Tensor:
        """Sum the gradient's squares."""
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
        """Return the second moments."""
        return self.stored("moments", self.shape, self.division and self.division.axis, self.dtype)

    def mix(self, moments: Tensor, squares: Tensor) -> None:
        """Move the average on by beta2 = min(cap, 1 - step^decay_rate), which is 0 at the first step."""
        moments.lerp_(squares.add_(self.added), self.share())

    def share(self, later: int = 0) -> float:
        """Return the share 1 - beta2 of the newest squares, at the step counted last or some steps ``later``."""
        # It is 1 at the first step, so that the average needs no correction of a bias towards 0.
        # The code of spaces.ac.cn 7302 left this factor out of its factored moments until August 2021.
        step = self.state.get("step", 0) + later
        return float(max(1 - self.options["beta2_cap"], step ** self.options["decay_rate"]))

    def compare(self) -> list[Tensor]:
        """Sum the squares of the update, if it is to be clipped, and of the parameter, if it scales the step."""
        self.prepare()
        zero = torch.zeros_like(self.gradient_squares)
        update = zero if self.options["clip_threshold"] is None else self.square_update()
        self.squares = torch.stack([update, square_sum(self.parameter) if self.options["scale_parameter"] else zero])
        return [self.squares]

    def prepare(self) -> None:
        """Compute from the moments the factors of ``scale``."""
        self.inverse = self.inverse_root(self.moments)

    def inverse_root(self, moments: Tensor) -> Tensor:
        """Compute 1 / sqrt(v)."""
        return moments.clamp(min=self.least).rsqrt_()

    def square_update(self) -> Tensor:
        """Sum the update's squares before it is clipped."""
        return sum(
            (square_sum(self.gradient[rows] * self.scale(rows)) for rows in chunks(self.gradient)),
            start=torch.zeros_like(self.gradient_squares),
        )

    def scale(self, rows: Rows) -> Tensor:
        """Return the elementwise factor 1 / sqrt(v) of a chunk of the gradient."""
        return self.inverse[rows]

    def apply(self, squares: list[float]) -> None:
        """Change the momentum and the parameter, given the sums of ``compare``."""
        plan = self.plan(*squares)
        if self.options["beta1"]:
            self.move_by_momentum(plan)
        else:
            self.move(plan)

    def plan(self, update_squares: float, parameter_squares: float) -> Plan:
        """Combine clipping, rate and decay into numbers."""
        options, size = self.options, self.step_size(parameter_squares)
        decay = options["weight_decay"] * self.decay_scale(size)
        # With ``momentum_before_scaling`` the rate is applied to the momentum, otherwise to what is mixed into it.
        late, clipping = options["beta1"] and options["momentum_before_scaling"], self.clipping(update_squares)
        return Plan(1 - decay, clipping, size) if late else Plan(1 - decay, clipping * size, 1.0)

    def move(self, plan: Plan) -> None:
        """Shrink the parameter and move it against the scaled gradient."""
        for rows in chunks(self.gradient):
            weights = self.parameter[rows].to(self.dtype)
            if plan.keep != 1:
                weights.mul_(plan.keep)
            weights.addcmul_(self.gradient[rows].to(self.dtype), self.scale(rows), value=-plan.factor)
            _store(weights, self.parameter[rows])

    def move_by_momentum(self, plan: Plan) -> None:
        """Mix the scaled gradient into the momentum, shrink the parameter and move it against the momentum."""
        momentum, beta1 = self.momentum(), self.options["beta1"]
        for rows in chunks(self.gradient):
            weights = self.parameter[rows].to(self.dtype)
            if plan.keep != 1:
                weights.mul_(plan.keep)
            mean = momentum[rows].to(self.dtype).mul_(beta1)
            mean.addcmul_(self.gradient[rows].to(self.dtype), self.scale(rows), value=plan.factor * (1 - beta1))
            _store(mean, momentum[rows])
            _store(weights.sub_(mean, alpha=plan.size), self.parameter[rows])

    def step_size(self, parameter_squares: float) -> float:
        """Return the rate, times the parameter's scale max(eps2, RMS) with ``scale_parameter``."""
        if not self.options["scale_parameter"]:
            return self.rate()
        return self.rate() * max(self.options["eps"][1], math.sqrt(parameter_squares / self.elements))

    def clipping(self, update_squares: float) -> float:
        """Return 1 / max(1, RMS(update) / threshold)."""
        # Until August 2021 the code of spaces.ac.cn 7302 had the sum of squares in place of the RMS, here and in the
        # parameter's scale, so older results with it are those of another optimizer.
        threshold = self.options["clip_threshold"]
        return 1.0 if threshold is None else 1 / max(1.0, math.sqrt(update_squares / self.elements) / threshold)

    def rate(self) -> float:
        """Return the given rate, or the relative one: 1 / sqrt(step), bounded."""
        if not self.options["relative_step"]:
            return float(self.options["lr"])
        step = self.state["step"]
        bound = 1e-6 * step if self.options["warmup_init"] else self.options["max_relative_step"]
        return min(bound, 1 / math.sqrt(step))

    def decay_scale(self, size: float) -> float:
        """Return the factor of the weight decay: the schedule, the step's size or the highest rate."""
        if self.options["decay_by_schedule"]:
            return float(self.options["lr"] / self.options["initial_lr"])
        if self.options["scale_weight_decay"]:
            return size
        return float(self.options["max_relative_step" if self.options["relative_step"] else "lr"])

    def momentum(self) -> Tensor:
        """Return the first moments."""
        dtype = self.options["momentum_dtype"] or self.dtype
        return self.stored("momentum", self.shape, self.division and self.division.axis, dtype)

    def stored(self, name: str, shape: Sequence[int], axis: int | None, dtype: torch.dtype) -> Tensor:
        """Return a tensor of the state, at first 0; ``axis`` is the one along which processes divide it, if any."""
        if name not in self.state:
            device = self.parameter.device
            if self.division is None or axis is None:
                self.state[name] = torch.zeros(shape, dtype=dtype, device=device)
            else:
                self.state[name] = self.division.zeros(shape, axis, dtype, device)
        return local(self.state[name])


def _store(computed: Tensor, target: Tensor) -> None:
    """Write back a result of another type; ``to`` of the same type copies nothing, so its result is there already."""
    if computed.dtype != target.dtype:
        target.copy_(computed)


def factored_axes(shape: Sequence[int], options: Options) -> tuple[int, int] | None:
    """Return the axes of rows and columns: the last two or the two largest; None if the shorter one is too short."""
    if len(shape) < 2:
        return None
    axes = list(range(len(shape)))
    if options["largest_axes"]:
        axes.sort(key=lambda axis: shape[axis])
    row, column = sorted(axes[-2:])
    # Lengths, not numbers of axes: the first code of spaces.ac.cn 7302 compared the latter and never factored anything.
    return (row, column) if min(shape[row], shape[column]) >= options["min_dim_size_to_factor"] else None


class FactoredUpdate(Update):
    """Moments v_ij = r_i c_j / mean(r), where r and c are moving averages of row and column means of g^2 + eps1.

    The axes are put into the order [..., rows, columns]; leading axes number matrices that are factored one by one.
    """

    def __init__(
        self,
        name: str,
        parameter: Tensor,
        options: Options,
        state: dict[str, Any],
        workspace: Workspace,
        axes: tuple[int, int],
    ) -> None:
        super().__init__(name, parameter, options, state, workspace)
        # Views in one order of axes, so that what follows needs no case for ``largest_axes``.
        self.order = [axis for axis in range(parameter.ndim) if axis not in axes] + list(axes)
        self.parameter, self.gradient = self.parameter.permute(self.order), self.gradient.permute(self.order)
        self.lengths = [self.shape[axis] for axis in self.order]
        self.row, self.column = parameter.ndim - 2, parameter.ndim - 1
        self.cut = self.order.index(self.division.axis) if self.division else None

    def square_gradient(self) -> Tensor:
        """Sum the gradient's squares by row and by column, and in all."""
        self.rows, self.columns = row_and_column_sums(self.gradient)
        return self.rows.sum()

    def measure(self) -> list[Tensor]:
        """Sum squares; sums along the divided axis are partial, so processes must add those up too."""
        return super().measure() + self._partial_sums()

    def _partial_sums(self) -> list[Tensor]:
        # Only the sums along the divided axis are partial; a list times False is empty.
        return [self.columns] * (self.cut == self.row) + [self.rows] * (self.cut == self.column)

    def remember(self) -> list[Tensor]:
        """Count the step and mix the means into rows and columns."""
        self.count()
        *leading, rows, columns = self.lengths
        self.rows, kept_rows = self.mix_means("rows", self.rows / columns, [*leading, rows], self.column)
        self.columns, _ = self.mix_means("columns", self.columns / rows, [*leading, columns], self.row)
        self.mean = kept_rows.sum(-1, keepdim=True) / rows
        return self._partial_sums() + [self.mean] * (self.cut in (self.row, self.column))

    def mix_means(self, name: str, means: Tensor, shape: list[int], missing: int) -> tuple[Tensor, Tensor]:
        """Mix means into the state; return the moving averages and the part of them that this process stores.

        Where processes divide the axis over which the means were taken, each knows all means but stores only its
        share. The averages returned are then 0 outside of this share, and complete once they are summed.
        """
        last = len(shape) - 1
        if self.division is None or self.cut != missing:
            moments = self.stored(name, shape, last if self.cut == self.column else self.cut, self.dtype)
            self.mix(moments, means)
            return moments, moments
        share = self.division.share(shape[last])
        moments, averages = self.stored(name, shape, last, self.dtype), torch.zeros_like(means)
        self.mix(moments, means[..., share])
        averages[..., share] = moments
        return averages, moments

    def prepare(self) -> None:
        """Divide the rows by their mean, and keep rows and columns above 0."""
        tiny = torch.finfo(self.dtype).tiny
        self.rows = (self.rows / self.mean.clamp(min=max(tiny, self.floor))).clamp_(min=tiny)
        self.columns = self.columns.clamp(min=tiny)

    def square_update(self) -> Tensor:
        """Sum g_ij^2 / (r_i c_j), which needs no matrix of updates."""
        # A floor acts on the product of the factors, and further axes number matrices: neither is one bilinear form.
        if self.floor or self.gradient.ndim > 2:
            return super().square_update()
        return weighted_square_sum(self.gradient, self.rows.reciprocal(), self.columns.reciprocal())

    def scale(self, rows: Rows) -> Tensor:
        """Compute 1 / sqrt(v) of a chunk of rows."""
        row_factors, column_factors = self.rows[rows].unsqueeze(-1), self.columns.unsqueeze(-2)
        if not self.floor:
            # The root of each factor: far fewer roots than elements. A floor is one of the product, so it needs that.
            row_factors, column_factors = row_factors.rsqrt(), column_factors.rsqrt()
        product = self.workspace.tensor([*row_factors.shape[:-1], column_factors.shape[-1]], row_factors)
        torch.mul(row_factors, column_factors, out=product)
        return product.clamp_(min=self.least).rsqrt_() if self.floor else product

    def momentum(self) -> Tensor:
        """Return the first moments with their axes in order."""
        return super().momentum().permute(self.order)
