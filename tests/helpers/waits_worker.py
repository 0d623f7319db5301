"""Three updates on this machine's device, and where the last waits for a GPU: python waits_worker.py FOLDER CASE ...

A case is a row of ``FAMILIES`` or prefix_lm, and overrides. The folder gets updates.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from foreign_models import FAMILIES, NO_SIZES

from s2s.recipe.recipe import Recipe
from s2s.training.setup import check_processes, prepare, start_objective
from s2s.training.state import State
from s2s.training.step import made_updates, update

KEYS = ("data.size=220", "run.tokens=1024", "objective.label_smoothing=0.1", "run.tf32=false")
"""Without dropout, whose numbers a GPU draws in another way."""
SMALL = {"layers": 2, "width": 16, "heads": 2, "dropout": 0.0}


def updates(folder: Path, family: str, overrides: list[str]) -> dict[str, Any]:
    """The losses and norms of three updates, and the waits of the last one by their places."""
    foreign = dict.fromkeys(NO_SIZES) | {"dropout": 0.0, "config": FAMILIES.get(family)}
    model = f"model={json.dumps(SMALL if family == 'prefix_lm' else foreign)}"
    recipe = Recipe.load("toy_copy", [model, *KEYS, f"run.folder={folder}", *overrides])
    accelerator = check_processes(recipe)
    folder.mkdir(parents=True)
    prepared = prepare(recipe, accelerator, folder)
    objective, checkpoint, _ = start_objective(prepared, folder)
    state = State(recipe.run, objective, recipe.optimizer.build(objective), prepared.precision, checkpoint)
    wrapped, order = accelerator.prepare(objective), made_updates(prepared, 0)
    # The first ones also allocate the optimizer's state.
    records = [update(prepared, wrapped, state, next(order)) for _ in range(2)]
    places = {}
    if os.environ.get("FAKE_CUDA") == "1":
        import fakecuda  # only processes that are started with the fake devices have it

        with fakecuda.counted(stacks=True, depth=4, only="s2s") as counted:  # type: ignore[attr-defined]
            records.append(update(prepared, wrapped, state, next(order)))
        places = {" ".join(place): times for place, times in counted.places.items()}
    else:
        records.append(update(prepared, wrapped, state, next(order)))
    return {"records": [[record["loss"], record["norm"]] for record in records], "waits": places}


if __name__ == "__main__":
    folder, *cases = sys.argv[1:]
    found = {}
    for number, case in enumerate(cases):
        family, *overrides = case.split()
        found[case] = updates(Path(folder) / str(number), family, overrides)
    Path(folder, "updates.json").write_text(json.dumps(found), encoding="utf-8")
