"""Decode sources with a run: ``python scripts/decode.py run=FOLDER input=FILE output=FILE [search.beams=4 ...]``.

Plain lines give plain lines, the best hypothesis each. Rows give JSONL, a line a source:
``{"id", "source", "hypotheses": [{"text", "score", "tokens"}], "settings"}``. Rows are JSONL, JSON, CSV, TSV, Parquet
or Arrow, as the input's name says (.jsonl, .csv ...); where it says nothing, as for standard input, its first line
decides, and that is told. ``-`` is standard input or output, and ``.gz`` files are read and written. Lines are written
as they come; after a kill the same command goes on behind the last that is on the disk.
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

import _checkout  # noqa: F401

from s2s.config import Schema, given_keys, merge, read_arguments
from s2s.config.help import explain
from s2s.config.outside_names import refuse_foreign
from s2s.config.ranges import Count, Few, PathText, Positive, Share, settle
from s2s.console import exit_codes
from s2s.console.outputs import check_output
from s2s.console.terminal import Log, no_log, plain_console, progress_bar
from s2s.data.lines import Format, Line, misnamed
from s2s.decoding.decode import Chunk, ChunkDecoder, Decoded, DecodingRuns, Reader, add
from s2s.decoding.resumable_output import ENDINGS, Journal, Output, Written, output_of
from s2s.errors import UserError
from s2s.inference import c_attention
from s2s.machine.memory import keep_freed_memory
from s2s.machine.worker_pool import in_order
from s2s.recipe.idle import idle_search, most_hypotheses
from s2s.runs.run import Run
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings
from s2s.search.methods.constraints import HOW
from s2s.search.methods.keys import layer_of, still_foreign
from s2s.vocabulary.reports import Unknowns

USAGE = "usage: python scripts/decode.py run=FOLDER input=FILE output=FILE [field=NAME] [search.beams=4 ...]"


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
    prefix_field: str | None = None  # of rows: with what the hypotheses of the row begin
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best
    processes: Few = 1  # that decode side by side, on the GPUs or with a share of the threads
    chunk: Count = 512  # sources that a process takes at a time, and that are written together
    search: SearchMethod = dataclasses.field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        settle(self)

    def speaker(self) -> DecodingRuns:
        """The runs that speak."""
        folders = (self.run,) if Path(self.run).exists() else tuple(self.run.split(","))
        weights = None if self.weights is None else tuple(self.weights)
        return DecodingRuns(folders, self.checkpoint, weights, self.rerank, self.rerank_weight)

    def check_output(self) -> None:
        """Refuse an output that is one of the files that are read, or that cannot be written."""
        read = [self.input, self.search.allowed, self.rerank, *self.speaker().folders]
        check_output("output", self.output, read, ENDINGS)


SCHEMA = Schema(Settings, {"search": SEARCHES})


class Tally:
    """What a command has done so far, and since when."""

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
        """Lines for the user."""
        seconds = time.perf_counter() - self.began
        rates = f"{self.sources / seconds:.1f} sources and {self.tokens / seconds:.0f} tokens a second"
        cut = f"{self.cut} of {self.sources} sources cut to {run.recipe.data.max_source} tokens"
        without = f"the search settings allow nothing for {self.without} of {self.sources} sources"
        blank = f"{self.blank} of {self.sources} sources are blank; what is written for them is invented"
        told = (self.cut, cut), (self.without, without), (self.blank, blank)
        notes = [text for number, text in told if number]
        notes += self.unknown.report("sources", self.sources)
        if run.model.output_bias.device.type == "cpu" and c_attention.chosen().library is None:
            notes.append(f"a step attends by torch, not in C: {c_attention.chosen().reason}")
        return [*notes, f"{self.sources} sources in {seconds:.1f} s, {rates}, step {run.step}"]


def check_asked(run: Run, settings: Settings) -> list[str]:
    """Return lines on settings that do nothing; refuse re-ranking where it could change nothing."""
    most = most_hypotheses(settings.search)
    if settings.rerank and most == 1:
        raise UserError("rerank: with one hypothesis of each source there is nothing to sort; give search.n_best=8")
    if settings.rerank and not settings.rerank_weight:
        raise UserError("rerank_weight: 0 leaves the second run's word out; leave rerank out too, or give a weight")
    if settings.rerank is None and settings.rerank_weight != 1:
        raise UserError("rerank_weight: without rerank=FOLDER there is no second run to weigh")
    return idle_search(settings.search, run.max_length(settings.search))


def decode(run: Run, settings: Settings) -> None:
    """Read, search and write, in the order of the input."""
    console = plain_console(stderr=True)

    def log(text: str) -> None:
        console.print(text)

    settings.check_output()
    for line in check_asked(run, settings):
        log(line)
    fields = (settings.field,) if settings.field else (run.recipe.data.source_field, "source")
    reader = Reader(settings.input, fields, settings.prefix_field, settings.format, log)
    total = reader.count()
    if total is not None:
        reader = replace(reader, log=no_log)  # told once
    # As it is, for who reads the output.
    settings = replace(settings, search=replace(settings.search, max_length=run.max_length(settings.search)))
    tally, bar = Tally(), progress_bar(console)
    with closing(output_of(settings.output)) as output, bar as progress:
        decoder, chunks, before = begin(reader, settings, output, log)
        task = progress.add_task("decoding", total=total, completed=before)
        for done in in_order(decoder, chunks, settings.processes):
            output.append(done.lines, done.digest)
            tally.add(done)
            progress.advance(task, len(done.lines))
        output.finish()
    for text in tally.report(run):
        log(text)


def begin(reader: Reader, settings: Settings, output: Output, log: Log) -> tuple[ChunkDecoder, Iterator[Chunk], int]:
    """Who makes the lines, of what, and how many are there already."""
    lines, structured = reader.lines()
    for text in misnamed(settings.output, structured):
        log(text)
    decoder = ChunkDecoder(settings.speaker(), settings.search, structured)
    first, digest = 0, sha256()
    if isinstance(output, Journal):
        maker = decoder.fingerprint_inputs() | {"fields": [*reader.fields, reader.prefix]}
        lines, first, digest = resume(output, maker, lines, reader, log)
    return decoder, reader.chunks(lines, settings.chunk, first, digest), first


def resume(
    journal: Journal, maker: dict[str, Any], lines: Iterator[Line], reader: Reader, log: Log
) -> tuple[Iterator[Line], int, Any]:
    """The lines that are left, how many are written already, and the hash of these."""
    found, digest = journal.found(), sha256()
    reason = "" if found is None else ", ".join(key for key in maker if maker[key] != found.maker.get(key))
    if found is not None and not reason:
        for index, line in enumerate(islice(lines, found.lines)):
            add(digest, reader.source(index, line))
        if digest.hexdigest() == found.input:
            log(f"{journal.partial}: going on behind its {found.lines} lines")
            journal.start(found)
            return lines, found.lines, digest
        if not Path(reader.path).is_file():
            raise UserError(f"{journal.partial}: made from other input, which cannot be read again; remove that file")
        lines, reason = reader.lines()[0], "input"
    if reason:
        log(f"{journal.partial}: made with other {reason}; begun anew")
    journal.start(Written(maker))
    return lines, 0, sha256()


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all is written, 2 after an error of the user's."""
    if not arguments:
        print(USAGE)
        return 2
    if {"-h", "--help"} & set(arguments):
        return exit_codes.run(lambda: print(explain(USAGE, SCHEMA, arguments)))
    return exit_codes.run(lambda: _command(arguments), "stopped; the same command goes on where it was")


def _command(arguments: Sequence[str]) -> None:
    keep_freed_memory()
    layers = read_arguments(arguments)
    # Which row of the searches is meant, and so which keys it has, the run's recipe says.
    first = merge(SCHEMA, [layer for layer in layers if "search" not in layer.values])
    if not first.run:
        raise UserError(f"command line: run=FOLDER is missing\n{USAGE}")
    first.check_output()  # before the run is read, which takes a while
    run = first.speaker().run()
    base = run.recipe.search
    settings = merge(SCHEMA, [layer_of(base, f"{run.folder}/recipe.yaml"), *layers])
    settings.search = still_foreign(settings.search, base, given_keys(layers, "search"))
    refuse_foreign(settings.search, "search", HOW)  # before a file that it names is hashed
    try:
        decode(run, settings)
    except BrokenPipeError:  # who reads has enough; nothing may be flushed to it at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
