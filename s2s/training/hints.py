"""What the log says of how a run uses its machine: padding, idle cores, the allocator."""

import torch

from s2s.data.batches import real_share, updates
from s2s.machine.matmul import bfloat16_warning
from s2s.machine.memory import glibc_option
from s2s.machine.worker_pool import cores
from s2s.objective import Objective
from s2s.optim import AdafactorSettings
from s2s.optim.adafactor import kernels
from s2s.training.setup import Prepared


def dealing(prepared: Prepared) -> str:
    """Return a line on the processes and what each of them gets of an update."""
    accelerator, run = prepared.accelerator, prepared.recipe.run
    parts = "" if run.accumulate == 1 else f", in {run.accumulate} micro-batches"
    number, kind = accelerator.num_processes, accelerator.device.type
    place = kind if prepared.metadata.device == kind else f"{kind} ({prepared.metadata.device})"
    return (
        f"{number} process{'es' * (number > 1)} on {place}; of an update's "
        f"{run.tokens:,} tokens (run.tokens) each gets {run.tokens // number:,}{parts}"
    )


def machine_report(prepared: Prepared, objective: Objective) -> list[str]:
    """Lines on what could be used better, and on how full the batches are."""
    found = (
        _padding(prepared),
        _idle_cores(prepared),
        _idle_gpus(prepared),
        _allocator(prepared),
        _optimizer(prepared, objective),
        _precision(prepared),
    )
    return [line for lines in found for line in lines]


def _optimizer(prepared: Prepared, objective: Objective) -> list[str]:
    """Whether AdaFactor walks large matrices in C; a model without such compiles nothing."""
    large = any(each.ndim > 1 and each.numel() >= kernels.LARGE for each in objective.parameters())
    if not isinstance(prepared.recipe.optimizer, AdafactorSettings) or not large:
        return []
    if prepared.accelerator.device.type != "cpu" or prepared.recipe.optimizer.beta1:
        return []
    library, reason = kernels.build()
    return [f"AdaFactor: {reason}" if library else f"AdaFactor: about twice as slow as in C, since {reason}"]


def _precision(prepared: Prepared) -> list[str]:
    on_processor = prepared.accelerator.device.type == "cpu"
    return bfloat16_warning("run.precision") if on_processor and prepared.metadata.precision == "bf16" else []


def _padding(prepared: Prepared) -> list[str]:
    lengths, run = prepared.train.lengths(), prepared.recipe.run
    if not len(lengths):
        return []
    plan = updates(lengths, run.tokens, run.seed, 0)
    return [f"an epoch has {len(plan)} updates; {real_share(lengths, plan):.1%} of their columns are tokens"]


def _idle_cores(prepared: Prepared) -> list[str]:
    """Launchers set one thread a process unless told otherwise."""
    accelerator, there = prepared.accelerator, cores()
    used = accelerator.num_processes * prepared.metadata.threads
    if accelerator.device.type != "cpu" or used >= there:
        return []
    return [f"{used} of {there} cores are used; for a new run set OMP_NUM_THREADS={there // accelerator.num_processes}"]


def _idle_gpus(prepared: Prepared) -> list[str]:
    accelerator = prepared.accelerator
    there = torch.cuda.device_count() if accelerator.device.type == "cuda" else 0
    if accelerator.num_processes > 1 or there < 2:
        return []
    return [f"1 of {there} GPUs is used; accelerate launch s2s/train.py starts a process for each"]


def _allocator(prepared: Prepared) -> list[str]:
    if prepared.accelerator.device.type != "cpu" or glibc_option() is not None:
        return []
    return ["no glibc here: freed memory may go back to the system at every step, and is slow to take again"]
