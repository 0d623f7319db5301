"""Parameters, gradients and the optimizer's state divided among the processes (FSDP2): ``run.sharding: full``.

Each layer is divided by itself, and the root holds all else (embeddings, output, heads), so a process gathers one layer
at a time and the root once an update. Tensors are divided along their first axis, in equal parts, the last ones shorter
or empty. The cut is a ``DTensor``, whose shape is that of the whole.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd import Function
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module
from torch.utils._pytree import tree_map

from s2s.machine.agreement import is_main, several, told
from s2s.machine.precision import Name
from s2s.objective import Objective
from s2s.optim.adafactor.dtensor import division_of, local
from s2s.runs import shard_files


def shard(objective: Objective, device: torch.device, precision: Name) -> None:
    """Divide an objective's parameters among all processes; its tensors move to the device.

    Tensors on "meta" are given room there, without values. On GPUs that train in bfloat16 layers are gathered in it,
    which halves their messages, and gradients are added up in float32.
    """
    # It warns of changes in the place of a layer's results, and no layer changes those of another.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    # Autocast rounds the matrices of a layer to bfloat16 anyway. The root stays in float32, because rows of embeddings
    # are added up before anything rounds them; so do the rows between layers. A processor normalises no float32 rows
    # by weights in bfloat16, and sends no messages through a network that is worth sparing.
    is_half = precision == "bf16" and device.type == "cuda"
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if is_half else MixedPrecisionPolicy()
    for layer in (layer for stack in objective.model.stacks() for layer in stack):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
        Uses(layer)
    fully_shard(objective, mesh=mesh)
    if objective.model.token_table.is_meta:
        objective.to_empty(device=device)
        objective.model.tie()


class Use(Function):
    """A parameter in one pass of its layer, whose gradient is added to the parameter's at once."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        ctx.parameter = parameter
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        gradient = gradient.contiguous()
        before = ctx.parameter.grad
        # Not in place: another parameter may have been given the same tensor.
        ctx.parameter.grad = gradient if before is None else before + gradient


class Uses:
    """Gives a layer, in each of its passes, uses of its parameters in their place.

    A source and its targets go through the same layers. Autograd adds the gradients of all passes before it hands their
    sum over, so those of all layers would wait, whole, for the source's backward. FSDP divides and sums what a
    parameter has been given at the end of each pass's backward.
    """

    def __init__(self, layer: Module) -> None:
        self.parts = [(part, [*part._parameters]) for part in layer.modules() if part._parameters]
        # Between the hooks of FSDP, which gather the parameters before and free them after.
        layer.register_forward_pre_hook(self.begin)
        layer.register_forward_hook(self.end, prepend=True)

    def begin(self, *_: Any) -> None:
        """Put uses into the place of parameters; attributes of an object are found before its parameters."""
        if torch.is_grad_enabled():
            for part, names in self.parts:
                for name in names:
                    parameter = part._parameters[name]
                    if parameter is not None and parameter.requires_grad:
                        vars(part)[name] = Use.apply(parameter)

    def end(self, *_: Any) -> None:
        """Take them away."""
        for part, names in self.parts:
            for name in names:
                vars(part).pop(name, None)


def all_tensors(objective: Objective) -> dict[str, Tensor]:
    """Return the parameters and buffers of an objective, those included that its weights do not have."""
    return {**dict(objective.named_parameters()), **dict(objective.named_buffers())}


def measures(objective: Objective) -> dict[str, Any]:
    """Return what was measured of the model, which one without weights has to be told."""
    return {name: getattr(objective.model, name) for name in objective.model.measured}


def give(copy: Objective, objective: Objective) -> None:
    """Give a copy of an objective on "meta" the tensors of the divided one, whole; all processes have to call it."""
    for name, tensor in all_tensors(objective).items():
        owner, _, last = name.rpartition(".")
        whole_one = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
        module = copy.get_submodule(owner)
        if last in module._parameters:
            module._parameters[last] = torch.nn.Parameter(whole_one, requires_grad=False)
        else:
            module._buffers[last] = whole_one
    copy.model.tie()
    vars(copy.model).update(measures(objective))


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """Scale divided gradients so that the norm of all of them is at most ``largest``; return the norm before that.

    Torch's own function sends a message for every parameter; this one sends one.
    """
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    square = torch.nn.utils.get_total_norm(gradients).square()
    distributed.all_reduce(square)
    norm = square.sqrt()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch's
    torch._foreach_mul_(gradients, scale)
    return norm


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return for each tensor whether all its values are finite, in every process, in one tensor."""
    tensors = list(tensors)
    finite = torch.stack([local(tensor).isfinite().all() for tensor in tensors]).int()
    if any(isinstance(tensor, DTensor) for tensor in tensors):
        distributed.all_reduce(finite, distributed.ReduceOp.MIN)
    return finite


def whole(tree: Any, keep: bool = True) -> Any:
    """Return nested values with all divided tensors whole and in main memory; all processes have to call it.

    Without ``keep`` a process only takes part: it gets None for each of them.
    """

    def gather(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        tensor = value.full_tensor().detach()
        return tensor.cpu() if keep else None

    return tree_map(gather, tree)


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors, which the main process alone has to have, into the targets of all processes.

    A target may be divided. A process holds one whole tensor at a time.
    """
    for name, target in targets.items():
        if not several():
            target.copy_(tensors[name])
            continue
        if is_main():
            whole_one = tensors[name].detach().to(target.device, target.dtype).contiguous()
        else:
            whole_one = torch.empty(target.shape, dtype=target.dtype, device=target.device)
        distributed.broadcast(whole_one, 0)
        division = division_of(target)
        if division is not None:
            share = division.share(target.shape[division.axis])
            whole_one = whole_one.narrow(division.axis, share.start, share.stop - share.start)
        local(target).copy_(whole_one)


class Described(NamedTuple):
    """A tensor of an optimizer's state that is yet to be sent or read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def describe(states: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the states of an optimizer's parameters with tensors described; numbers, such as the step, stay."""

    def described(value: Any) -> Any:
        return Described(tuple(value.shape), value.dtype) if isinstance(value, Tensor) and value.ndim else value

    return {number: {name: described(value) for name, value in state.items()} for number, state in states.items()}


def room_for(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """Make room for the described tensors of an optimizer's state, divided as its parameters are, by NUMBER/NAME.

    AdaFactor's moments of rows and columns have an axis less: they are divided along the parameter's axis where they
    still have it, and else along their last one, as ``FactoredUpdate`` does it.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    targets: dict[str, Tensor] = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        division = division_of(parameter)
        for name, value in saved["state"].get(number, {}).items():
            if not isinstance(value, Described):
                continue
            if division is None:
                target = torch.empty(value.shape, dtype=value.dtype, device=parameter.device)
            else:
                axis = min(division.axis, len(value.shape) - 1)
                target = division.zeros(value.shape, axis, value.dtype, parameter.device)
            targets[f"{number}/{name}"] = target
    return targets


def sent(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return in every process an optimizer's saved state, divided as its parameters are; the main one has it whole."""
    if not several():
        return saved
    known = told(saved and {**saved, "state": describe(saved["state"])})
    if not known:
        return known
    targets = room_for(optimizer, known)
    states = saved["state"] if saved else {}
    fill(targets, {f"{number}/{name}": value for number, state in states.items() for name, value in state.items()})
    return shard_files.with_moments(known, targets)


def read_state(optimizer: torch.optim.Optimizer, folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state whose tensors each process reads in its own parts, from a checkpoint in parts."""
    described = {
        name.removeprefix(shard_files.OPTIMIZER): Described(*form)
        for name, form in shard_files.shapes(folder).items()
        if name.startswith(shard_files.OPTIMIZER)
    }
    targets = room_for(optimizer, shard_files.with_moments(saved, described))
    shard_files.read(folder, {shard_files.OPTIMIZER + name: target for name, target in targets.items()})
    return shard_files.with_moments(saved, targets)
