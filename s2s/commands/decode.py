"""Decode sources with a run: ``s2s decode run=FOLDER input=FILE output=FILE [search.beams=4 ...]``.

Plain lines give plain lines, the best hypothesis of each. Rows give JSONL, one line per source:
``{"id", "source", "hypotheses": [{"text", "score", "tokens"}], "settings"}``. Rows are JSONL, JSON, CSV, TSV, Parquet
or Arrow, as the name of the input says (.jsonl, .csv ...). Where the name says nothing, as for standard input, the
first line decides, and a message says so. ``-`` is standard input or output; ``.gz`` files are read and written. Lines
are written as they come; after a kill, the same command resumes after the last line that is on the disk.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from s2s.config import Schema, given_keys, merge, read_arguments
from s2s.config.outside_names import refuse_foreign
from s2s.config.ranges import Count, Few, PathText, Positive, Share, settle
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output
from s2s.console.terminal import Log, log, no_log, plain_console, progress_bar
from s2s.data.lines import Format, Line, files, misnamed
from s2s.decoding.decode import Chunk, ChunkDecoder, Decoded, DecodingRuns, Reader, add
from s2s.decoding.resumable_output import ENDINGS, Journal, Output, Record, output_of
from s2s.errors import UserError
from s2s.inference import c_code
from s2s.machine.memory import keep_freed_memory
from s2s.machine.worker_pool import in_order
from s2s.recipe.idle import idle_search, most_hypotheses
from s2s.runs.run import Run
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings
from s2s.search.methods.constraints import HOW
from s2s.search.methods.keys import layer_of, plain, still_foreign
from s2s.vocabulary.reports import Unknowns

USAGE = """\
usage: s2s decode run=FOLDER input=FILE output=FILE [field=NAME] [search.beams=4 ...] [--dry-run]
       s2s decode --help [SECTION]

Writes hypotheses for sources. --dry-run reads the run and the input, shows what would be decoded, and writes nothing.
"""


@dataclass
class Settings:
    """The command's arguments; ``search`` starts from the run's recipe."""

    run: PathText = ""  # a run's folder, or several with commas between: the mean of their probabilities; needed
    weights: list[Positive] | None = None  # of several runs; null: equal
    rerank: PathText | None = None  # a second run: hypotheses are sorted by its log-probabilities of them
    rerank_weight: Share = 1.0  # 0: only the first run's score counts, 1: only the second's
    input: PathText = "-"  # a file of sources; -: standard input
    output: PathText = "-"  # a file; -: standard output
    format: Format | None = None  # of the input; null: its name tells, or else its first line
    field: str | None = None  # of rows; null: the recipe's data.source_field, or else "source"
    prefix_field: str | None = None  # of rows: the field with the text that the row's hypotheses begin with
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best
    processes: Few = 1  # how many decode at once, on the GPUs or each with a share of the threads
    chunk: Count = 512  # sources that a process takes at a time; they are written together
    search: SearchMethod = dataclasses.field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        settle(self)

    def runs(self) -> DecodingRuns:
        """Return the runs that decode, and the one that re-ranks."""
        weights = None if self.weights is None else tuple(self.weights)
        return DecodingRuns(tuple(files(self.run)), self.checkpoint, weights, self.rerank, self.rerank_weight)

    def check_output(self) -> None:
        """Refuse an output that is one of the files that are read, or that cannot be written."""
        read = [self.input, self.search.allowed, self.rerank, *self.runs().folders]
        check_output("output", self.output, read, ENDINGS)


SCHEMA = Schema(Settings, {"search": SEARCHES})


class Tally:
    """Counts of what a command has decoded so far, and since when."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.sources, self.tokens, self.cut, self.without, self.blank = 0, 0, 0, 0, 0
        self.unknown = Unknowns()

    def add(self, done: Decoded) -> None:
        """Count a chunk."""
        self.sources, self.tokens = self.sources + len(done.lines), self.tokens + done.tokens
        self.cut, self.without = self.cut + done.cut, self.without + done.without
        self.unknown, self.blank = self.unknown.plus(done.unknown), self.blank + done.blank

    def report(self, run: Run) -> list[str]:
        """Return lines for the user."""
        seconds = time.perf_counter() - self.began
        rates = f"{self.sources / seconds:.1f} sources and {self.tokens / seconds:.0f} tokens a second"
        cut = f"{self.cut} of {self.sources} sources cut to {run.recipe.data.max_source} tokens"
        without = f"the search settings allow nothing for {self.without} of {self.sources} sources"
        blank = f"{self.blank} of {self.sources} sources are blank; what is written for them is invented"
        notes = [text for number, text in ((self.cut, cut), (self.without, without), (self.blank, blank)) if number]
        notes += self.unknown.report("sources", self.sources)
        if run.model.device.type == "cpu" and c_code.build().functions is None:
            notes.append(f"a step attends by torch, not in C: {c_code.build().reason}")
        return [*notes, f"{self.sources} sources in {seconds:.1f} s, {rates}, step {run.step}"]


def check_rerank(settings: Settings) -> None:
    """Refuse re-ranking that could change nothing."""
    if settings.rerank and most_hypotheses(settings.search) == 1:
        raise UserError("rerank: with one hypothesis of each source there is nothing to sort; give search.n_best=8")
    if settings.rerank and not settings.rerank_weight:
        raise UserError("rerank_weight: 0 leaves the second run's word out; leave rerank out too, or give a weight")
    if settings.rerank is None and settings.rerank_weight != 1:
        raise UserError("rerank_weight: without rerank=FOLDER there is no second run to weigh")


def read_settings(arguments: Sequence[str]) -> tuple[Run, Settings]:
    """Return the run that the arguments name, and the settings, whose ``search`` starts from the run's recipe.

    Errors: a UserError for wrong arguments, and for an output that cannot be written.
    """
    layers = read_arguments(arguments)
    # Two passes: only the run's recipe says which search is meant, and so which keys ``search`` has.
    first = merge(SCHEMA, [layer for layer in layers if "search" not in layer.values])
    if not first.run:
        raise UserError(f"command line: run=FOLDER is missing\n{USAGE}")
    first.check_output()  # before the run is read, which takes a while
    run = first.runs().run()
    base = run.recipe.search
    settings = merge(SCHEMA, [layer_of(base, f"{run.folder}/recipe.yaml"), *layers])
    settings.search = still_foreign(settings.search, base, given_keys(layers, "search"))
    refuse_foreign(settings.search, "search", HOW)  # before a file that the recipe names is hashed
    settings.check_output()
    run.check_search(settings.search)
    check_rerank(settings)
    return run, settings


def reader_of(run: Run, settings: Settings, report: Log) -> Reader:
    """Return the reader of the input; ``report`` takes lines for the user on settings and on how the file is read."""
    for line in idle_search(settings.search, run.max_length(settings.search)):
        report(line)
    fields = (settings.field,) if settings.field else (run.recipe.data.source_field, "source")
    return Reader(settings.input, fields, settings.prefix_field, settings.format, report)


def decode(arguments: Sequence[str]) -> None:
    """Read, search and write, in the order of the input."""
    keep_freed_memory()
    run, settings = read_settings(arguments)
    try:
        write(run, settings)
    except BrokenPipeError:
        # The reader of the output has enough. Python flushes the stream once more at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dry_run(arguments: Sequence[str]) -> None:
    """Read the run and the whole input, show what would be decoded and with which settings, and write nothing."""
    run, settings = read_settings(arguments)
    reader = reader_of(run, settings, log)
    total = reader.count()
    search = replace(settings.search, max_length=run.max_length(settings.search))
    log(f"run: {settings.run}, step {run.step}, on {run.device}")
    log(f"input: {settings.input}, {'left alone: it can be read only once' if total is None else f'{total} sources'}")
    log(f"output: {settings.output}, not written")
    log(f"search: {', '.join(f'{key} {value}' for key, value in plain(search).items())}")


def write(run: Run, settings: Settings) -> None:
    """Decode the input chunk by chunk and write the lines; show a bar and, at the end, what happened."""
    console = plain_console(stderr=True)

    def report(text: str) -> None:
        console.print(text)

    reader = reader_of(run, settings, report)
    total = reader.count()
    if total is not None:
        reader = replace(reader, log=no_log)  # counting has reported how the file is read
    # The limit in numbers, so that the "settings" of the output hold it.
    settings = replace(settings, search=replace(settings.search, max_length=run.max_length(settings.search)))
    tally, bar = Tally(), progress_bar(console)
    with closing(output_of(settings.output)) as output, bar as progress:
        decoder, chunks, before = begin(reader, settings, output, report)
        task = progress.add_task("decoding", total=total, completed=before)
        for done in in_order(decoder, chunks, settings.processes):
            output.append(done.lines, done.digest)
            tally.add(done)
            progress.advance(task, len(done.lines))
        output.finish()
    for text in tally.report(run):
        report(text)


def begin(reader: Reader, settings: Settings, output: Output, report: Log) -> tuple[ChunkDecoder, Iterator[Chunk], int]:
    """Return the decoder of chunks, the chunks that are left, and how many lines are written already."""
    lines, structured = reader.lines()
    for text in misnamed(settings.output, structured):
        report(text)
    runs = settings.runs()
    # All processes take this one's ways: each would measure for itself where the runs are of another processor.
    runs = replace(runs, paths=tuple(runs.run().paths.items()))
    decoder = ChunkDecoder(runs, settings.search, structured)
    first, digest = 0, sha256()
    if isinstance(output, Journal):
        maker = decoder.fingerprint_inputs() | {"fields": [*reader.fields, reader.prefix]}
        lines, first, digest = resume(output, maker, lines, reader, report)
    return decoder, reader.chunks(lines, settings.chunk, first, digest), first


def resume(
    journal: Journal, maker: dict[str, Any], lines: Iterator[Line], reader: Reader, report: Log
) -> tuple[Iterator[Line], int, Any]:
    """Start the journal; return the lines that are left, how many are written already, and the hash of these.

    Written lines are kept only if everything that they depend on is unchanged: runs, settings and the input so far.
    """
    written, digest = journal.unfinished(), sha256()
    reason = "" if written is None else ", ".join(key for key in maker if maker[key] != written.maker.get(key))
    if written is not None and not reason:
        for index, line in enumerate(islice(lines, written.lines)):
            add(digest, reader.source(index, line))
        if digest.hexdigest() == written.input:
            report(f"{journal.partial}: resuming after its {written.lines} lines")
            journal.start(written)
            return lines, written.lines, digest
        if not Path(reader.path).is_file():
            raise UserError(f"{journal.partial}: made from other input, which cannot be read again; remove that file")
        lines, reason = reader.lines()[0], "input"
    if reason:
        report(f"{journal.partial}: made with other {reason}; starting again")
    journal.start(Record(maker))
    return lines, 0, sha256()


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is written, 2 after an error that the user can mend."""
    stopped = "stopped; the same command resumes where it was"
    return run_command(arguments, USAGE, SCHEMA, decode, dry_run, stopped)
