"""Tiny runs from tiny checkpoints of each family, with the tokenizers that such checkpoints come with."""

import json
from pathlib import Path

from tiny_tokenizers import whole
from transformers import PreTrainedModel

import s2s

PAIRS = [("the quick brown fox jumps", "quick fox"), ("over the lazy dog", "lazy dog"), ("今天天气很好", "天气")] * 4


def save_checkpoint(model: PreTrainedModel, tokenizer: str, folder: Path) -> Path:
    model.save_pretrained(folder)
    whole(tokenizer).tokenizer.save_pretrained(folder)
    return folder


def recipe(checkpoint: Path, folder: Path, *overrides: str) -> s2s.Recipe:
    """Two updates on a few pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS]
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    settings = {
        "data.path": folder,
        "data.max_source": 24,
        "data.max_target": 12,
        "vocabulary.kind": "pretrained",
        "model.pretrained": checkpoint,
        "optimizer.rate": 0.01,
        "run.folder": folder / "run",
        "run.steps": 2,
        "run.tokens": 128,
        "run.evaluate_examples": 1,
        "search.max_length": 4,
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    (folder / "tiny.yaml").write_text("", encoding="utf-8")
    return s2s.Recipe.load(folder / "tiny.yaml", [*lines, *overrides])
