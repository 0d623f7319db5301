"""Checks that a card computes what the processor does: mitigations, heads and optimizers, searches."""

import json
from pathlib import Path

import torch

from benchmarks.gpu_card import PRECISIONS, Card, Row, Rows, apart
from s2s.batch import Batch, count
from s2s.data import load
from s2s.errors import UserError, first_line
from s2s.heads import HEADS
from s2s.machine.precision import HALVES
from s2s.mitigations import MITIGATIONS
from s2s.objective import Objective
from s2s.optim import OPTIMIZERS
from s2s.recipe.build import build_objective, build_vocabulary
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import load_model
from s2s.runs.run import Run
from s2s.runs.run import load as load_run
from s2s.search.methods import SEARCHES
from s2s.train import fit
from s2s.vocabulary import Vocabulary

TINY = ("model={layers: 2, width: 32, heads: 2, dropout: 0.0}", "data.size=220", "run.tf32=false", "run.tokens=512")
RUN = ("run.precision=fp32", "run.steps=2", "run.evaluate_every=2", "run.evaluate_examples=2")
STEADY = "optimizer.epsilon=1e-4"
"""A key of AdamW's, with which gradients near 0 do not decide the size of a step."""
NEEDS = {
    "brio": "path: {folder}/candidates.jsonl",
    "dpo": "path: {folder}/candidates.jsonl",
    "distillation": "teacher: {folder}/reference",
}
"""Keys that methods cannot do without."""
EXAMPLES, SCALE = 12, 1024.0
TEXTS = ["a b c d e", "b a", "j i h", "c c c"]
DOUBLE = "fp64"
# A teacher of distillation computes in float32, whatever the student's type.
TOLERANCES = {DOUBLE: 1e-5, "fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
"""Distances of gradients, relative to the processor's; methods that sample may differ more in half precision."""


def mitigations(card: Card) -> Rows:
    """Compare an update under every method with the processor's in double precision, in each precision of the card."""
    vocabulary, batch = _materials(card.folder)
    for precision in (DOUBLE, *PRECISIONS):
        distances, failures = {}, []
        for name in MITIGATIONS:
            row = f"{{name: {name}, {NEEDS.get(name, '').format(folder=card.folder)}}}"
            try:
                objective = _objective(row, vocabulary)
                truth = _gradient(objective.double(), batch, DOUBLE)
                objective = objective if precision == DOUBLE else objective.float()
                distances[name] = apart(truth, _gradient(objective.cuda(), batch.to(torch.device("cuda")), precision))
            except (RuntimeError, UserError) as error:
                failures.append(Row(f"{name}, {precision}", f"failed: {first_line(error)}"))
        yield from failures
        yield Row(f"gradients of updates, {precision}", _summary(distances, TOLERANCES[precision]))


def _objective(row: str, vocabulary: Vocabulary) -> Objective:
    recipe = Recipe.load("toy_copy", [*TINY, f"mitigations=[{row}]"])
    return build_objective(recipe, vocabulary, load_model=load_model)[0]


def _gradient(objective: Objective, batch: Batch, precision: str) -> list[torch.Tensor]:
    scale = SCALE if precision == "fp16" else 1.0
    objective.zero_grad()
    with torch.autocast(batch.source.device.type, HALVES.get(precision), enabled=precision in HALVES):
        loss = objective(batch, 1, count(batch), scale).total
    (loss * scale).backward()
    return [part.grad.double().cpu() / scale for part in objective.parameters() if part.grad is not None]


def _summary(distances: dict[str, float], tolerance: float) -> str:
    """Say how many are within a tolerance, and which are not, the farthest first."""
    far = sorted((name for name in distances if not distances[name] <= tolerance), key=lambda name: -distances[name])
    within = f"{len(distances) - len(far)} of {len(distances)} within {tolerance:g}"
    return f"{within}; farther: {', '.join(f'{name} {distances[name]:.1g}' for name in far)}" if far else within


def _materials(folder: Path) -> tuple[Vocabulary, Batch]:
    """Return a vocabulary and a batch, and write the run and the candidates that methods read."""
    _run(folder / "reference", "cpu", STEADY)
    recipe = Recipe.load("toy_copy", TINY)
    dataset = load(recipe.data)
    vocabulary = build_vocabulary(recipe, dataset)
    lines = []
    for example in dataset.train:
        texts = [example.target, example.target[::-1], example.target[:5]]
        hypotheses = [
            {"text": text, "score": -1.0 - rank, "tokens": vocabulary.encode(text)} for rank, text in enumerate(texts)
        ]
        settings = {"max_length": 16, "length_penalty": 0.0}
        lines.append(json.dumps({"source": example.source, "hypotheses": hypotheses, "settings": settings}) + "\n")
    (folder / "candidates.jsonl").write_text("".join(lines), encoding="utf-8")
    return vocabulary, vocabulary.batch([(example.source, example.target) for example in dataset.train[:EXAMPLES]])


def _run(folder: Path, device: str, *keys: str) -> Run:
    return fit(Recipe.load("toy_copy", [*TINY, *RUN, f"run.folder={folder}", f"run.device={device}", *keys]))


def runs(card: Card) -> Rows:
    """Compare whole runs of two updates, with all heads at once and with every optimizer."""
    heads = ", ".join(f"{name}: {{name: {name}, labels: {kind.derived}}}" for name, kind in HEADS.items())
    rows: dict[str, tuple[str, ...]] = {"all heads": (STEADY, f"heads={{{heads}}}")}
    rows |= {f"optimizer {name}": (f"optimizer={{name: {name}}}",) for name in OPTIMIZERS}
    distances = {}
    for name, keys in rows.items():
        first, second = (_logged(card.folder / f"{name} {device}", device, *keys) for device in ("cpu", "auto"))
        distances[name] = max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))
    yield Row("losses and norms of two updates, fp32", _summary(distances, 1e-3))


def _logged(folder: Path, device: str, *keys: str) -> list[float]:
    _run(folder, device, *keys)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record[name] for record in records if "loss" in record for name in ("loss", "norm")]


def searches(card: Card) -> Rows:
    """Compare what every search writes, in float32."""
    # Of an untrained model nearly equal tokens would change places.
    folder = card.folder / "searched"
    _run(folder, "cpu", STEADY, "optimizer.rate=3e-2", "schedule.name=constant", "run.steps=12")
    runs_of = [load_run(folder, device=device) for device in ("cpu", "cuda")]
    for name in SEARCHES:
        texts = [_texts(run, name) for run in runs_of]
        same = sum(first == second for first, second in zip(*texts, strict=True))
        yield Row(f"search {name}, fp32", f"{same} of {len(TEXTS)} sources have the same hypotheses")


def _texts(run: Run, name: str) -> list[list[str]]:
    return [[hypothesis.text for hypothesis in rows] for rows in run.generate(TEXTS, name=name, max_length=8)]
