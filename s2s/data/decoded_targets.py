"""Sequence-level distillation (Kim and Rush 2016): train with the hypotheses of a decoder in place of its targets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy

from s2s.data.cache import ScratchFolder
from s2s.data.example_store import Examples, ExamplesWriter, Numbers
from s2s.data.readers import Found, read_rows
from s2s.data.rows import Row, encodable, value_of
from s2s.errors import UserError
from s2s.vocabulary.spelling import is_blank

FIELDS = ("source", "hypotheses")


def with_decoded(
    train: Examples, path: str, on_error: Literal["stop", "skip"], home: Path
) -> tuple[Examples, list[str]]:
    """Return the train split with the best hypotheses of decoded JSONL as its targets, and report lines.

    The file is what ``s2s decode`` writes, a line a row, in order: either for the rows of train alone, or for all rows
    of its files, of which those that were held out or not drawn are not used. A row with several references has one
    target afterwards. A row without a hypothesis is an error ("stop") or left out and counted ("skip"). Raises
    `UserError` for a line with another source than its row, and for another number of lines. Large columns are written
    below ``home``.
    """
    everything = numpy.arange(len(train.columns.texts))
    used = everything if train.rows is None else numpy.unique(train.rows)
    rows = _rows_of(path, used, everything)
    wanted = numpy.isin(rows, used)
    first, left_out = "", 0
    with ScratchFolder(home) as scratch:
        writer = ExamplesWriter(scratch, "decoded")
        for example, is_wanted, (number, row) in zip(Examples(train.columns, rows), wanted, _lines(path), strict=True):
            where = f"{path}:{number}"
            try:
                target = _target(row, example.source, where)
            except ValueError as error:
                if on_error == "stop":
                    raise UserError(f"data.targets: {where}: {error}") from error
                if is_wanted:
                    first, left_out = first or f"line {number}: {error}", left_out + 1
                continue
            if is_wanted:
                writer.append(example._replace(target=target, references=()))
        if left_out == len(used):
            raise UserError(f"data.targets: {path}: no row of train has a hypothesis (first: {first})")
        report = [f"train: its targets are the best hypotheses of {path}"]
        if left_out:
            report.append(f"{path}: left out {left_out} rows without a hypothesis (first: {first})")
        return Examples(writer.finish()), report


def _rows_of(path: str, used: Numbers, everything: Numbers) -> Numbers:
    """Return the rows that the lines of the file are of, by the number of its lines."""
    count = sum(1 for _ in _lines(path))
    for rows in (used, everything):
        if count == len(rows):
            return rows
    files = "" if len(used) == len(everything) else f", and its files have {len(everything)}"
    raise UserError(f"data.targets: {path} has {count} lines, but train has {len(used)} rows{files}")


def _lines(path: str) -> Iterator[Found]:
    try:
        yield from read_rows(Path(path), FIELDS, lambda _: None)
    except UserError as error:
        raise UserError(f"data.targets: {error}") from error


def _target(row: Row | ValueError, source: str, where: str) -> str:
    """Return the text of a row's best hypothesis. Errors: a ``ValueError`` where there is none.

    A UserError for another source: the lines are then those of another file, and no later line can be trusted.
    """
    if isinstance(row, ValueError):
        raise row
    written, hypotheses = (value_of(row, field) for field in FIELDS)
    # Reading a file takes the blanks around a text away, and the decoder's lines have them still.
    if not isinstance(written, str) or written.strip() != source:
        raise UserError(f"data.targets: {where}: {_difference(written, source)}")
    if not isinstance(hypotheses, list):
        raise ValueError("field 'hypotheses' is not a list")
    if not hypotheses:
        raise ValueError("no hypothesis")
    text = value_of(hypotheses[0], "text") if isinstance(hypotheses[0], dict) else None
    if not isinstance(text, str):
        raise ValueError("the first hypothesis has no text")
    if is_blank(text):
        raise ValueError("the first hypothesis is blank")
    return encodable(text, "the first hypothesis").strip()


def _difference(written: object, source: str) -> str:
    if not isinstance(written, str):
        return f"field 'source' is not a string but {type(written).__name__}"
    texts = written.strip(), source
    same = [first == second for first, second in zip(*texts, strict=False)]
    start = [*same, False].index(False)
    shown = [repr(text[start : start + 40]) for text in texts]
    return f"another source than that row of train: from character {start + 1} on it has {shown[0]}, train {shown[1]}"
