"""Examples in three flat arrays: the JSON of each, the hash of its source, and its number of references.

Flat arrays can be mapped from files and are shared by all processes of a machine; a list of a million tuples of texts
would be copied into each of them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy
from numpy.typing import NDArray

from s2s.data.cache import ScratchFolder
from s2s.data.ragged import Column, Ragged, RaggedWriter, mapped, read_ragged
from s2s.data.rows import Example

Numbers = NDArray[numpy.generic]


class Columns(NamedTuple):
    """The examples of a split as they were read, in columns."""

    texts: Ragged  # the bytes of each example's JSON
    hashes: Numbers  # uint64: the first 8 bytes of its source's SHA-256
    references: Numbers  # int32: its number of targets


class Examples(Sequence[Example]):
    """The examples of a split; indexing makes an ``Example`` from the columns.

    ``rows`` are their indices in the columns, and ``targets`` the index of each one's target among its row's
    references. None: all rows, each with its first target and all references.
    """

    def __init__(self, columns: Columns, rows: Numbers | None = None, targets: Numbers | None = None) -> None:
        self.columns, self.rows, self.targets = columns, rows, targets

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Return the examples of a list."""
        with ScratchFolder(Path()) as scratch:
            writer = ExamplesWriter(scratch, "examples")
            for example in examples:
                writer.append(example)
            return cls(writer.finish())

    def __len__(self) -> int:
        return len(self.columns.texts) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        example = unpack(self.columns.texts.row(self._row(index)).tobytes())
        if self.targets is None:
            return example
        target = example.references[int(self.targets[index])] if example.references else example.target
        return example._replace(target=target, references=())

    def _row(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def hashes(self) -> Numbers:
        """Return the first 8 bytes of the SHA-256 of each source."""
        return self.columns.hashes if self.rows is None else self.columns.hashes[self.rows]

    def take(self, chosen: Numbers) -> "Examples":
        """Return the examples at the chosen indices, or where a mask is true."""
        rows = numpy.arange(len(self)) if self.rows is None else self.rows
        return Examples(self.columns, rows[chosen], None if self.targets is None else self.targets[chosen])

    def one_target_each(self) -> "Examples":
        """Return one example for each reference of each row."""
        if not len(self) or self.columns.references.max() == 1:
            return self
        rows = numpy.arange(len(self)) if self.rows is None else self.rows
        counts = self.columns.references[rows].astype(numpy.int64)
        starts = numpy.repeat(numpy.cumsum(counts) - counts, counts)
        return Examples(self.columns, numpy.repeat(rows, counts), numpy.arange(counts.sum()) - starts)

    def packed(self) -> Iterator[bytes]:
        """Yield the JSON of each example."""
        if self.targets is None:
            return (self.columns.texts.row(self._row(index)).tobytes() for index in range(len(self)))
        return map(pack, self)


class ExamplesWriter:
    """Writes examples, then gives them as columns."""

    def __init__(self, scratch: ScratchFolder, name: str) -> None:
        self.texts = RaggedWriter(scratch, name, "uint8")
        self.hashes = Column(scratch, f"{name}.hashes", "uint64")
        self.references = Column(scratch, f"{name}.references", "int32")

    def append(self, example: Example) -> None:
        """Append an example."""
        self.texts.append(pack(example))
        self.hashes.extend(hashlib.sha256(example.source.encode()).digest()[7::-1])  # big-endian to little-endian
        self.references.extend(max(1, len(example.references)).to_bytes(4, "little"))

    def finish(self) -> Columns:
        """Return the examples that were appended."""
        return Columns(self.texts.finish(), self.hashes.finish(), self.references.finish())


def read_columns(folder: Path, name: str) -> Columns:
    """Return the columns that a writer left in a folder."""
    hashes, references = (f"{name}.hashes", "uint64"), (f"{name}.references", "int32")
    texts = read_ragged(folder, name, "uint8")
    return Columns(texts, *(mapped(folder / ".".join(column), column[1]) for column in (hashes, references)))


def pack(example: Example) -> bytes:
    """Return the JSON of an example: a list of its fields, of the two texts alone if it has nothing else."""
    fields: Sequence[object] = example
    if not example.references:
        fields = example[:4] if example.tokens or example.fields else example[:2]
    return json.dumps(fields).encode()


def unpack(content: bytes) -> Example:
    """Return the example of a JSON."""
    source, target, *labels = json.loads(content)
    if not labels:
        return Example(source, target)
    tokens, fields, *references = labels
    pairs = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in fields)
    return Example(source, target, tuple(tokens), pairs, tuple(*references))
