"""Rows of the user's files, and the examples that are made of them. What is wrong with a row is a ValueError."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from s2s.errors import nearest

Row = dict[str, object]
Value = str | tuple[str, ...] | None


class Example(NamedTuple):
    """A source text, the text to be generated from it, and what heads ask for.

    ``target`` is "" in a set without targets. ``tokens`` are those of a source that was given as a list. ``fields``
    are pairs of a field's name and its value: a text, several, or None where a row has no label.
    """

    source: str
    target: str
    tokens: tuple[str, ...] = ()
    fields: tuple[tuple[str, Value], ...] = ()


def json_row(line: str) -> Row:
    """The row of a line of JSON."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"malformed JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("malformed JSON: nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"not an object but {type(row).__name__}")
    return row


def segmented_row(line: str) -> Row:
    """The sentence whose words a line separates by blanks, and the tags of its characters."""
    words = line.split()
    tags = [tag for word in words for tag in ("S" if len(word) == 1 else "B" + "M" * (len(word) - 2) + "E")]
    return {"text": "".join(words), "bmes": tags}


def to_example(row: Row, fields: Sequence[str | None]) -> Example:
    """The example in the fields that hold the source, the target (None: there is none) and labels."""
    source, target, *labels = fields
    tokens = _tokens(row, str(source))
    text = " ".join(tokens) if tokens else _text(row, str(source))
    values = tuple((str(field), _label(row, str(field))) for field in labels)
    return Example(text, "" if target is None else _text(row, target), tokens, values)


def _tokens(row: Row, field: str) -> tuple[str, ...]:
    """The tokens of a source that is a list; none of one that is a text."""
    value = _value(row, field)
    if not isinstance(value, list):
        return ()
    if not value or not all(isinstance(token, str) for token in value):
        raise ValueError(f"field '{field}' is a list, but not of one or more strings")
    return tuple(value)


def _label(row: Row, field: str) -> Value:
    """A label, several or, for null and blanks, none at all; numbers are taken as they are written."""
    value = _value(row, field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return tuple(map(str, value))
    if isinstance(value, str | int):
        return str(value).strip()
    raise ValueError(f"field '{field}' is no label (a string or a number) and no list of labels")


def _value(row: Row, field: str) -> object:
    if field not in row:
        raise ValueError(f"no field '{field}'{nearest(field, row) if row else '; the object is empty'}")
    return row[field]


def _text(row: Row, field: str) -> str:
    value = _value(row, field)
    if not isinstance(value, str):
        raise ValueError(f"field '{field}' is not a string but {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"field '{field}' is blank")
    # An escape such as "\ud800" alone is legal JSON, but no text: it cannot be encoded again.
    if not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise ValueError(f"field '{field}' holds half of a surrogate pair")
    return value.strip()
