"""Files of generated texts and of their references, one or several for each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from s2s.data.lines import Row, field_text, place, read_rows
from s2s.errors import UserError
from s2s.metrics.references import References

Text = TypeVar("Text")


def read_texts(path: str, field: str, text_of: Callable[[Row, str, str], Text]) -> list[str] | list[Text]:
    """The texts of a file, plain or JSONL; ``text_of(row, field, place)`` takes them out of the rows of the latter."""
    lines, rows = read_rows(path)
    if rows is None:
        return lines
    return [text_of(row, field, place(path, index)) for index, row in enumerate(rows)]


def hypothesis_text(row: Row, field: str, place: str) -> str:
    """The best hypothesis of a row that the decoder wrote; the ``field`` of any other row."""
    if "hypotheses" not in row:
        return field_text(row, field, place)
    match row["hypotheses"]:
        case [{"text": str(text)}, *_]:
            return text
    raise UserError(f"{place}: 'hypotheses' is not a list whose first item has a 'text'")


def reference_text(row: Row, field: str, place: str) -> str | list[str]:
    """The text in a ``field`` of a row, or the list of texts there."""
    match row.get(field):
        case [_, *_] as texts if all(isinstance(text, str) for text in texts):
            return list(texts)
        case list():
            raise UserError(f"{place}: field '{field}' is a list, but not of at least one string and of nothing else")
    return field_text(row, field, place)


def files(value: str) -> list[str]:
    """The files that an argument names: one whose name has a comma, or several between commas."""
    return [value] if Path(value).exists() else value.split(",")


def read_references(paths: Sequence[str], field: str) -> References:
    """The references of each text, those of several files together."""
    columns = [read_texts(path, field, reference_text) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[0]):
            raise UserError(f"{path} has {len(column)} references and {paths[0]} {len(columns[0])}")
    if len(columns) == 1:
        return columns[0]
    return [
        [text for item in row for text in ([item] if isinstance(item, str) else item)]
        for row in zip(*columns, strict=True)
    ]
