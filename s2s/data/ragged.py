"""Rows of unequal length as one flat array with offsets, in memory if small, memory-mapped from files if large."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy
from numpy.typing import NDArray

from s2s.data.cache import ScratchFolder

SPILL = 1 << 25
"""Bytes of a column that stay in memory while it is written; a longer column goes to a file and is mapped from it."""


class Ragged(Sequence[list[int]]):
    """Rows of numbers: row i is ``values[offsets[i]:offsets[i + 1]]``."""

    def __init__(self, values: NDArray[numpy.generic], offsets: NDArray[numpy.int64]) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self.row(index).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(list.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def row(self, index: int) -> NDArray[numpy.generic]:
        """Return a row as an array; negative indices count from the end."""
        start = index if index >= 0 else index + len(self)
        if not 0 <= start < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[start] : self.offsets[start + 1]]


def row_lengths(rows: Sequence[Sequence[int]]) -> NDArray[numpy.int32]:
    """Return the length of each row."""
    if isinstance(rows, Ragged):
        return numpy.diff(rows.offsets).astype(numpy.int32)
    return numpy.array([len(row) for row in rows], dtype=numpy.int32)


def flat(rows: Sequence[Sequence[int]]) -> NDArray[numpy.generic]:
    """Return the numbers of all rows in one array."""
    return rows.values if isinstance(rows, Ragged) else numpy.array([item for row in rows for item in row], dtype=int)


class Column:
    """Writes numbers of one type, then gives them as an array."""

    def __init__(self, scratch: ScratchFolder, name: str, kind: str) -> None:
        self.scratch, self.name, self.kind = scratch, f"{name}.{kind}", kind
        self.buffer, self.file = bytearray(), None

    def extend(self, content: bytes) -> None:
        """Append numbers in their bytes."""
        self.buffer += content
        if len(self.buffer) > SPILL:
            self._flush()

    def _flush(self) -> None:
        with self.scratch.path(self.name).open("ab") as file:
            file.write(self.buffer)
        self.scratch.spilled.add(self.name)
        self.buffer.clear()

    def finish(self) -> NDArray[numpy.generic]:
        """Return the whole column."""
        if self.name in self.scratch.spilled:
            self._flush()
            values = mapped(self.scratch.path(self.name), self.kind)
        else:
            values = numpy.frombuffer(bytes(self.buffer), dtype=self.kind)
        self.scratch.finished[self.name] = values
        return values


def mapped(path: Path, kind: str) -> NDArray[numpy.generic]:
    """Map a file's numbers into memory; they stay readable after the file is renamed or removed."""
    if not path.stat().st_size:  # mmap refuses empty files
        return numpy.zeros(0, dtype=kind)
    with path.open("rb") as file:
        return numpy.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=kind)


class RaggedWriter:
    """Writes rows, then gives them as ``Ragged``."""

    def __init__(self, scratch: ScratchFolder, name: str, kind: str) -> None:
        self.values, self.offsets = Column(scratch, name, kind), Column(scratch, f"{name}.offsets", "int64")
        self.kind, self.end, self.size = kind, 0, numpy.dtype(kind).itemsize
        self.offsets.extend(bytes(8))

    def extend(self, rows: Iterable[Sequence[int]]) -> None:
        """Append rows of numbers."""
        for row in rows:
            self.append(numpy.asarray(row, dtype=self.kind).tobytes())

    def append(self, content: bytes) -> None:
        """Append a row in its bytes."""
        self.end += len(content) // self.size
        self.values.extend(content)
        self.offsets.extend(self.end.to_bytes(8, "little", signed=True))

    def finish(self) -> Ragged:
        """Return all rows."""
        return Ragged(self.values.finish(), self.offsets.finish().astype(numpy.int64, copy=False))


def read_ragged(folder: Path, name: str, kind: str) -> Ragged:
    """Return the rows that a writer left in a folder."""
    return Ragged(mapped(folder / f"{name}.{kind}", kind), mapped(folder / f"{name}.offsets.int64", "int64"))  # type: ignore[arg-type]
