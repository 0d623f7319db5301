"""Decoding of files: chunks of sources to lines of output, in this process or in workers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from s2s.console.terminal import Log, no_log
from s2s.data.lines import Line, Wanted, field_text, position, source_text, stream_rows
from s2s.data.rows import Fields, json_text
from s2s.decoding.ensemble import ensemble, rerank
from s2s.errors import UserError
from s2s.machine.worker_pool import number
from s2s.runs import checkpoints, export
from s2s.runs.run import Hypothesis, Run, load
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.constraints import prefix_of
from s2s.search.methods.keys import plain
from s2s.vocabulary.reports import Unknowns, unknowns


class Source(NamedTuple):
    """A source and its identity."""

    id: Any
    text: str
    prefix: str | None = None  # how its hypotheses begin


class Chunk(NamedTuple):
    """Consecutive sources, and the hash of all input lines up to the last of them."""

    sources: list[Source]
    digest: str


class Decoded(NamedTuple):
    """The output lines of a chunk with the chunk's hash, and counts for the user."""

    lines: list[str]
    digest: str
    tokens: int  # of the best hypotheses
    cut: int  # sources longer than the model reads
    without: int  # sources without a hypothesis
    unknown: Unknowns
    blank: int  # sources without a token


@dataclass(frozen=True)
class Reader:
    """The input, and which fields of its rows are read."""

    path: str
    fields: tuple[str, ...]  # of a row; the first that it has is the source
    prefix: str | None = None  # the field with the beginning of the hypotheses
    format: str | None = None  # null: the file's name decides, or else its content
    log: Log = no_log  # takes remarks on how the file was read

    def lines(self) -> tuple[Iterator[Line], bool]:
        """Return the file's lines or rows, and whether they are rows."""
        more = ("id",) if self.prefix is None else ("id", self.prefix)
        return stream_rows(self.path, Wanted(Fields(one_of=self.fields, more=more), self.format, self.log))

    def source(self, index: int, line: Line) -> Source:
        """Return the source of a line; raises a ``UserError`` with its position in the file."""
        where = position(self.path, index)
        if line.row is None:
            if self.prefix is not None:
                raise UserError(f"prefix_field: {where} is a plain line without fields")
            return Source(index, line.text)
        prefix = None if self.prefix is None else field_text(line.row, self.prefix, where)
        text = source_text(line.row, self.fields, where)
        return Source(line.row.get("id", index), text if isinstance(text, str) else " ".join(text), prefix)

    def count(self) -> int | None:
        """Read and check all lines and return their number; None for an input that can be read only once."""
        if not Path(self.path).is_file():
            return None
        return sum(1 for _ in self._sources(self.lines()[0], 0))

    def chunks(self, lines: Iterable[Line], size: int, first: int, digest: Any) -> Iterator[Chunk]:
        """Yield the remaining lines, whose first has the index ``first``, as chunks; ``digest`` is updated by each."""
        sources = self._sources(lines, first)
        while chunk := list(islice(sources, size)):
            for source in chunk:
                add(digest, source)
            yield Chunk(chunk, digest.hexdigest())

    def _sources(self, lines: Iterable[Line], first: int) -> Iterator[Source]:
        return (self.source(index, line) for index, line in enumerate(lines, first))


def add(digest: Any, source: Source) -> None:
    """Hash one more source, by everything that its line of output depends on."""
    digest.update(json.dumps(source, default=str).encode() + b"\n")


@dataclass(frozen=True)
class DecodingRuns:
    """The runs that decode, one or an ensemble, and the run that ranks their hypotheses."""

    folders: tuple[str, ...]
    checkpoint: str | None = None
    weights: tuple[float, ...] | None = None
    reranker: str | None = None
    rerank_weight: float = 1.0
    paths: tuple[tuple[str, str], ...] = ()  # for all processes, so that none measures its own; (): those of the run

    def run(self) -> Run:
        """Return the run or ensemble on this process's device."""
        run = _ensemble(self.folders, self.checkpoint, self.weights)
        return replace(run, paths=dict(self.paths)) if self.paths else run

    def fingerprint_inputs(self) -> dict[str, Any]:
        """Return the parts of the settings on which output lines depend, with hashes of the weights for the folders."""
        folders = [*self.folders, *([self.reranker] if self.reranker else [])]
        hashes = [checkpoints.fingerprint(export.folder_of(folder), self.checkpoint) for folder in folders]
        weights = None if self.weights is None else list(self.weights)
        return {"run": hashes, "weights": weights, "rerank_weight": self.rerank_weight if self.reranker else None}


@dataclass(frozen=True)
class ChunkDecoder:
    """The work of a decoding process: a chunk of sources to lines. It is pickled; each process loads the runs once."""

    runs: DecodingRuns
    search: SearchMethod
    structured: bool  # JSON lines, not plain ones

    def fingerprint_inputs(self) -> dict[str, Any]:
        """Return everything besides the input that the lines depend on, by names that a user knows."""
        allowed = None if self.search.allowed is None else sha256(Path(self.search.allowed).read_bytes()).hexdigest()
        settings = {"search": plain(self.search), "allowed": allowed, "jsonl": self.structured}
        return self.runs.fingerprint_inputs() | settings

    def __call__(self, chunk: Chunk) -> Decoded:
        """Decode and format a chunk."""
        run, texts = self.runs.run(), [source.text for source in chunk.sources]
        prefixes = [source.prefix for source in chunk.sources if source.prefix is not None]
        for source in chunk.sources:
            if source.prefix is not None:
                prefix_of(source.prefix, run.vocabulary, f"prefix_field: source {source.id}")
        ids, cut = run.source_ids(texts)
        hypotheses = run.search_ids(ids, self.search, lambda _: None, prefixes or None)
        if self.runs.reranker is not None:
            reranker = _opened(self.runs.reranker, self.runs.checkpoint)
            hypotheses = rerank(reranker, texts, hypotheses, self.runs.rerank_weight)
        return Decoded(
            [self.line(source, rows) for source, rows in zip(chunk.sources, hypotheses, strict=True)],
            chunk.digest,
            tokens=sum(len(rows[0].tokens) for rows in hypotheses if rows),
            cut=cut,
            without=sum(not rows for rows in hypotheses),
            unknown=unknowns(run.vocabulary, texts, ids),
            blank=run.count_blank(ids),
        )

    def line(self, source: Source, hypotheses: Sequence[Hypothesis]) -> str:
        """Return a line of output."""
        if not self.structured:
            text = hypotheses[0].text if hypotheses else ""
            # Line ends within a text become blanks, since the n-th line is the n-th source's. Allowed texts have none,
            # and are written exactly as they are in the user's file.
            return text if self.search.allowed is not None else " ".join(text.split())
        fields = {
            "id": source.id,
            "source": source.text,
            "hypotheses": [
                row._asdict() | ({} if row.token_scores is None else {"token_scores": row.token_scores})
                for row in hypotheses
            ],
            "settings": plain(self.search),
        }
        return json_text(fields)  # not json.dumps: the id from a Parquet file may be a date


@lru_cache(maxsize=1)
def _ensemble(folders: tuple[str, ...], checkpoint: str | None, weights: tuple[float, ...] | None) -> Run:
    runs = [_opened(folder, checkpoint) for folder in folders]
    return ensemble(runs, weights) if len(runs) > 1 or weights else runs[0]


@lru_cache(maxsize=16)
def _opened(folder: str, checkpoint: str | None) -> Run:
    gpus = torch.cuda.device_count()  # which the worker processes share
    return load(folder, checkpoint, f"cuda:{number() % gpus}" if gpus else None)
