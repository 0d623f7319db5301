"""The gradients of a few updates, in as many processes as there are: python gradients_worker.py FOLDER ACCUMULATE."""

import sys
from pathlib import Path

import numpy
import torch
from tiny_runs import device_of_two
from torch import Tensor

from s2s.data import load
from s2s.data.batches import UpdateBatch, tokenise
from s2s.recipe.build import build_objective, build_vocabulary
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import RunMetadata
from s2s.training.setup import Prepared, check_processes
from s2s.training.step import accumulate, make

UPDATES = {"ragged": 37, "three": 3, "one": 1}
"""How many examples each update has; with four runs to be dealt to, some of the last two are idle."""

Gradients = dict[str, tuple[dict[str, Tensor], dict[str, Tensor], list[int]]]


def gradients(accumulation: int) -> Gradients:
    """For each update: the gradients, this process's shares of the losses and the units of the whole update."""
    overrides = ["model.width=16", "model.layers=2", "data.size=400", "objective.label_smoothing=0.1"]
    overrides += ["run.precision=fp32", device_of_two()]
    recipe = Recipe.load("toy_copy", [*overrides, f"run.accumulate={accumulation}"])
    accelerator = check_processes(recipe)
    dataset = load(recipe.data)
    vocabulary = build_vocabulary(recipe, dataset)
    objective, _ = build_objective(recipe, vocabulary)
    train = tokenise(dataset.train, vocabulary, recipe.data.max_source, recipe.data.max_target, "train")
    metadata = RunMetadata(
        objective.model.shape, dataset.fingerprint, "default", torch.get_num_threads(), "fp32", {}, []
    )
    prepared = Prepared(recipe, accelerator, vocabulary, dataset, train, train, metadata)
    wrapped = accelerator.prepare(objective)
    found = {}
    for step, (name, examples) in enumerate(UPDATES.items(), start=1):
        wrapped.zero_grad()
        shares, counts = accumulate(prepared, wrapped, make(prepared, UpdateBatch(0, numpy.arange(examples))), step)
        grads = {name: parameter.grad.cpu().clone() for name, parameter in objective.named_parameters()}
        found[name] = (grads, {name: share.cpu() for name, share in shares.items()}, [int(unit) for unit in counts])
    return found


if __name__ == "__main__":
    found = gradients(int(sys.argv[2]))
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
