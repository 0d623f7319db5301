"""The main job on built-in data: train, decode, score against trivial baselines, then measure exposure bias.

Exit 0 only if the model's ROUGE-L is above both baselines'.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
from rich.table import Table

import s2s
from s2s.console.terminal import plain_console
from s2s.data import Dataset, Example, load
from s2s.files.atomic import write_atomically
from s2s.metrics import paired_bootstrap, rouge_l_by_sentence
from s2s.metrics.bootstrap import too_few

RECIPE = "title_gen"
SAMPLES = 6
TUNING = {"optimizer.rate": "1e-4", "schedule.warmup": "10", "run.save_every": "60", "run.evaluate_every": "60"}
TUNING_STEPS = 60
"""Enough for the damage to differ by more than its interval, and short enough for a first quarter of an hour."""
MITIGATION = "[{name: random_replacement, rate: 0.3}]"
DAMAGES = {
    "damage_held_out": "after damage that neither has seen",
    "damage_own_errors": "after own errors",
    "clean_cost": "a gold token after gold",
}
"""Headlines of a diagnosis: the cost of wrong prefixes, and of right ones, which a mitigation may raise."""
# 150 examples give intervals of about a third of the damage in half a minute; the page itself shows more figures.
DIAGNOSIS = ["data=recipe", "examples=150", "prefixes=[2,5]", "beams=[1,2]", "search_examples=20", "resamples=2000"]


def command(*arguments: str) -> None:
    """Run one of the project's commands, shown as a user would type it."""
    print("\n$ " + " ".join(arguments), flush=True)
    if (code := subprocess.run(arguments).returncode) != 0:
        sys.exit(code)


def first_words(dataset: Dataset) -> list[str]:
    """Return the baseline that copies: the first words of each body, a title's mean number of them."""
    words = round(sum(len(example.target.split()) for example in dataset.train) / len(dataset.train))
    return [" ".join(example.source.split()[:words]) for example in dataset.test]


def commonest_title(dataset: Dataset) -> list[str]:
    """Return the baseline that does not read: the commonest title of the train split."""
    title, _ = Counter(example.target for example in dataset.train).most_common(1)[0]
    return [title] * len(dataset.test)


def show_samples(examples: Sequence[Example], texts: Sequence[str]) -> None:
    """Print a few generated titles next to their references, evenly taken from the split."""
    table = Table("body", "reference", "generated", show_lines=True)
    for index in range(0, len(examples), max(1, len(examples) // SAMPLES)):
        table.add_row(examples[index].source[:160] + " ...", examples[index].target, texts[index])
    plain_console(width=140).print(table)


def compare(dataset: Dataset, texts: Sequence[str]) -> bool:
    """Print the model's and the baselines' ROUGE-L with a paired bootstrap; return whether the model beats both."""
    references = [example.target for example in dataset.test]
    model = rouge_l_by_sentence(texts, references)
    table = Table("system", "ROUGE-L", "model minus it", "95 % interval", "p", title=f"data {dataset.fingerprint}")
    table.add_row("model", f"{model.mean():.2f}", "", "", "")
    better = True
    for name, outputs in (("first words", first_words(dataset)), ("commonest title", commonest_title(dataset))):
        baseline = rouge_l_by_sentence(outputs, references)
        difference, interval, p = float(model.mean() - baseline.mean()), too_few(len(model)) or "", ""
        if not interval:
            result = paired_bootstrap(model, baseline)
            interval, p = f"{result.low:+.2f} .. {result.high:+.2f}", f"{result.p:.4f}"
        table.add_row(name, f"{baseline.mean():.2f}", f"{difference:+.2f}", interval, p)
        better &= difference > 0
    plain_console(width=100).print(table)
    return better


def fine_tuned(name: str, start: Path, folder: Path, steps: int, mitigations: str, overrides: Sequence[str]) -> Path:
    """Train the exported model a little longer, by a list of mitigations, and return the run's folder."""
    run = folder.with_name(f"{folder.name}_{name}")
    keys = {**TUNING, "run.steps": str(steps), "model.pretrained": str(start), "run.folder": str(run)}
    tuning = [f"{key}={value}" for key, value in keys.items()]
    command(
        "accelerate", "launch", "s2s/train.py", f"recipe={RECIPE}", *overrides, *tuning, f"mitigations={mitigations}"
    )
    return run


def show_damage(record: dict[str, Any]) -> None:
    """Print, from a diagnosis, what a damaged prefix costs the tokens after it, for both runs."""
    table = Table("fine-tuned by", *DAMAGES.values(), title="nats lost (95 % interval): less is better")
    for method in record["methods"]:
        cells = []
        for key in DAMAGES:
            value = method["headlines"][key]
            interval = "" if value["low"] is None else f" ({value['low']:+.2f} .. {value['high']:+.2f})"
            cells.append("-" if value["estimate"] is None else f"{value['estimate']:+.2f}{interval}")
        table.add_row(method["name"], *cells)
    plain_console(width=100).print(table)


def exposure_bias(recipe: s2s.Recipe, overrides: Sequence[str]) -> None:
    """Fine-tune the model with and without a mitigation, and compare what a wrong prefix costs each."""
    folder = Path(recipe.run.folder)
    start = folder / "bert"
    command("python", "scripts/export.py", f"run={folder}", f"output={start}")
    steps = min(TUNING_STEPS, recipe.run.steps)
    plain = fine_tuned("teacher_forcing", start, folder, steps, "[]", overrides)
    mitigated = fine_tuned("replacement", start, folder, steps, MITIGATION, overrides)
    report = folder / "diagnosis"
    command("python", "-m", "s2s.diagnose", f"run={plain},{mitigated}", f"output={report}", *DIAGNOSIS)
    record = json.loads((report / "report.json").read_text(encoding="utf-8"))
    show_damage(record)
    print(f"figures: {report / 'report.html'} (open it in a browser)")
    print(f"try it yourself: python -m s2s.serve run={plain},{mitigated}")


def main(overrides: Sequence[str]) -> int:
    """Run the job."""
    began = time.monotonic()
    recipe = s2s.Recipe.load(RECIPE, overrides)
    folder = Path(recipe.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    print("reading the docstrings of the standard library and of what is installed ...", flush=True)
    dataset = load(recipe.data)
    sources, decoded = str(folder / "test.jsonl"), str(folder / "decoded.jsonl")
    rows = [json.dumps(example._asdict(), ensure_ascii=False) + "\n" for example in dataset.test]
    write_atomically(Path(sources), "".join(rows))
    command("accelerate", "launch", "s2s/train.py", f"recipe={RECIPE}", *overrides)
    command("python", "scripts/decode.py", f"run={folder}", f"input={sources}", f"output={decoded}")
    command("python", "scripts/evaluate.py", f"hypotheses={decoded}", f"references={sources}")
    lines = Path(decoded).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["hypotheses"][0]["text"] for line in lines]
    show_samples(dataset.test, texts)
    better = compare(dataset, texts)
    exposure_bias(recipe, overrides)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if not better:
        print("error: the model is not above the trivial baselines", file=sys.stderr)
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
