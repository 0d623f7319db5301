"""The main job on built-in data: train, decode the test split, score it, and compare it with trivial baselines.

Exit 0 only if the model's ROUGE-L is above both baselines'.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import _checkout  # noqa: F401
from rich.table import Table

import s2s
from s2s.console.terminal import plain_console
from s2s.data import Dataset, Example, load
from s2s.files.atomic import write_atomically
from s2s.metrics import paired_bootstrap, rouge_l_by_sentence
from s2s.metrics.significance import too_few

RECIPE = "title_gen_warm"
SAMPLES = 6


def command(*arguments: str) -> None:
    """Run one of the project's commands, shown as a user would type it."""
    print("\n$ " + " ".join(arguments), flush=True)
    if (code := subprocess.run(arguments).returncode) != 0:
        sys.exit(code)


def first_words(dataset: Dataset) -> list[str]:
    """The baseline that copies: as many first words of the body as a title has on average."""
    words = round(sum(len(example.target.split()) for example in dataset.train) / len(dataset.train))
    return [" ".join(example.source.split()[:words]) for example in dataset.test]


def commonest_title(dataset: Dataset) -> list[str]:
    """The baseline that does not read: the commonest title of the train split."""
    title, _ = Counter(example.target for example in dataset.train).most_common(1)[0]
    return [title] * len(dataset.test)


def show_samples(examples: Sequence[Example], texts: Sequence[str]) -> None:
    """A few generated titles beside their references, evenly taken from the split."""
    table = Table("body", "reference", "generated", show_lines=True)
    for index in range(0, len(examples), max(1, len(examples) // SAMPLES)):
        table.add_row(examples[index].source[:160] + " ...", examples[index].target, texts[index])
    plain_console(width=140).print(table)


def compare(dataset: Dataset, texts: Sequence[str]) -> bool:
    """Print ROUGE-L beside the baselines' with a paired bootstrap; whether it is above both."""
    references = [example.target for example in dataset.test]
    ours = rouge_l_by_sentence(texts, references)
    table = Table("system", "ROUGE-L", "model minus it", "95 % interval", "p", title=f"data {dataset.fingerprint}")
    table.add_row("model", f"{ours.mean():.2f}", "", "", "")
    better = True
    for name, outputs in (("first words", first_words(dataset)), ("commonest title", commonest_title(dataset))):
        theirs = rouge_l_by_sentence(outputs, references)
        difference, interval, p = float(ours.mean() - theirs.mean()), too_few(len(ours)) or "", ""
        if not interval:
            result = paired_bootstrap(ours, theirs)
            interval, p = f"{result.low:+.2f} .. {result.high:+.2f}", f"{result.p:.4f}"
        table.add_row(name, f"{theirs.mean():.2f}", f"{difference:+.2f}", interval, p)
        better &= difference > 0
    plain_console(width=100).print(table)
    return better


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
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if not better:
        print("error: the model is not above the trivial baselines", file=sys.stderr)
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
