"""Lines of the log on how a run uses its machine: processes, padding, idle cores, the allocator."""

from collections.abc import Iterator

import torch

from s2s.data.batches import real_share, updates
from s2s.machine.matmul import bfloat16_warning
from s2s.machine.memory import glibc_option
from s2s.machine.worker_pool import cores
from s2s.objective import Objective
from s2s.optim import AdafactorSettings
from s2s.optim.adafactor import kernels
from s2s.training.setup import Prepared


def processes_line(prepared: Prepared) -> str:
    """Return a line on the processes and the part of an update that each of them gets."""
    accelerator, run = prepared.accelerator, prepared.recipe.run
    parts = "" if run.accumulate == 1 else f", in {run.accumulate} micro-batches"
    number, kind = accelerator.num_processes, accelerator.device.type
    device = kind if prepared.metadata.device == kind else f"{kind} ({prepared.metadata.device})"
    sharded = ", which divide the parameters among them" * (prepared.metadata.sharding == "full")
    return (
        f"{number} process{'es' * (number > 1)} on {device}{sharded}; of an update's "
        f"{run.tokens:,} tokens (run.tokens) each gets {run.tokens // number:,}{parts}"
    )


def hints(prepared: Prepared, objective: Objective) -> Iterator[str]:
    """Yield lines on how full the batches are, and on what of the machine the run could use better."""
    accelerator, run, lengths = prepared.accelerator, prepared.recipe.run, prepared.train.lengths()
    if len(lengths):
        plan = updates(lengths, run.tokens, run.seed, 0)
        yield f"an epoch has {len(plan)} updates; {real_share(lengths, plan):.1%} of their columns are tokens"
    if accelerator.device.type == "cpu":
        yield from _hints_on_processor(prepared, objective)
    elif accelerator.device.type == "cuda":
        gpus = torch.cuda.device_count()
        if accelerator.num_processes == 1 and gpus > 1:
            yield f"1 of {gpus} GPUs is used; accelerate launch s2s/train.py starts a process for each"


def _hints_on_processor(prepared: Prepared, objective: Objective) -> Iterator[str]:
    processes, available = prepared.accelerator.num_processes, cores()
    # Launchers give each process one thread unless OMP_NUM_THREADS is set.
    if (used := processes * prepared.metadata.threads) < available:
        yield f"{used} of {available} cores are used; for a new run set OMP_NUM_THREADS={available // processes}"
    if glibc_option() is None:
        yield "no glibc here: freed memory may go back to the system at every step, and is slow to take again"
    optimizer = prepared.recipe.optimizer
    large = any(parameter.ndim > 1 and parameter.numel() >= kernels.LARGE for parameter in objective.parameters())
    if large and isinstance(optimizer, AdafactorSettings) and not optimizer.beta1:  # as it then runs in C
        library, reason = kernels.build()
        yield f"AdaFactor: {reason}" if library else f"AdaFactor: about twice as slow as in C, since {reason}"
    if prepared.metadata.precision == "bf16":
        yield from bfloat16_warning("run.precision")
