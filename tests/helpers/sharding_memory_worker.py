"""The most memory that an update of a run takes on a fake GPU: python sharding_memory_worker.py FOLDER KEY=VALUE ...

Prints the bytes of the last update's peak, allocated in each process, the rank first. Evaluation does not count.
"""

import sys
from typing import Any

import torch

from s2s import train
from s2s.recipe.recipe import Recipe

KEYS = (
    *("data.size=300", "model.heads=4", "model.dropout=0", "run.precision=fp32", "run.steps=3", "run.tokens=64"),
    *("run.evaluate_examples=1", "run.evaluate_every=100", "run.save_every=100", "search.max_length=2"),
)
peaks: list[int] = []
update = train.update


def measured(*arguments: Any) -> Any:
    torch.cuda.reset_peak_memory_stats()
    result = update(*arguments)
    peaks.append(torch.cuda.max_memory_allocated())
    return result


if __name__ == "__main__":
    train.update = measured  # type: ignore[assignment]
    train.fit(Recipe.load("toy_copy", [*KEYS, f"run.folder={sys.argv[1]}", *sys.argv[2:]]))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    print(f"\nrank {rank}: {peaks[-1]}", flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
