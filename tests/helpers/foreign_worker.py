"""The gradients of one update of models of ``transformers``, under DDP: python foreign_worker.py FOLDER."""

import sys
from pathlib import Path

import torch
from foreign_models import objective
from mitigations_worker import DEALT
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from s2s.batch import count
from s2s.data import load
from s2s.recipe.build import build_vocabulary
from s2s.recipe.recipe import Recipe

ROWS = {"t5": "{name: fgm, scope: all}", "llama": "{name: mrt, candidates: 2, weight: 0.5}", "bart": "{name: r_drop}"}


def gradients(rank: int | None) -> dict[str, dict[str, Tensor]]:
    """Of the whole update, or, with a rank, of this process's two micro-batches added to the other's."""
    recipe = Recipe.load("toy_copy", ["data.size=220"])
    dataset = load(recipe.data)
    vocabulary = build_vocabulary(recipe, dataset)
    whole = vocabulary.batch([(example.source, example.target) for example in dataset.train[:11]])
    dealt = [list(range(11))] if rank is None else DEALT[rank]
    parts = [whole.map(lambda tensor, index=index: tensor[index]) for index in dealt]
    found = {}
    for family, row in ROWS.items():
        module = objective(family, vocabulary, row, "data.max_target=6")
        wrapped = module if rank is None else DistributedDataParallel(module)
        for number, part in enumerate(parts):
            loss = wrapped(part, 1, count(whole)).total
            if rank is None:
                loss.backward()
            elif number < len(parts) - 1:
                with wrapped.no_sync():
                    (wrapped(part, 1, count(whole)).total * 2).backward()
            else:
                (loss * 2).backward()
        named = module.named_parameters()
        found[family] = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    return found


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.save(gradients(rank), Path(sys.argv[1]) / f"{rank}.pt")
    distributed.destroy_process_group()
