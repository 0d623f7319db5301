"""Train a recipe with each of several kinds of one head and several seeds, and tell their scores on dev.

python scripts/compare_heads.py recipe=tagging_ner kinds=softmax,memm,bimemm,crf seeds=0,1,2 [json=FILE] [key=value ...]

Every run has a folder of its own below the recipe's, named after kind and seed; the same command continues where it was
stopped. Further arguments are overrides of the recipe. The score of a run is that of its last step.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
from benchmarks.timing import write
from rich.table import Table

import s2s
from s2s.console.command_line import exit_code_of
from s2s.console.terminal import plain_console
from s2s.errors import UserError
from s2s.recipe.recipe import Recipe

OWN = ("recipe", "kinds", "seeds", "json")
USAGE = "usage: python scripts/compare_heads.py recipe=NAME kinds=A,B seeds=0,1,2 [json=FILE] [key=value ...]"


def measure(name: str, kind: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the row of one run, which is trained to its end."""
    plain = Recipe.load(name, overrides)
    if len(plain.heads) != 1:
        raise UserError(f"recipe {name}: it has {len(plain.heads)} heads; one is needed, whose kind is changed")
    (head,) = plain.heads
    keys = [f"heads.{head}.name={kind}", f"run.seed={seed}", f"run.folder={plain.run.folder}-{kind}-{seed}"]
    run = s2s.fit(Recipe.load(name, [*overrides, *keys]))
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = [line["dev"] for line in log if "dev" in line][-1]
    steps = [line for line in log if "seconds" in line]
    seconds = statistics.median(line["seconds"] for line in steps)
    return {"recipe": name, "kind": kind, "seed": seed, "steps": len(steps), "step_seconds": seconds, **dev}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print each kind's mean and the smallest and the largest value of its seeds."""
    metrics = [name for name in rows[0] if "." in name]
    table = Table("kind", "seeds")
    for name in metrics:
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        kind_rows = [row for row in rows if row["kind"] == kind]
        cells = ([row[name] for row in kind_rows] for name in metrics)
        table.add_row(
            kind, str(len(kind_rows)), *(f"{statistics.mean(c):.2f} ({min(c):.2f} .. {max(c):.2f})" for c in cells)
        )
    plain_console(width=140).print(table)


def _command(arguments: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments if argument.split("=")[0] in OWN and "=" in argument)
    if missing := [name for name in OWN[:3] if name not in given]:
        raise UserError(f"command line: {missing[0]}=... is missing\n{USAGE}")
    overrides = [argument for argument in arguments if argument.split("=")[0] not in OWN]
    rows = []
    for seed in given["seeds"].split(","):
        for kind in given["kinds"].split(","):
            rows.append(measure(given["recipe"], kind, int(seed), overrides))
            if "json" in given:
                write(Path(given["json"]), rows)
    show(rows)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error of the user's."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 2
    return exit_code_of(lambda: _command(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
