"""Examples as ids, encoded once, chunk by chunk, into flat arrays; those of a large set stay in the cache."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from s2s.batch import Batch
from s2s.data.cache import CacheEntry, ScratchFolder
from s2s.data.progress import Progress
from s2s.data.ragged import RaggedWriter, read_ragged, row_lengths
from s2s.data.rows import Example
from s2s.data.sources import PLAIN, Cuts, Labelling, encode_rows
from s2s.errors import UserError
from s2s.randomness import seed_of
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import unknowns

Indices = NDArray[numpy.int64]
Lengths = NDArray[numpy.int32] | NDArray[numpy.int64]
Rows = Sequence[Sequence[int]]
CHUNK = 2048
"""Number of examples encoded together: enough for the threads of the tokenizers library."""
MANY = 200_000
"""Number of examples from which ids are kept in the cache for the next start."""


class TokenisedSplit(NamedTuple):
    """The examples of a split as ids: sources with their begin and end ids, targets without.

    ``heads`` holds for each head the labels of each example. ``has_targets`` is False in a set without targets.
    """

    sources: Rows
    targets: Rows
    report: list[str]
    heads: tuple[Rows, ...] = ()
    has_targets: bool = True

    def lengths(self) -> NDArray[numpy.int32]:
        """Return [examples, 2]: the columns of each example's source and target in a batch."""
        return numpy.stack([row_lengths(self.sources), row_lengths(self.targets) + int(self.has_targets)], axis=1)

    def batch(self, indices: Indices, vocabulary: Vocabulary, seed: int = 0, epoch: int = 0) -> Batch:
        """Return a batch of the given examples; their random draws depend on seed and epoch."""
        pairs = [(self.sources[index], self.targets[index] if self.has_targets else None) for index in indices]
        seeds = [seed_of(seed, "example", epoch, int(index)) for index in indices]
        heads = [[rows[index] for index in indices] for rows in self.heads]
        return vocabulary.collate(pairs, seeds, heads)


def tokenise(
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    max_source: int,
    max_target: int,
    name: str,
    labelling: Labelling = PLAIN,
    data_entry: CacheEntry | None = None,
) -> TokenisedSplit:
    """Turn examples into ids, at most ``max_source`` and ``max_target`` long with special ids, and report what is cut.

    The ids of many examples without labels are kept in the cache, under the entry of their data set.
    """
    tokeniser = _Tokeniser(vocabulary, max_source, max_target, name, labelling)
    if data_entry is None or len(examples) < MANY or labelling.heads or labelling.tokens:
        home = Path(tempfile.gettempdir()) if data_entry is None else data_entry.home
        with ScratchFolder(home) as scratch:
            return tokeniser.tokens(examples, scratch)
    # "unknown": entries of earlier versions, without it in their key, have reports that do not count unknown pieces.
    entry = data_entry.below("tokens", name, vocabulary.digest(), max_source, max_target, "unknown")
    # All processes of a run come here at once; one encodes, and the others map its files.
    with entry.lock():
        if (meta := entry.meta()) is None:
            with ScratchFolder(entry.home) as scratch:
                tokens = tokeniser.tokens(examples, scratch)
                scratch.keep(entry, {"report": tokens.report, "has_targets": tokens.has_targets})
                return tokens
    sources, targets = (read_ragged(entry.folder, column, "int32") for column in ("sources", "targets"))
    return TokenisedSplit(sources, targets, meta["report"], (), meta["has_targets"])


class _Tokeniser(NamedTuple):
    """The settings by which examples are encoded."""

    vocabulary: Vocabulary
    max_source: int
    max_target: int
    name: str
    labelling: Labelling

    def tokens(self, examples: Sequence[Example], scratch: ScratchFolder) -> TokenisedSplit:
        """Return the ids of all examples, encoded chunk by chunk."""
        columns = ["sources", "targets", *(f"head{index}" for index in range(len(self.labelling.heads)))]
        writers = [RaggedWriter(scratch, column, "int32") for column in columns]
        cuts, has_targets = Cuts(), False
        shown = Progress(f"tokens of {self.name}", len(examples)) if len(examples) >= MANY else nullcontext()
        with shown as progress:
            for start in range(0, len(examples), CHUNK):
                chunk = examples[start : start + CHUNK]
                cuts = cuts.plus(self._write(chunk, writers))
                has_targets = has_targets or any(example.target for example in chunk)
                if progress is not None:
                    progress.at(start)
        sources, targets, *heads = (writer.finish() for writer in writers)
        report = [f"{self.name}: {line}" for line in cuts.report(len(examples), self.max_source, self.max_target)]
        return TokenisedSplit(sources, targets, report, tuple(heads), has_targets)

    def _write(self, examples: Sequence[Example], writers: Sequence[RaggedWriter]) -> Cuts:
        find = self.labelling.tokens
        given = [find(example) if find else example.source for example in examples]
        sources, cuts = encode_rows(given, self.vocabulary, self.max_source)
        whole = self.vocabulary.encode_all([example.target for example in examples])
        targets = [ids[: self.max_target - 1] for ids in whole]
        rows = list(zip(examples, sources, targets, strict=True))
        labels = ([labeller(*row) for row in rows] for labeller in self.labelling.heads)
        for writer, column in zip(writers, ([source.ids for source in sources], targets, *labels), strict=True):
            writer.extend(column)
        texts = [example.target for example in examples]
        self._refuse_blank(examples, whole)
        cut = sum(len(ids) > self.max_target - 1 for ids in whole)
        return cuts._replace(targets=cut, unknown_targets=unknowns(self.vocabulary, texts, whole))

    def _refuse_blank(self, examples: Sequence[Example], targets: Sequence[Sequence[int]]) -> None:
        """Raise a UserError for targets from which the vocabulary keeps nothing.

        Targets without a visible character were refused on reading. ``data.on_error`` cannot skip these here, where
        the lines of examples are no longer known.
        """
        lost = [example for example, ids in zip(examples, targets, strict=True) if example.target and not ids]
        if lost:
            raise UserError(
                f"{self.name}: {len(lost)} targets are blank to this vocabulary, which has no tokens for them; leave "
                f"them out (first: {lost[0].target!r} of the source {lost[0].source[:40]!r})"
            )
