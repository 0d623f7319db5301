"""Tag or label sources with a run's heads: ``s2s predict run=FOLDER input=FILE output=FILE``.

Sources are texts or lists of tokens. Rows (JSONL, JSON, CSV, TSV, Parquet, Arrow: as the input's name says, or, where
the name says nothing, its first line) give JSONL, one line per source: ``{"id", "source", "tokens", "NAME": [...]}``.
NAME is the name of each head. A tagger gives one tag per token (null where a cut lost the token) and, where tags mark
spans, ``"NAME_spans": [{"type", "start", "end", "text"}]``. A classifier gives the labels that it chooses, most likely
first, and ``"NAME_scores"``, their probabilities.

Plain lines give plain lines: tags with blanks between them (_ where a cut lost one), or labels with tabs between them;
``head=NAME`` chooses one of several heads. ``-`` is standard input or output, and ``.gz`` files are read and written.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2s.config import merge, read_arguments
from s2s.config.ranges import PathText, settle
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console, print_results, progress_bar
from s2s.data.lines import Format, Wanted, misnamed, position, read_rows, source_text
from s2s.data.rows import Fields, json_text
from s2s.decoding.resumable_output import encoded
from s2s.errors import UserError, nearest
from s2s.files.atomic import open_output
from s2s.heads.prediction import Given
from s2s.heads.run_heads import Head
from s2s.heads.scoring import HeadOutput
from s2s.heads.taggers import SoftmaxTagger
from s2s.metrics.tags import spans
from s2s.runs.run import load

USAGE = "usage: s2s predict run=FOLDER input=FILE output=FILE [field=NAME] [head=NAME]"


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""  # a run's folder; needed
    input: PathText = "-"  # a file of sources; -: standard input
    output: PathText = "-"  # a file; -: standard output
    format: Format | None = None  # of the input; null: its name says, or else its first line
    field: str | None = None  # of rows; null: the recipe's data.source_field, or else "source"
    head: str | None = None  # which head's labels plain lines are; null: the only one
    checkpoint: Literal["best", "last"] | None = None  # null: the best

    def __post_init__(self) -> None:
        settle(self)
        if not self.run:
            raise UserError("run=FOLDER is missing; --help shows the usage")


def fields_of(head: Head, output: HeadOutput, tokens: Sequence[str], joint: str) -> dict[str, Any]:
    """Return the fields of a row that a head fills; ``joint`` is put between the tokens of a span's text."""
    fields: dict[str, Any] = {head.name: output.labels}
    if not isinstance(head.settings, SoftmaxTagger):
        return fields | {f"{head.name}_scores": output.scores}
    if head.settings.spans:
        fields[f"{head.name}_spans"] = [
            {"type": kind, "start": start, "end": end, "text": joint.join(tokens[start:end])}
            for kind, start, end in spans([None if tag is None else str(tag) for tag in output.labels])
        ]
    return fields


def line_of(head: Head, output: HeadOutput) -> str:
    """Return a plain line of a head's labels."""
    between = " " if isinstance(head.settings, SoftmaxTagger) else "\t"
    return between.join("_" if label is None else str(label) for label in output.labels)


def choose(heads: Sequence[Head], name: str | None) -> Head | None:
    """Return the head whose labels plain lines hold; None in a run without heads, which ``Run.predict`` refuses."""
    names = [head.name for head in heads]
    if name is None and len(heads) > 1:
        raise UserError(f"head: the run has several ({', '.join(names)}); plain lines hold the labels of one")
    if name is not None and name not in names:
        raise UserError(f"head: no '{name}'{nearest(name, names)}")
    return next((head for head in heads if name in (None, head.name)), None)


def write(name: str, lines: Sequence[str]) -> None:
    """Write lines to standard output, or to a file that appears under its name only when it is whole."""
    if name == "-":
        print_results(lines)
        return
    with open_output(Path(name)) as file:
        file.write(encoded(lines, name.endswith(".gz")))


def predict(arguments: Sequence[str]) -> None:
    """Read, label and write, in the order of the input."""
    settings = merge(Settings, read_arguments(arguments))
    check_output("output", settings.output, [settings.input, settings.run])
    run = load(settings.run, settings.checkpoint)
    console, began = plain_console(stderr=True), time.perf_counter()

    def report(text: str) -> None:
        console.print(text)

    source_fields = (settings.field,) if settings.field else (run.recipe.data.source_field, "source")
    wanted = Wanted(Fields(one_of=source_fields, more=("id",)), settings.format, report)
    lines, rows = read_rows(settings.input, wanted)
    for text in misnamed(settings.output, rows is not None):
        report(text)
    sources: list[Given] = [*lines]
    if rows is not None:
        sources = [source_text(row, source_fields, position(settings.input, index)) for index, row in enumerate(rows)]
    chosen = choose(run.heads, settings.head) if rows is None else None
    with progress_bar(console) as progress:
        task = progress.add_task("labelling", total=len(sources))
        predictions = run.predict(sources, lambda done: progress.advance(task, done))
    joint = "" if run.recipe.data.split == "characters" else " "
    written = []
    for index, (source, prediction) in enumerate(zip(sources, predictions, strict=True)):
        if chosen is not None:
            written.append(line_of(chosen, prediction.heads[chosen.name]))
            continue
        id = rows[index].get("id", index) if rows is not None else index
        fields = {"id": id, "source": source, "tokens": prediction.tokens}
        for head in run.heads:
            fields |= fields_of(head, prediction.heads[head.name], prediction.tokens, joint)
        written.append(json_text(fields))
    write(settings.output, written)
    seconds = time.perf_counter() - began
    console.print(f"{len(sources)} sources in {seconds:.1f} s, {len(sources) / seconds:.1f} a second, step {run.step}")


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is written, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, predict)
