"""Decode sources with a run: ``python scripts/decode.py run=FOLDER input=FILE output=FILE [search.beams=4 ...]``.

Plain lines give plain lines, the best hypothesis each. JSONL gives JSONL, a line a source:
``{"id", "source", "hypotheses": [{"text", "score", "tokens"}], "settings"}``. ``-`` is standard input or output, and
``.gz`` files are read. A file is JSONL if its name says so; standard input, if its first line is a JSON object.
"""

import dataclasses
import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from rich.console import Console
from rich.progress import Progress

import s2s
from s2s import commands
from s2s.config import Layer, merge, read_arguments
from s2s.config.describing import Schema, explain
from s2s.data.lines import field_text, place, read_rows
from s2s.errors import UserError
from s2s.run import Hypothesis, Run
from s2s.search.settings import SearchSettings

USAGE = "usage: python scripts/decode.py run=FOLDER input=FILE output=FILE [field=NAME] [search.beams=4 ...]"


@dataclass
class Settings:
    """The command's arguments; ``search`` starts from the run's recipe."""

    run: str = ""  # a run's folder; needed
    input: str = "-"  # a file of sources; -: standard input
    output: str = "-"  # a file; -: standard output
    field: str | None = None  # of JSONL rows; null: the recipe's data.source_field, or else "source"
    checkpoint: Literal["best", "last"] | None = None  # null: the best
    search: SearchSettings = dataclasses.field(default_factory=SearchSettings)


class Row(NamedTuple):
    """A source and its identity."""

    id: Any
    source: str


def read(path: str, wanted: Sequence[str]) -> tuple[list[Row], bool]:
    """The sources of a file, from the first of the wanted fields that a row has, and whether it is JSONL."""
    lines, rows = read_rows(path)
    if rows is None:
        return [Row(number, line) for number, line in enumerate(lines)], False
    return [_row(row, index, path, wanted) for index, row in enumerate(rows)], True


def _row(row: dict[str, Any], index: int, path: str, wanted: Sequence[str]) -> Row:
    field = next((field for field in wanted if field in row), wanted[0])
    return Row(row.get("id", index), field_text(row, field, place(path, index)))


@contextmanager
def writing(name: str) -> Iterator[TextIO]:
    """A file that appears whole when all is written, or standard output."""
    if name == "-":
        yield sys.stdout
        return
    partial = Path(name + ".partial")
    with (
        gzip.open(partial, "wt", encoding="utf-8")
        if name.endswith(".gz")
        else partial.open("w", encoding="utf-8") as file
    ):
        yield file
    partial.replace(name)


def format_row(row: Row, hypotheses: Sequence[Hypothesis], structured: bool, search: SearchSettings) -> str:
    """One line of output."""
    if not structured:
        return " ".join(hypotheses[0].text.split()) if hypotheses else ""
    fields = {
        "id": row.id,
        "source": row.source,
        "hypotheses": [hypothesis._asdict() for hypothesis in hypotheses],
        "settings": asdict(search),
    }
    return json.dumps(fields, ensure_ascii=False)


def decode(run: Run, settings: Settings) -> None:
    """Read, search and write, in the order of the input."""
    wanted = [settings.field] if settings.field else [run.recipe.data.source_field, "source"]
    rows, structured = read(settings.input, wanted)
    console = Console(stderr=True)
    search = replace(settings.search, max_length=run.max_length(settings.search))  # as it is, for who reads the output
    began = time.perf_counter()
    with Progress(*Progress.get_default_columns(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("decoding", total=len(rows))
        found = run.search([row.source for row in rows], search, lambda done: progress.advance(task, done))
    with writing(settings.output) as file:
        for row, hypotheses in zip(rows, found, strict=True):
            file.write(format_row(row, hypotheses, structured, search) + "\n")
    seconds = time.perf_counter() - began
    console.print(f"{len(rows)} sources in {seconds:.1f} s, {len(rows) / seconds:.1f} a second, step {run.step}")


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all is written, 2 after an error of the user's."""
    if not arguments:
        print(USAGE)
        return 2
    if {"-h", "--help"} & set(arguments):
        return commands.run(lambda: print(explain(USAGE, Schema(Settings, {}, {}), arguments)))
    return commands.run(lambda: _command(arguments))


def _command(arguments: Sequence[str]) -> None:
    layer = read_arguments(arguments)
    first = merge(Settings, [layer], {})
    if not first.run:
        raise UserError(f"command line: run=FOLDER is missing\n{USAGE}")
    run = s2s.load(first.run, first.checkpoint)
    own = Layer(f"{first.run}/recipe.yaml", {"search": asdict(run.recipe.search)}, {})
    decode(run, merge(Settings, [own, layer], {}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
