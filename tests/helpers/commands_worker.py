"""Every command, one after the other, on this machine's device: python commands_worker.py, in the folder to write to.

Paths are relative, so that files of two devices can be compared. The folder gets codes.json, with the exit code of each
command. The server is not among them: it does not end.
"""

import json
from pathlib import Path

from s2s.__main__ import COMMANDS, main

MODEL = ("model={layers: 1, width: 16, heads: 2, dropout: 0.0}", "data.size=220")
PRECISE = ("run.precision=fp32", "run.tf32=false")
TRAIN = (
    *("recipe=toy_copy", *MODEL, *PRECISE, "run.folder=run", "run.steps=8", "run.tokens=400"),
    # Large steps: of tokens that are nearly equal, rounding would choose.
    *("optimizer={rate: 3e-2, epsilon: 1e-4}", "schedule.name=constant", "run.save_every=4", "run.keep=3"),
    *("run.evaluate_every=4", "run.evaluate_examples=3", "heads={copies: {name: crf, labels: copy_tags}}"),
)
STUDY = """\
title: one variant
recipe:
  base: toy_copy
  data: {size: 220}
  model: {width: 16, layers: 1, heads: 2, dropout: 0.0}
  optimizer: {rate: 3e-2, epsilon: 1e-4}
  run: {steps: 4, tokens: 400, evaluate_every: 4, evaluate_examples: 2, precision: fp32, tf32: false}
variants:
  teacher_forcing: {minutes: 1}
  noise:
    minutes: 1
    mitigations: [{name: random_replacement}]
seeds: [1]
searches:
  greedy: {beams: 1, examples: 4}
diagnose: {examples: 6, beams: [1, 2], search_examples: 3, prefixes: [2], distances: 3}
hypotheses:
  - {name: difference, endpoint: greedy.chrf, variant: noise}
"""
SOURCES = [{"source": text} for text in ("a b c d e", "b a", "j i h", "c c c", "d e f g h i")]
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "train": TRAIN,
    "decode": ("run=run", "input=in.jsonl", "output=out.jsonl", "search={beams: 3, n_best: 2, token_scores: true}"),
    "evaluate": ("hypotheses=out.jsonl", "references=gold.jsonl", "field=source", "embeddings=run", "json=scores.json"),
    "predict": ("run=run", "input=in.jsonl", "output=tags.jsonl"),
    "average": ("run=run", "last=2"),
    "diagnose": (
        *("run=run", "data=recipe", "output=report", "examples=8", "search_examples=4", "beams=[1,2]"),
        *("resamples=50", "prefixes=[2]", "distances=3", "samples=2"),
    ),
    "export": ("run=run", "output=exported", "form=s2s"),
    "study": ("study=one.yaml", "folder=weights"),
}
"""In the order in which they are called; a command needs what those before it have written."""


def write_inputs() -> None:
    """Write what commands read."""
    lines = [json.dumps(row) + "\n" for row in SOURCES]
    for name in ("in.jsonl", "gold.jsonl"):
        Path(name).write_text("".join(lines), encoding="utf-8")
    Path("one.yaml").write_text(STUDY, encoding="utf-8")


if __name__ == "__main__":
    write_inputs()
    assert set(ARGUMENTS) <= set(COMMANDS)
    codes = {name: main([name, *arguments]) for name, arguments in ARGUMENTS.items()}
    Path("codes.json").write_text(json.dumps(codes), encoding="utf-8")
