"""Decode the same sources in each precision and say how near the results are to those of float32.

python scripts/compare_precisions.py --run FOLDER --input FILE [--sources 200] [--beams 4] [--json FILE]

``same`` is the share of sources whose best hypothesis is float32's, ``lost`` how much less likely, in nats by the
float32 model, the best hypotheses are on average than float32's own; below 0 they are likelier.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import _checkout  # noqa: F401
from benchmarks.options import output_file
from benchmarks.timing import write
from rich.table import Table

import s2s
from s2s.console.command_line import exit_code_of
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console
from s2s.data.lines import Wanted, field_text, position, read_rows
from s2s.data.rows import Fields
from s2s.inference.precisions import PRECISIONS
from s2s.runs.run import Run


def texts(run: Run, path: str, count: int) -> list[str]:
    """Return the first sources of a file of lines, or of JSONL with the field of the recipe's sources."""
    field = run.recipe.data.source_field
    lines, rows = read_rows(path, Wanted(Fields(one_of=(field,)), log=print))
    if rows is None:
        return lines[:count]
    return [field_text(row, field, position(path, number)) for number, row in enumerate(rows[:count])]


def measure(run: Run, sources: list[str], beams: int) -> list[dict[str, Any]]:
    """Return a row a precision."""
    tokens: dict[str, list[list[int]]] = {}
    rows: list[dict[str, Any]] = []
    for precision in PRECISIONS:
        start = time.process_time()
        tokens[precision] = [
            hypotheses[0].tokens for hypotheses in run.generate(sources, beams=beams, precision=precision)
        ]
        rows.append({"precision": precision, "cpu_seconds_a_sentence": (time.process_time() - start) / len(sources)})
    scores = {name: [float(row.sum()) for row in run.score(sources, tokens)] for name, tokens in tokens.items()}
    for row in rows:
        name = row["precision"]
        pairs = zip(tokens[name], tokens["fp32"], strict=True)
        lost = [whole - rounded for whole, rounded in zip(scores["fp32"], scores[name], strict=True)]
        row |= {"same": sum(whole == rounded for whole, rounded in pairs) / len(sources), "lost": sum(lost) / len(lost)}
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("precision", "same", "lost", "CPU ms a sentence")
    for row in rows:
        shown = f"{row['same']:.1%}", f"{row['lost']:+.4f}", f"{1000 * row['cpu_seconds_a_sentence']:.1f}"
        table.add_row(row["precision"], *shown)
    plain_console(width=100).print(table)


def main(given: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="FOLDER")
    parser.add_argument("--input", required=True, metavar="FILE", help="lines, or JSONL")
    parser.add_argument("--sources", type=int, default=200, help="how many of them; default 200")
    parser.add_argument("--beams", type=int, default=4, help="default 4")
    parser.add_argument("--json", type=output_file, help="write the rows there")
    arguments = parser.parse_args(given)

    def work() -> None:
        if arguments.json:
            check_output("--json", arguments.json, [arguments.run, arguments.input])
        run = s2s.load(arguments.run)
        rows = measure(run, texts(run, arguments.input, arguments.sources), arguments.beams)
        show(rows)
        if arguments.json:
            write(arguments.json, rows)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
