"""Operators, waits and memory of Adafactor's steps on the fake CUDA: python adafactor_launches_worker.py FOLDER.

The folder gets launches.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2s.model.architecture import Architecture
from s2s.model.transformer import PrefixTransformer
from s2s.optim import OPTIMIZERS, Adafactor
from s2s.optim.adafactor import stacks

LAYERS = (2, 12)
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "momentum": {"beta1": 0.9, "decay": 0.1},
    "rounded momentum": {"beta1": 0.9, "bf16_momentum": True},
    "unscaled": {"scale_parameter": False, "clip_threshold": 0.3},
}
STEPS = 3
SIDE = 256
MATRICES = 40


class Operators(TorchDispatchMode):
    """Counts the operators that a GPU launches: not views; one over a list of tensors as the few launches that it is.

    The fake CUDA's own count is no use here, since it has the kernels of a CPU, where such an operator is a loop.
    """

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Others, which no tensor is given to, compute on types.
        self.number += not function.is_view and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args))
        return function(*args, **kwargs or {})


def launches(case: str, layers: int) -> dict[str, float]:
    """The operators of a step with stacks and without, its waits, and how far the weights are from the processor's."""
    here, *_ = trained(case, layers, "cpu", stacks.STACK)
    there, number, stalls = trained(case, layers, "cuda", stacks.STACK)
    _, before, stalls_before = trained(case, layers, "cuda", 0)
    apart = max(float((mine.cpu() - other).norm() / other.norm()) for mine, other in zip(there, here, strict=True))
    return {"launches": number, "before": before, "stalls": stalls, "stalls before": stalls_before, "apart": apart}


def trained(case: str, layers: int, device: str, stack: int) -> tuple[list[Tensor], int, int]:
    """The weights of a prefix LM after a few steps with stacks of a size, and the last step's operators and waits."""
    import fakecuda  # only processes that are started with the fake devices have it

    kept, stacks.STACK = stacks.STACK, stack
    torch.manual_seed(0)
    shape = Architecture(vocabulary=50, layers=layers, width=16, heads=2, feed_forward=32, positions=20)
    model = PrefixTransformer(shape).to(device)
    optimizer = OPTIMIZERS["adafactor"](rate=1e-2, **CASES[case]).build(model)
    for _ in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape).to(device)
        with fakecuda.counted() as counts, Operators() as operators:  # type: ignore[attr-defined]
            optimizer.step()
    stacks.STACK = kept
    weights = [parameter.detach() for parameter in model.parameters()]
    return weights, operators.number, sum(counts.stalls.values())


def memory() -> dict[str, int]:
    """The bytes of the weights and of a stack, and those that a step holds for a while, with and without momentum."""
    kept, stacks.STACK = stacks.STACK, 5 * SIDE**2
    found = {"stack": 4 * stacks.STACK}
    for name, beta1 in (("plain", None), ("momentum", 0.9)):
        matrices = [nn.Parameter(torch.randn(SIDE, SIDE, device="cuda")) for _ in range(MATRICES)]
        optimizer = Adafactor(matrices, lr=1e-2, beta1=beta1, relative_step=False, momentum_dtype=torch.bfloat16)
        for _ in range(2):  # the first step also allocates the state
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            optimizer.step()
            found[name] = torch.cuda.max_memory_allocated() - before
        found["weights"] = sum(4 * matrix.numel() for matrix in matrices)
    stacks.STACK = kept
    return found


if __name__ == "__main__":
    found: dict[str, Any] = {case: {str(layers): launches(case, layers) for layers in LAYERS} for case in CASES}
    found["memory"] = memory()
    Path(sys.argv[1], "launches.json").write_text(json.dumps(found), encoding="utf-8")
