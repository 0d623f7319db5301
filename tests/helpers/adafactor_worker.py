"""Steps of Adafactor on parameters that processes divide: torchrun adafactor_worker.py FOLDER."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from s2s.errors import UserError
from s2s.optim import Adafactor

SHAPES = {"matrix": (6, 10), "uneven": (5, 7), "one_row": (1, 9), "bias": (7,), "one": (1,), "stack": (3, 4, 6)}
GIVEN = {"lr": 1e-2, "relative_step": False, "beta1": 0.9}
CASES: dict[str, dict[str, Any]] = {
    "relative": {},
    "momentum": {**GIVEN, "weight_decay": 0.1},
    "late": {**GIVEN, "momentum_before_scaling": True, "clip_threshold": None, "scale_parameter": False},
    "floor": {"eps": (None, 1e-3), "eps_floor": True},
    "unfactored": {"min_dim_size_to_factor": 7},
    "largest": {"largest_axes": True, "clip_threshold": 0.3},
}


class Parameters(nn.Module):
    """Parameters of several shapes, some without a row for every process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(0.1 * torch.randn(shape)))


def give(parameter: Tensor, gradient: Tensor) -> None:
    """Set a gradient, divided as the parameter is."""
    if isinstance(parameter, DTensor):
        gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
    parameter.grad = gradient


def train(divide: Callable[[nn.Module], nn.Module], options: dict[str, Any]) -> dict[str, Any]:
    """Whole parameters and state after the steps, and how many numbers of state this process keeps."""
    module = divide(Parameters())
    optimizer = Adafactor(module.parameters(), **options)
    torch.manual_seed(1)
    for step in range(6):
        for parameter in module.parameters():
            give(parameter, torch.randn(parameter.shape) * (1 + step % 3))
        optimizer.step()
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    kept = sum((value.to_local() if isinstance(value, DTensor) else value).numel() for value in state)
    weights = {name: whole(parameter) for name, parameter in module.named_parameters()}
    saved = get_optimizer_state_dict(module, optimizer, options=StateDictOptions(full_state_dict=True))["state"]
    return {"weights": weights, "state": saved, "kept": kept}


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def refusal() -> str:
    """What is said in each process when one number, in the last process's part, is not finite."""
    module = by_rows(Parameters())
    optimizer = Adafactor(module.named_parameters())
    for parameter in module.parameters():
        give(parameter, torch.ones(parameter.shape))
    module.uneven.grad.to_local()[2:, 2] = torch.nan
    try:
        optimizer.step()
    except UserError as error:
        return str(error)
    return "not refused"


def by_rows(module: nn.Module) -> nn.Module:
    """Divided along the first axis, by FSDP; on processors, as what it is compared with, on a machine with GPUs too."""
    return fully_shard(module, mesh=init_device_mesh("cpu", (2,)))


def by_columns(module: nn.Module) -> nn.Module:
    """Divided along the last axis."""
    mesh = init_device_mesh("cpu", (2,))
    for name, parameter in list(module.named_parameters()):
        module.register_parameter(name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(-1)])))
    return module


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    found: dict[str, Any] = {f"{name} by rows": train(by_rows, options) for name, options in CASES.items()}
    found |= {f"{name} by columns": train(by_columns, options) for name, options in CASES.items()}
    found["refusal"] = refusal()
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
