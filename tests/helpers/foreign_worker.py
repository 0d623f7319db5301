"""The gradients of one update of models of ``transformers``, under DDP: python foreign_worker.py FOLDER.

A model of each kind has every method, and one of each is trained by LoRA. Each model is made once, since that takes
longer than an update.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from foreign_models import LORA, gradients, objective, prepared
from mitigations_worker import DEALT, few, rows, update
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from s2s.batch import Batch, count
from s2s.objective import Objective

SHORT = "data.max_target=6"
NEEDS_WHOLE_UPDATES = "fgm_article"
ADAPTED = ("fgm", "r_drop", "mrt", "scheduled_sampling")
"""Methods that are tried under LoRA too; the others differ in nothing that processes share."""
Gradients = dict[tuple[str, str], dict[str, Tensor]]


def modules(folder: Path, whole_vocabulary: object) -> dict[str, tuple[Objective, list[str]]]:
    """Each model with the names of its methods."""
    vocabulary, names = whole_vocabulary, [name for name in rows(folder) if name != NEEDS_WHOLE_UPDATES]
    made = {family: (objective(family, vocabulary, "", SHORT), names) for family in ("t5", "llama")}
    made["bart"] = objective("bart", vocabulary, "", SHORT), ["r_drop"]
    if find_spec("peft"):
        for family in ("t5", "llama"):
            made[f"{family} by LoRA"] = objective(family, vocabulary, "", SHORT, LORA), [*ADAPTED]
    return made


def of_update(folder: Path, rank: int | None) -> Gradients:
    """Of the whole update, or, with a rank, of this process's two micro-batches added to the other's."""
    vocabulary, whole = update(folder)
    if rank is not None:
        distributed.barrier()  # until the first process has written the candidates
    dealt = [] if rank is None else [whole.map(lambda tensor, index=index: tensor[index]) for index in DEALT[rank]]
    found = {}
    for model, (module, names) in modules(folder, vocabulary).items():
        for name in names:
            module.mitigations = prepared(vocabulary, few(name, folder), SHORT)
            module.zero_grad()
            if rank is None:
                found[model, name] = gradients(module, module(whole, 1).total)
            else:
                found[model, name] = under_ddp(module, dealt, whole)
    return found


def under_ddp(module: Objective, parts: list[Batch], whole: Batch) -> dict[str, Tensor]:
    wrapped = DistributedDataParallel(module)
    with wrapped.no_sync():
        (wrapped(parts[0], 1, count(whole)).total * 2).backward()
    (wrapped(parts[1], 1, count(whole)).total * 2).backward()
    named = module.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.save(of_update(Path(sys.argv[1]), rank), Path(sys.argv[1]) / f"{rank}.pt")
    distributed.destroy_process_group()
