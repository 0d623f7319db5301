"""Decoding of files: chunks of sources to lines of output, here or in a worker process."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from s2s.console.terminal import Log, no_log
from s2s.data.lines import Line, Wanted, field_text, place, source_text, stream_rows
from s2s.data.rows import Fields, json_text
from s2s.decoding.ensemble import ensemble, rerank
from s2s.errors import UserError
from s2s.machine.worker_pool import number
from s2s.runs import checkpoints, hub
from s2s.runs.run import Hypothesis, Run, load
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import prefix_of
from s2s.search.methods.keys import plain
from s2s.vocabulary.reports import Unknowns, unknowns


class Source(NamedTuple):
    """A source and its identity."""

    id: Any
    text: str
    prefix: str | None = None  # with which its hypotheses begin


class Chunk(NamedTuple):
    """Sources that follow one another, and the hash of all input lines up to the last of them."""

    sources: list[Source]
    digest: str


class Decoded(NamedTuple):
    """The lines of a chunk and its hash; tokens of the best hypotheses; sources cut, without hypothesis, or unknown."""

    lines: list[str]
    digest: str
    tokens: int
    cut: int
    without: int
    unknown: Unknowns
    blank: int  # sources without a token


@dataclass(frozen=True)
class Reader:
    """What is read of each line."""

    path: str
    fields: tuple[str, ...]  # of a row, the first that it has
    prefix: str | None = None  # the field with what the hypotheses begin with
    format: str | None = None  # null: the file's name tells, or its content
    log: Log = no_log  # takes lines for the user on how the file was read

    def lines(self) -> tuple[Iterator[Line], bool]:
        """Return the file's lines or rows, and whether they are rows."""
        more = ("id",) if self.prefix is None else ("id", self.prefix)
        return stream_rows(self.path, Wanted(Fields(one_of=self.fields, more=more), self.format, self.log))

    def source(self, index: int, line: Line) -> Source:
        """A line's source; raises a ``UserError`` with its place."""
        where = place(self.path, index)
        if line.row is None:
            if self.prefix is not None:
                raise UserError(f"prefix_field: {where} is a plain line without fields")
            return Source(index, line.text)
        prefix = None if self.prefix is None else field_text(line.row, self.prefix, where)
        text = source_text(line.row, self.fields, where)
        return Source(line.row.get("id", index), text if isinstance(text, str) else " ".join(text), prefix)

    def count(self) -> int | None:
        """How many lines there are, all of them looked at once; None for what can be read only once."""
        if not Path(self.path).is_file():
            return None
        count = 0
        for line in self.lines()[0]:
            self.source(count, line)
            count += 1
        return count

    def chunks(self, lines: Iterable[Line], size: int, first: int, digest: Any) -> Iterator[Chunk]:
        """The rest of the lines, of which the next one has the index ``first``, in chunks."""
        sources = (self._digested(index, line, digest) for index, line in enumerate(lines, first))
        while chosen := list(islice(sources, size)):
            yield Chunk(chosen, digest.hexdigest())

    def _digested(self, index: int, line: Line, digest: Any) -> Source:
        source = self.source(index, line)
        add(digest, source)
        return source


def add(digest: Any, source: Source) -> None:
    """Hash one more source, as far as a line of output depends on it."""
    digest.update(json.dumps(source, default=str).encode() + b"\n")


@dataclass(frozen=True)
class DecodingRuns:
    """Which runs speak: one or an ensemble, and the run by which hypotheses are ranked anew."""

    folders: tuple[str, ...]
    checkpoint: str | None = None
    weights: tuple[float, ...] | None = None
    second: str | None = None
    second_weight: float = 1.0

    def run(self) -> Run:
        """The run or ensemble, on this process's device."""
        return _ensemble(self.folders, self.checkpoint, self.weights)

    def fingerprint_inputs(self) -> dict[str, Any]:
        """What a line of output depends on, with the hashes of the weights."""
        folders = [*self.folders, *([self.second] if self.second else [])]
        hashes = [checkpoints.fingerprint(hub.folder_of(folder), self.checkpoint) for folder in folders]
        weights = None if self.weights is None else list(self.weights)
        return {"run": hashes, "weights": weights, "rerank_weight": self.second_weight if self.second else None}

    def decode(
        self, sources: Sequence[Source], search: SearchMethod
    ) -> tuple[list[list[Hypothesis]], int, Unknowns, int]:
        """Return the hypotheses of each source, how many were cut, what is unknown in them, how many are blank."""
        run, texts = self.run(), [source.text for source in sources]
        prefixes = [source.prefix for source in sources if source.prefix is not None]
        for source in sources:
            if source.prefix is not None:
                prefix_of(source.prefix, run.vocabulary, f"prefix_field: source {source.id}")
        ids, cut = run.source_ids(texts)
        found = run.search_ids(ids, search, lambda _: None, prefixes or None)
        if self.second is not None:
            found = rerank(_opened(self.second, self.checkpoint), texts, found, self.second_weight)
        return found, cut, unknowns(run.vocabulary, texts, ids), run.count_blank(ids)


@dataclass(frozen=True)
class ChunkDecoder:
    """A chunk to lines; it is pickled, and each process opens the runs once."""

    speaker: DecodingRuns
    search: SearchMethod
    structured: bool

    def fingerprint_inputs(self) -> dict[str, Any]:
        """What the lines depend on, beside the input."""
        allowed = None if self.search.allowed is None else sha256(Path(self.search.allowed).read_bytes()).hexdigest()
        return self.speaker.fingerprint_inputs() | {
            "search": plain(self.search),
            "allowed": allowed,
            "jsonl": self.structured,
        }

    def __call__(self, chunk: Chunk) -> Decoded:
        """Decode and format a chunk."""
        found, cut, unknown, blank = self.speaker.decode(chunk.sources, self.search)
        tokens = sum(len(hypotheses[0].tokens) for hypotheses in found if hypotheses)
        lines = [self.line(*pair) for pair in zip(chunk.sources, found, strict=True)]
        without = sum(not hypotheses for hypotheses in found)
        return Decoded(lines, chunk.digest, tokens, cut, without, unknown, blank)

    def line(self, source: Source, hypotheses: Sequence[Hypothesis]) -> str:
        """One line of output."""
        if not self.structured:
            text = hypotheses[0].text if hypotheses else ""
            return text if self.search.allowed is not None else " ".join(text.split())  # a line of a file is one
        fields = {
            "id": source.id,
            "source": source.text,
            "hypotheses": [_shown(hypothesis) for hypothesis in hypotheses],
            "settings": plain(self.search),
        }
        return json_text(fields)  # an id of a Parquet file may be a date


def _shown(hypothesis: Hypothesis) -> dict[str, Any]:
    scores = hypothesis.token_scores
    return hypothesis._asdict() | ({} if scores is None else {"token_scores": scores})


@lru_cache(maxsize=1)
def _ensemble(folders: tuple[str, ...], checkpoint: str | None, weights: tuple[float, ...] | None) -> Run:
    runs = [_opened(folder, checkpoint) for folder in folders]
    return ensemble(runs, weights) if len(runs) > 1 or weights else runs[0]


@lru_cache(maxsize=16)
def _opened(folder: str, checkpoint: str | None) -> Run:
    """A run; workers share the GPUs that there are."""
    gpus = torch.cuda.device_count()
    return load(folder, checkpoint, f"cuda:{number() % gpus}" if gpus else None)
