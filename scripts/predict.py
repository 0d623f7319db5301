"""Tag or label sources with a run's heads: ``python scripts/predict.py run=FOLDER input=FILE output=FILE``.

Sources are texts or lists of tokens. Rows (JSONL, JSON, CSV, TSV, Parquet, Arrow: as the input's name says, or where it
says nothing, its first line) give JSONL, a line a source: ``{"id", "source", "tokens", "NAME": [...]}``, NAME being
each head's: a tag for each token (null where a cut lost it) and ``"NAME_spans": [{"type", "start", "end", "text"}]``
where tags mark spans, or the labels chosen, most likely first, and ``"NAME_scores"``, their probabilities.

Plain lines give plain lines: tags with blanks between them (_ where a cut lost one), or labels with tabs between them;
``head=NAME`` chooses one of several heads. ``-`` is standard input or output, and ``.gz`` files are read and written.
"""

import gzip
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _checkout  # noqa: F401

import s2s
from s2s.config import merge, read_arguments
from s2s.config.help import explain
from s2s.config.ranges import PathText, settle
from s2s.console import exit_codes
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console, print_results, progress_bar
from s2s.data.lines import Format, Wanted, misnamed, place, read_rows, source_text
from s2s.data.rows import Fields, json_text
from s2s.errors import UserError, nearest
from s2s.files.atomic import open_output
from s2s.heads.prediction import Given, Prediction
from s2s.heads.run_heads import Head
from s2s.heads.scoring import HeadOutput
from s2s.heads.taggers import SoftmaxTagger
from s2s.metrics.tags import spans
from s2s.runs.run import Run

USAGE = "usage: python scripts/predict.py run=FOLDER input=FILE output=FILE [field=NAME] [head=NAME]"


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""  # a run's folder; needed
    input: PathText = "-"  # a file of sources; -: standard input
    output: PathText = "-"  # a file; -: standard output
    format: Format | None = None  # of the input; null: its name tells, or else its first line
    field: str | None = None  # of rows; null: the recipe's data.source_field, or else "source"
    head: str | None = None  # which head's labels plain lines are; null: the only one
    checkpoint: Literal["best", "last"] | None = None  # null: the best

    def __post_init__(self) -> None:
        settle(self)


def structured(head: Head, said: HeadOutput, prediction: Prediction, joint: str) -> dict[str, Any]:
    """The fields of a row that a head fills."""
    fields: dict[str, Any] = {head.name: said.labels}
    if not isinstance(head.settings, SoftmaxTagger):
        return fields | {f"{head.name}_scores": said.scores}
    if head.settings.spans:
        tokens = prediction.tokens
        fields[f"{head.name}_spans"] = [
            {"type": kind, "start": start, "end": end, "text": joint.join(tokens[start:end])}
            for kind, start, end in spans([None if tag is None else str(tag) for tag in said.labels])
        ]
    return fields


def plain(head: Head, said: HeadOutput) -> str:
    """A line of a head's labels."""
    between = " " if isinstance(head.settings, SoftmaxTagger) else "\t"
    return between.join("_" if label is None else str(label) for label in said.labels)


def chosen(heads: Sequence[Head], name: str | None) -> Head:
    """The head whose labels plain lines are."""
    names = [head.name for head in heads]
    if name is None and len(heads) > 1:
        raise UserError(f"head: the run has several ({', '.join(names)}); plain lines hold the labels of one")
    if name is not None and name not in names:
        raise UserError(f"head: no '{name}'{nearest(name, names)}")
    return next(head for head in heads if name in (None, head.name))


def write(name: str, lines: Sequence[str]) -> None:
    """Write lines to standard output, or to a file that is there when all is written."""
    if name == "-":
        print_results(lines)
        return
    content = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
    with open_output(Path(name)) as file:
        file.write(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def predict(run: Run, settings: Settings) -> None:
    """Read, label and write, in the order of the input."""
    heads = run.heads
    console, began = plain_console(stderr=True), time.perf_counter()

    def log(text: str) -> None:
        console.print(text)

    wanted = (settings.field,) if settings.field else (run.recipe.data.source_field, "source")
    asked = Wanted(Fields(one_of=wanted, more=("id",)), settings.format, log)
    lines, rows = read_rows(settings.input, asked)
    for text in misnamed(settings.output, rows is not None):
        log(text)
    sources: list[Given] = [*lines]
    if rows is not None:
        sources = [source_text(row, wanted, place(settings.input, index)) for index, row in enumerate(rows)]
    head = chosen(heads, settings.head) if rows is None else heads[0]
    with progress_bar(console) as progress:
        task = progress.add_task("labelling", total=len(sources))
        found = run.predict(sources, lambda done: progress.advance(task, done))
    joint = "" if run.recipe.data.split == "characters" else " "
    written = []
    for index, (source, prediction) in enumerate(zip(sources, found, strict=True)):
        if rows is None:
            written.append(plain(head, prediction.heads[head.name]))
            continue
        fields = {"id": rows[index].get("id", index), "source": source, "tokens": prediction.tokens}
        for each in heads:
            fields |= structured(each, prediction.heads[each.name], prediction, joint)
        written.append(json_text(fields))
    write(settings.output, written)
    seconds = time.perf_counter() - began
    console.print(f"{len(sources)} sources in {seconds:.1f} s, {len(sources) / seconds:.1f} a second, step {run.step}")


def _command(arguments: Sequence[str]) -> None:
    settings = merge(Settings, read_arguments(arguments))
    if not settings.run:
        raise UserError(f"command line: run=FOLDER is missing\n{USAGE}")
    check_output("output", settings.output, [settings.input, settings.run])
    predict(s2s.load(settings.run, settings.checkpoint), settings)


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all is written, 2 after an error of the user's."""
    if not arguments:
        print(USAGE)
        return 2
    if {"-h", "--help"} & set(arguments):
        return exit_codes.run(lambda: print(explain(USAGE, Settings, arguments)))
    return exit_codes.run(lambda: _command(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
