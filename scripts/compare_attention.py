"""Train each attention variant for the same steps on built-in data and put what it learns and costs side by side.

python scripts/compare_attention.py [--recipe title_gen_scratch] [--steps 200] [--variants dot random ...] [--json FILE]
    [--folder runs/compare_attention] [--sources 100] [model.width=128 ...]

A folder that holds a variant's run from before is resumed, so a stopped comparison continues where it stopped.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
from benchmarks.options import output_file
from benchmarks.timing import write
from rich.table import Table

import s2s
from s2s.console.command_line import exit_code_of
from s2s.console.terminal import plain_console
from s2s.data import load
from s2s.metrics import rouge_l_by_sentence
from s2s.runs.run import Run

VARIANTS = (
    *("dot", "dense", "random", "fixed_random", "factorized_dense", "factorized_random"),
    *("dot+random", "dense+random", "dot+dense"),
)
WARMUP = 5
"""Steps whose times do not count, where there are enough others."""


def recipe_of(arguments: argparse.Namespace, variant: str) -> s2s.Recipe:
    """Return the recipe of one variant; it is evaluated once, at its end."""
    folder = arguments.folder / variant.replace(",", "_")
    every = [f"run.{key}={arguments.steps}" for key in ("steps", "evaluate_every", "save_every")]
    keys = [f"model.attention={variant}", f"run.folder={folder}"]
    return s2s.Recipe.load(arguments.recipe, [*every, *arguments.overrides, *keys])


def measure(arguments: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Train a variant and decode the first sources of the test split with it."""
    run = s2s.fit(recipe_of(arguments, variant))
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if "dev" not in line]
    (*_, dev) = (line["dev"] for line in lines if "dev" in line)
    examples = load(run.recipe.data).test[: arguments.sources]
    texts, decoding = decode(run, [example.source for example in examples])
    return {
        "name": variant,
        "loss": dev["loss"],
        "rouge_l": float(rouge_l_by_sentence(texts, [example.target for example in examples]).mean()),
        "parameters": size(run, ""),
        "attention_parameters": size(run, ".attention."),
        "step_seconds": statistics.median(seconds[WARMUP:] or seconds),
        "decode_seconds": decoding / len(examples),
        "steps": run.recipe.run.steps,
        "sources": len(examples),
    }


def size(run: Run, within: str) -> int:
    """How many numbers the parameters hold that have this in their names."""
    return sum(parameter.numel() for name, parameter in run.model.named_parameters() if within in name)


def decode(run: Run, sources: Sequence[str]) -> tuple[list[str], float]:
    """Return the best hypothesis of each source and the seconds that all took."""
    began = time.perf_counter()
    search = run.recipe.search
    hypotheses = run.search(sources, search, lambda _: None)
    return [hypotheses[0].text if hypotheses else "" for hypotheses in hypotheses], time.perf_counter() - began


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table(
        "attention", title=f"{rows[0]['steps']} steps; dev loss a token, ROUGE-L on {rows[0]['sources']} tests"
    )
    for head in ("loss", "ROUGE-L", "parameters", "in attention", "ms a step", "ms a source"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        sizes = f"{row['parameters']:,}", f"{row['attention_parameters']:,}"
        times = f"{1000 * row['step_seconds']:.0f}", f"{1000 * row['decode_seconds']:.1f}"
        table.add_row(row["name"], f"{row['loss']:.3f}", f"{row['rouge_l']:.2f}", *sizes, *times)
    plain_console(width=120).print(table)


def main(arguments: Sequence[str]) -> int:
    """Compare and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="title_gen_scratch")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/compare_attention"))
    parser.add_argument("--json", type=output_file)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options, rest = parser.parse_known_intermixed_args(arguments)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return exit_code_of(lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Measure, show and write."""
    rows = [measure(options, variant) for variant in options.variants]
    show(rows)
    if options.json:
        write(options.json, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
