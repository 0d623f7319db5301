"""Three updates by ``Seq2SeqTrainer``, on the batches of a recipe's run: python trainer_worker.py FOLDER, by two."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from foreign_models import keys
from loops import called_with, vocabulary
from torch import Tensor, distributed
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from s2s.data.batches import data_order, micro_batches
from s2s.integrations import mitigate
from s2s.recipe.build import load_data, tokenise_data
from s2s.recipe.recipe import Recipe

ROWS: dict[str, list[dict[str, Any]]] = {
    "noise": [{"name": "random_replacement", "rate": 0.5}],
    "noise_and_fgm": [{"name": "random_replacement"}, {"name": "fgm", "epsilon": 0.5}],
    "r_drop": [{"name": "r_drop"}],
}
"""Mitigations, none of which needs dropout, whose draws no two loops share."""


def recipe(folder: Path, name: str) -> Recipe:
    """The recipe of a run of three updates in two micro-batches, by AdamW as Trainer has it."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.is_dir():
        vocabulary().tokenizer.save_pretrained(tokenizer)
    methods = ", ".join("{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}" for row in ROWS[name])
    texts = f"vocabulary={{kind: pretrained, name: {tokenizer}, trim: false}}"
    run = ["run.steps=3", "run.accumulate=2", "run.tokens=256", "run.clip=1.0", "run.evaluate_every=100"]
    loss = [f"mitigations=[{methods}]", "objective.label_smoothing=0.1"]
    # With AdamW's usual epsilon, gradients that are nothing but rounding would move weights by whole steps.
    optimizer = [
        "optimizer={name: adamw, rate: 0.001, decay: 0, epsilon: 0.00001}",
        "schedule={name: constant, warmup: 0}",
    ]
    return Recipe.load("toy_copy", [*keys("t5"), texts, *run, *loss, *optimizer, f"run.folder={folder / name}"])


def trainer(folder: Path, name: str, processes: int, methods: list[dict[str, Any]] | None) -> Seq2SeqTrainer:
    """A trainer that gets the batches of that run; ``methods`` of None leave the model as it is."""
    made = recipe(folder, name)
    words, objective = made.build()
    model: Any = objective.model.inner
    if methods is not None:
        mitigate(model, vocabulary().tokenizer, methods, label_smoothing=made.objective.label_smoothing * bool(methods))
    train, _ = tokenise_data(made, load_data(made), words, {})
    parts = []
    for update in islice(data_order(train.lengths(), made.run.tokens, made.run.seed, 0), made.run.steps):
        dealt = [
            micro_batches(update, train, words, processes, made.run.accumulate, process, made.run.seed)
            for process in range(processes)
        ]
        parts += [dealt[process][number] for number in range(made.run.accumulate) for process in range(processes)]
    rows: Any = [called_with(part, "t5") | {"example_seeds": part.seeds, "unused": part.seeds} for part in parts]
    settings = Seq2SeqTrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=made.run.steps,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=made.run.accumulate,
        train_sampling_strategy="sequential",
        learning_rate=made.optimizer.rate,
        adam_epsilon=made.optimizer.epsilon,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=made.run.clip,
        optim="adamw_torch_fused",
        predict_with_generate=True,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return Seq2SeqTrainer(model, settings, lambda features: features[0], rows, rows[:2])


def trained(folder: Path, name: str, processes: int, methods: list[dict[str, Any]] | None) -> dict[str, Tensor]:
    """The weights after three updates."""
    loop = trainer(folder, name, processes, methods)
    loop.train()
    model: Any = loop.model
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    found = {name: trained(where, name, 2, methods) for name, methods in ROWS.items()}
    torch.save(found, where / f"{distributed.get_rank()}.pt")
    distributed.destroy_process_group()
