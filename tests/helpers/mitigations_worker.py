"""The gradient of one update under every method: python mitigations_worker.py FOLDER [cuda], by several processes.

The update is dealt to them unevenly, to two micro-batches each; its gradients are taken under DDP and, with blocks that
recompute, sharded as ``run.sharding: full`` does it. With ``cuda`` each process has a GPU.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from s2s.batch import Batch, count
from s2s.data import load
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.model import output_rows
from s2s.objective import Objective
from s2s.recipe.build import build_objective, build_vocabulary
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import load_model
from s2s.training.sharding import shard
from s2s.vocabulary import Vocabulary

TINY = ["model.width=16", "model.layers=2", "model.dropout=0.0", "data.size=220", "run.precision=fp32"]
EXTRA = {
    "gradient_penalty_first_order": "{name: gradient_penalty, first_order: true}",
    "fgm_all": "{name: fgm, scope: all}",
    "r_drop_target": "{name: r_drop, scope: target}",
    "gold_sum": "{name: gold, reward: sum, reference: FOLDER/reference}",
    "feeds_and_fgm": "{name: random_replacement}, {name: word_dropout, scope: all}, {name: fgm}",
    "distillation_on_gold": "{name: distillation, teacher: FOLDER/reference, on_policy: 0}",
    "anchored_sampling": "{name: scheduled_sampling, weight: 0.5, passes: 2, noise: 0.5}",
}
STORED = ("brio", "dpo")
FEW = {"candidates": "candidates: 3", "passes": "passes: 2"}
REFUSED = {"ddp": ["fgm_article"], "fsdp": ["fgm_article", "gradient_penalty", "gradient_penalty_article"]}
CANCELLING = ("mrt", "mrt_shuffled", "self_critical", "distillation_on_gold", "distillation")
"""Methods whose losses are differences of nearly equal numbers, or depend on texts that the model samples.

Between devices they are less exact in single precision, and in half precision as good as other numbers.
"""
DEALT = {0: [[0, 1, 2], [3]], 1: [[4, 5, 6, 7], [8, 9, 10]]}


def rows(folder: Path) -> dict[str, str]:
    """The mitigations of a recipe for every method and a few compositions."""
    plain = {name: f"{{name: {name}}}" for name in MITIGATIONS}
    stored = {name: f"{{name: {name}, path: {folder / 'candidates.jsonl'}}}" for name in STORED}
    taught = {"distillation": f"{{name: distillation, teacher: {folder / 'reference'}, weight: 0.7}}"}
    return plain | stored | taught | {name: row.replace("FOLDER", str(folder)) for name, row in EXTRA.items()}


def few(name: str, folder: Path) -> str:
    """A row of ``rows`` with small numbers of the keys that decide how often a method runs the model."""
    row, keys = rows(folder)[name], getattr(MITIGATIONS.get(name), "__dataclass_fields__", {})
    texts = [text for key, text in FEW.items() if key in keys]
    return row.replace("}", "".join(f", {text}" for text in texts) + "}", 1)


def objective(row: str, vocabulary: Vocabulary) -> Objective:
    """A fresh objective; the weights are the recipe's."""
    recipe = Recipe.load("toy_copy", [*TINY, f"mitigations=[{row}]"])
    return build_objective(recipe, vocabulary, load_model=load_model)[0]


def update(folder: Path) -> tuple[Vocabulary, Batch]:
    """Eleven examples, and a file of candidates for them and all others."""
    recipe = Recipe.load("toy_copy", TINY)
    examples = load(recipe.data).train
    vocabulary = build_vocabulary(recipe, load(recipe.data))
    lines = []
    for example in examples:
        texts = [example.target[::-1], example.target, example.target[:5]]
        hypotheses = [
            {"text": text, "score": -0.5 * rank, "tokens": vocabulary.encode(text)} for rank, text in enumerate(texts)
        ]
        settings = {"max_length": 16, "length_penalty": 0.0}
        lines.append(json.dumps({"source": example.source, "hypotheses": hypotheses, "settings": settings}))
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        (folder / "candidates.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return vocabulary, vocabulary.batch([(example.source, example.target) for example in examples[:11]])


def gradient(module: Objective) -> Tensor:
    """All gradients as one vector."""
    grads = [parameter.grad for parameter in module.parameters()]
    return torch.cat([(grad.full_tensor() if isinstance(grad, DTensor) else grad).flatten() for grad in grads]).cpu()


def under_ddp(module: Objective, parts: list[Batch], whole: Batch) -> Tensor:
    wrapped = DistributedDataParallel(module.to(parts[0].source.device))
    with wrapped.no_sync():
        (wrapped(parts[0], 1, count(whole)).total * 2).backward()
    (wrapped(parts[1], 1, count(whole)).total * 2).backward()
    return gradient(module)


def under_fsdp(module: Objective, parts: list[Batch], whole: Batch) -> Tensor:
    module.model.keep("block", 1)
    shard(module, parts[0].source.device, "fp32")
    for part in parts:
        (module(part, 1, count(whole)).total * 2).backward()
    return gradient(module)


def main(folder: Path, kind: str = "cpu") -> None:
    distributed.init_process_group("gloo" if kind == "cpu" else "nccl")
    device = torch.device(kind, distributed.get_rank()) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
        output_rows.MANY = 1  # the rows are few, and tables shall be filled as they are for many
    vocabulary, whole = update(folder)
    distributed.barrier()
    whole = whole.to(device)
    parts = [whole.map(lambda tensor, index=index: tensor[index]) for index in DEALT[distributed.get_rank()]]
    gradients: dict[tuple[str, str], Tensor | str] = {}
    for name, row in rows(folder).items():
        for wrapper, run in {"ddp": under_ddp, "fsdp": under_fsdp}.items():
            try:
                gradients[wrapper, name] = run(objective(row, vocabulary), parts, whole)
            except UserError as error:
                gradients[wrapper, name] = str(error)
    torch.save(gradients, folder / f"{distributed.get_rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
