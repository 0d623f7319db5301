"""Files of generated texts and of their references, one or several for each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from s2s.data.fields import Fields
from s2s.data.lines import Row, Wanted, asked_format, field_text, place, quiet, read_rows
from s2s.data.readers import Note
from s2s.data.rows import holds, value_of
from s2s.errors import UserError
from s2s.metrics.references import References

Text = TypeVar("Text")


def read_texts(
    path: str,
    field: str,
    text_of: Callable[[Row, str, str], Text],
    format: str | None = None,
    note: Note = quiet,
) -> list[str] | list[Text]:
    """The texts of a file: lines, or what ``text_of(row, field, place)`` takes out of rows.

    ``format`` is that of a file whose name tells none; ``note`` takes lines for the user.
    """
    wanted = Wanted(Fields(one_of=(field, "hypotheses")), asked_format(path, format), note)
    lines, rows = read_rows(path, wanted)
    if rows is None:
        return lines
    texts = [text_of(row, field, place(path, index)) for index, row in enumerate(rows)]
    if empty := sum(row.get("hypotheses") == [] for row in rows):
        note(f"{path}: {empty} of {len(rows)} rows have no hypothesis; each is taken as an empty text")
    return texts


def hypothesis_text(row: Row, field: str, place: str) -> str:
    """The best hypothesis of a row that the decoder wrote; the ``field`` of any other row."""
    if "hypotheses" not in row:
        return field_text(row, field, place)
    match row["hypotheses"]:
        case []:
            return ""  # as the decoder writes where the search settings allow nothing
        case [{"text": str(text)}, *_]:
            return text
    raise UserError(f"{place}: 'hypotheses' is not a list whose first item has a 'text'")


def reference_text(row: Row, field: str, place: str) -> str | list[str]:
    """The text in a ``field`` of a row, or the list of texts there."""
    match value_of(row, field) if holds(row, field) else None:
        case [_, *_] as texts if all(isinstance(text, str) for text in texts):
            return [str(text) for text in texts]
        case list():
            raise UserError(f"{place}: field '{field}' is a list, but not of at least one string and of nothing else")
    return field_text(row, field, place)


def files(value: str) -> list[str]:
    """The files that an argument names: one whose name has a comma, or several between commas."""
    return [value] if Path(value).exists() else value.split(",")


def read_references(paths: Sequence[str], field: str, format: str | None = None, note: Note = quiet) -> References:
    """The references of each text, those of several files together."""
    columns = [read_texts(path, field, reference_text, format, note) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[0]):
            raise UserError(f"{path} has {len(column)} references and {paths[0]} {len(columns[0])}")
    if len(columns) == 1:
        return columns[0]
    return [
        [text for item in row for text in ([item] if isinstance(item, str) else item)]
        for row in zip(*columns, strict=True)
    ]
