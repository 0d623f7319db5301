"""Rows of every table, computed on the processor and on the GPU of one process: python devices_worker.py FOLDER.

The names of the rows are those of the project's own tables, so that a new row is in. The folder gets rows.json: how far
the GPU's numbers are from the processor's, relative to these, or the error that ended the row. Starting a process takes
longer than most rows.
"""

import copy
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from alike import assert_alike
from foreign_models import FAMILIES, prepared, randomise
from foreign_models import keys as foreign_keys
from foreign_models import objective as foreign_objective
from loops import PAIRS, called_with, fresh
from loops import gradients as library_gradients
from loops import vocabulary as library_vocabulary
from mitigations_worker import TINY, few, objective, rows, update
from safetensors.torch import load_file
from tiny_runs import log, place
from torch import Tensor

import s2s
from s2s.batch import Batch, count
from s2s.heads import HEADS
from s2s.inference.precisions import PRECISIONS as DECODING
from s2s.integrations import mitigate
from s2s.machine.precision import HALVES
from s2s.model import output_rows
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.model.attention_scores import SCORES
from s2s.objective import Objective
from s2s.optim import OPTIMIZERS
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import WEIGHTS
from s2s.search.methods import SEARCHES
from s2s.vocabulary import Vocabulary

BACKBONES = ("prefix_lm", *FAMILIES)
PRECISIONS = ("fp32", *HALVES)
ATTENTIONS = (*SCORES, "+".join(SCORES))
SCALE = 1024.0
"""The factor of losses in float16."""
STEPS = 3
TRAINED = (
    *("data.size=220", "model={layers: 2, width: 16, heads: 2, dropout: 0.0}", f"run.steps={STEPS}", "run.tokens=400"),
    *("run.evaluate_examples=2", "run.evaluate_every=3", "schedule.name=constant"),
)
"""Without dropout, whose numbers a GPU draws in another way."""
# In exact numbers the gradient of a key's bias is 0; AdamW would make whole steps of what rounding leaves of it.
OPTIMIZED = {"adamw": ["optimizer={rate: 1e-2, epsilon: 1e-4}"]}
"""Keys of some rows of ``OPTIMIZERS``; others have their defaults."""
TEXTS = ["a b c d e", "b a", "j i h", "c c c", "d e f g h i", "a"]
SEARCHED: dict[str, dict[str, Any]] = {
    "beam": {"beams": 3, "n_best": 2},
    "diverse": {"groups": 2, "beams": 2, "n_best": 4},
    "sample": {"samples": 3, "top_k": 9, "epsilon": 1e-6},
    "mbr": {"samples": 6, "n_best": 3},
}
"""Keys of some rows of ``SEARCHES``; others have their defaults."""
LIMITS: dict[str, dict[str, Any]] = {
    "lengths": {"max_length_ratio": 1.5, "max_length_offset": 1, "min_length": 2, "length_penalty": 1.0},
    "repetition": {"no_repeat_ngram": 2, "repetition_penalty": 1.2},
    "phrases": {"required": ["b c"], "forbidden": ["d", "a a"], "prefix": "e"},
    "token scores": {"token_scores": True, "n_best": 2},
}
"""What every search can be limited by, tried with beams."""
LIBRARY = ("", "random_replacement", "fgm", "r_drop", "mrt")
"""Mitigations inside other people's loops, which compute what the others do."""


class Materials(NamedTuple):
    """The folder of a run that methods read, its vocabulary, and the batch of an update."""

    folder: Path
    vocabulary: Vocabulary
    batch: Batch


Row = dict[str, float]
Rows = Iterator[tuple[str, Callable[[], Row]]]


def apart(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The distance of the GPU's tensors, as one vector, from the processor's over the norm of these."""
    one, other = (torch.cat([part.detach().double().cpu().flatten() for part in parts]) for parts in (ours, theirs))
    assert one.shape == other.shape
    assert torch.isfinite(one).all()
    assert torch.isfinite(other).all()
    assert one.norm() > 0
    return float((other - one).norm() / one.norm())


def gradient(module: Objective, batch: Batch, half: str = "") -> tuple[list[Tensor], list[Tensor]]:
    """The losses of an update, and its gradients."""
    device = module.model.device
    module.zero_grad()
    batch, scale = batch.to(device), SCALE if half == "fp16" else 1.0
    with torch.autocast(device.type, HALVES.get(half), enabled=half in HALVES):
        losses = module(batch, 1, count(batch), scale)
    (losses.total * scale).backward()
    grads = [part.grad / scale for part in module.parameters() if part.grad is not None]
    return [losses.total, *losses.parts.values()], grads


def compared(modules: tuple[Objective, Objective], batch: Batch, half: str = "") -> Row:
    """An update on the processor, and on the GPU in another precision, or the same."""
    (losses, grads), (other_losses, other_grads) = gradient(modules[0], batch), gradient(modules[1], batch, half)
    return {"loss": apart(losses, other_losses), "gradient": apart(grads, other_grads)}


def twins(module: Objective) -> tuple[Objective, Objective]:
    """An objective on the processor, and its copy on the GPU."""
    return module, copy.deepcopy(module).to("cuda")


def mitigations(made: Materials) -> Rows:
    """Every method on every backbone in double precision; on our own model in each precision of training as well."""
    methods = {
        name: [prepared(made.vocabulary, few(name, made.folder), "data.max_target=6") for _ in ("cpu", "cuda")]
        for name in rows(made.folder)
    }

    def row(modules: tuple[Objective, Objective], name: str, half: str = "") -> Row:
        for module, prepared_methods in zip(modules, methods[name], strict=True):
            module.mitigations = prepared_methods
        return compared(modules, made.batch, half)

    single = twins(objective("", made.vocabulary))
    for name in methods:
        yield from ((f"{name} {half}", partial(row, single, name, half)) for half in PRECISIONS)
    for backbone in BACKBONES:
        own = backbone == "prefix_lm"
        whole = objective("", made.vocabulary).double() if own else foreign_objective(backbone, made.vocabulary)
        randomise(whole)
        double = twins(whole)
        yield from ((f"{name} {backbone}", partial(row, double, name)) for name in methods)


def heads(made: Materials) -> Rows:
    """A few updates with all heads at once, and what they predict; a row has the losses of one, and all else."""
    parts = [f"{name}: {{name: {name}, labels: {kind.derived}, weight: 0.1}}" for name, kind in HEADS.items()]
    runs = dict(trainings(made.folder, "heads all", [f"heads={{{', '.join(parts)}}}", *OPTIMIZED["adamw"]]))
    results = {precision: cache(runs[f"all {precision}"]) for precision in PRECISIONS}

    def row(name: str, precision: str) -> Row:
        found = results[precision]()
        assert f"{name}.loss 1" in found
        return {key: value for key, value in found.items() if key.partition(".")[0] in (key, name)}

    for name in HEADS:
        yield from ((f"{name} {precision}", partial(row, name, precision)) for precision in PRECISIONS)


def optimizers(made: Materials) -> Rows:
    """A few updates with every optimizer."""
    for name in OPTIMIZERS:
        yield from trainings(made.folder, f"optimizers {name}", OPTIMIZED.get(name, [f"optimizer={{name: {name}}}"]))


def trainings(folder: Path, name: str, keys: list[str]) -> Rows:
    """Whole runs of a few steps in every precision; the processor's are in float32."""

    def trained(device: str, precision: str) -> s2s.Run:
        place = folder / f"{name} {device} {precision}"
        own = [f"run.device={device}", f"run.precision={precision}", "run.tf32=false", f"run.folder={place}"]
        return s2s.fit(Recipe.load("toy_copy", [*TRAINED, *keys, *own]))

    def row(precision: str) -> Row:
        ours, theirs = one("cpu", "fp32"), trained("auto", precision)
        assert (ours.device.type, theirs.device.type) == ("cpu", "cuda")
        found: Row = {}
        for line, other in zip(log(Path(ours.folder)), log(Path(theirs.folder)), strict=True):
            numbers = {key: [line[key], other[key]] for key in line if key != "dev"}
            numbers |= {"dev": [record["dev"]["loss"] for record in (line, other)]} if "dev" in line else {}
            # An overflow in float16 has no norm; the updates after it start from other weights.
            known = {key: pair for key, pair in numbers.items() if None not in pair}
            found |= {f"{key} {line['step']}": abs(a - b) / (abs(a) or 1.0) for key, (a, b) in known.items()}
            if other.get("skipped"):
                return found
        weights = [load_file(place(Path(run.folder), STEPS) / WEIGHTS) for run in (ours, theirs)]
        found["weights"] = apart(weights[0].values(), weights[1].values())
        if ours.heads and precision == "fp32":
            assert_alike(ours.predict(TEXTS), theirs.predict(TEXTS), "predictions")
        return found

    one = cache(trained)
    yield from ((f"{name.partition(' ')[2]} {precision}", partial(row, precision)) for precision in PRECISIONS)


def searches(made: Materials) -> Rows:
    """Every search on every backbone, every limit, and every precision of decoding."""

    def row(ours: s2s.Run, theirs: s2s.Run, keys: dict[str, Any]) -> Row:
        found, others = (run.generate(TEXTS, **{"max_length": 7, **keys}) for run in (ours, theirs))
        first, second = (list(chain.from_iterable(hypotheses)) for hypotheses in (found, others))
        assert [one.tokens for one in first] == [two.tokens for two in second]
        return {"scores": apart(*([torch.tensor([one.score for one in side])] for side in (first, second)))}

    def forced(ours: s2s.Run, theirs: s2s.Run) -> Row:
        return {"scores": apart(*(run.score(TEXTS, TEXTS[::-1]) for run in (ours, theirs)))}

    def streamed(ours: s2s.Run, theirs: s2s.Run) -> Row:
        texts = [[piece.text for piece in run.stream(TEXTS[0], max_length=7)] for run in (ours, theirs)]
        assert texts[0] == texts[1]
        return {}

    def rounded(ours: s2s.Run, theirs: s2s.Run, precision: str) -> Row:
        search: dict[str, Any] = {"beams": 3, "max_length": 7, "precision": precision, "token_scores": True}
        found = [hypotheses[0] for hypotheses in theirs.generate(TEXTS, **search)]
        known = ours.score(TEXTS, [hypothesis.tokens for hypothesis in found])
        # A text that was cut has no end, which has a score in ``known``.
        given = [torch.tensor(hypothesis.token_scores) for hypothesis in found]
        return {"scores": apart([row[: len(part)] for row, part in zip(known, given, strict=True)], given)}

    for backbone in BACKBONES:
        runs = run_twins(made.folder / backbone, [] if backbone == "prefix_lm" else foreign_keys(backbone))
        for name in SEARCHES:
            yield f"{name} {backbone}", partial(row, *runs, {"name": name, **SEARCHED.get(name, {})})
        for name, keys in LIMITS.items():
            yield f"{name} {backbone}", partial(row, *runs, {"beams": 3, **keys})
        yield f"score {backbone}", partial(forced, *runs)
        yield f"stream {backbone}", partial(streamed, *runs)
        for name in DECODING:
            yield f"{name} {backbone}", partial(rounded, *runs, name)


def run_twins(folder: Path, keys: list[str]) -> tuple[s2s.Run, s2s.Run]:
    """A run with random weights, which write different texts, on the processor and on the GPU."""
    s2s.fit(Recipe.load("toy_copy", [*TRAINED, *keys, "run.steps=1", "run.device=cpu", f"run.folder={folder}"]))
    ours, theirs = (s2s.load(folder, device=device) for device in ("cpu", "cuda"))
    randomise(ours.model)
    theirs.model.load_state_dict(ours.model.state_dict())
    return ours, theirs


def models(made: Materials) -> Rows:
    """Every attention of our own model, and every way to keep activations, in an update."""

    def row(*keys: str) -> Row:
        recipe = Recipe.load("toy_copy", [*TINY, *keys])
        return compared(twins(build_objective(recipe, made.vocabulary)[0]), made.batch)

    for name in ATTENTIONS:
        yield name, partial(row, f"model.attention={name}")
    for name in CHECKPOINTING:
        yield name, partial(row, f"run.checkpointing={name}")


def library(_: Materials) -> Rows:
    """Mitigated forwards of models of ``transformers`` inside other people's loops."""

    def row(family: str, name: str) -> Row:
        found = []
        for device in ("cpu", "cuda"):
            model = fresh(family).to(device)
            methods = [{"name": name}] if name else []
            mitigate(model, library_vocabulary().tokenizer, methods, max_source=20, max_target=6)
            pairs = library_vocabulary().batch(PAIRS * 4)
            given = called_with(pairs, family) | {"example_seeds": pairs.seeds}
            loss = model(**{key: value.to(device) for key, value in given.items()}).loss
            found.append((loss, library_gradients(model, loss)))
        (loss, grads), (other_loss, other_grads) = found
        return {"loss": apart([loss], [other_loss]), "gradient": apart(grads.values(), other_grads.values())}

    for family in FAMILIES:
        yield from ((f"{name or 'plain'} {family}", partial(row, family, name)) for name in LIBRARY)


GROUPS: dict[str, Callable[[Materials], Rows]] = {
    "mitigations": mitigations,
    "heads": heads,
    "optimizers": optimizers,
    "searches": searches,
    "models": models,
    "library": library,
}


def main(folder: Path, *groups: str) -> None:
    output_rows.MANY = 1  # the rows here are few, and a GPU's tables shall be filled as they are for many
    s2s.fit(Recipe.load("toy_copy", [*TINY, "run.device=cpu", "run.steps=2", f"run.folder={folder / 'reference'}"]))
    materials = Materials(folder, *update(folder))
    found: dict[str, dict[str, Any]] = {}
    for group in groups or GROUPS:
        found[group] = {}
        for name, row in GROUPS[group](materials):
            try:
                found[group][name] = row()
            except Exception as error:
                found[group][name] = {"error": "".join(traceback.format_exception(error))}
    Path(folder, "rows.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
