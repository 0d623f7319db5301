"""Rows of the user's files, and the examples made from them. Faults of a row are ValueErrors."""

import json
import re
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple, NoReturn

from s2s.errors import UserError, nearest
from s2s.files.paths import readable
from s2s.vocabulary.spelling import is_blank

Row = dict[str, Any]
Value = str | tuple[str, ...] | None


class Example(NamedTuple):
    """A source text, the text to be generated from it, and the fields that heads read.

    ``target`` is "" in a set without targets. ``tokens`` are those of a source given as a list. ``fields`` are pairs of
    name and value: a text, several, or None for a row without label. ``references`` are all targets of a row that has
    a list of them; the first is ``target``.
    """

    source: str
    target: str
    tokens: tuple[str, ...] = ()
    fields: tuple[tuple[str, Value], ...] = ()
    references: tuple[str, ...] = ()


class TwiceError(ValueError):
    """Raised for an object with the same name twice: one of the two values would be lost."""


class NotFiniteError(ValueError):
    """Raised for a number that is infinite or NaN, which JSON has no form for."""


def _unique(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(f"more than one field '{next(name for name in names if names.count(name) > 1)}'")
    return row


def _refuse(constant: str) -> NoReturn:
    raise NotFiniteError(f"malformed JSON: {constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise NotFiniteError(f"malformed JSON: the number {digits[:40]} is too great")
    return number


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON: null for a number that is not finite, ``str`` of a value that JSON has no form for."""
    text = json.dumps(_without_infinite(value), ensure_ascii=False, allow_nan=False, default=str, indent=indent)
    return readable(text)


def _without_infinite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def json_fault(error: Exception) -> str:
    """Return the message for an error that ``DECODER`` raised."""
    if isinstance(error, TwiceError | NotFiniteError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON: {error.msg} at column {error.colno}"
    fault = "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"
    return f"malformed JSON: {fault}"


def json_row(line: str) -> Row:
    """Return the row of a line of JSON."""
    try:
        row = DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(json_fault(error)) from error
    if not isinstance(row, dict):
        raise ValueError(f"not an object but {type(row).__name__}")
    return row


def segmented_row(line: str) -> Row:
    """Return the sentence of a line whose words are separated by blanks, and the BMES tags of its characters."""
    words = line.split()
    tags = [tag for word in words for tag in ("S" if len(word) == 1 else "B" + "M" * (len(word) - 2) + "E")]
    return {"text": "".join(words), "bmes": tags}


def to_example(row: Row, fields: Sequence[str | None]) -> Example:
    """Return the example in the fields that hold the source, the target (None: there is none) and labels."""
    source, target, *labels = fields
    tokens = _tokens(row, str(source))
    text = " ".join(tokens) if tokens else _text(row, str(source))
    values = tuple((str(field), _label(row, str(field))) for field in labels)
    if target is None:
        return Example(text, "", tokens, values)
    references = _references(row, target)
    return Example(text, references[0] if references else _text(row, target), tokens, values, references)


def _references(row: Row, field: str) -> tuple[str, ...]:
    """Return the targets of a row with a list of them; nothing if the target is one text."""
    value = value_of(row, field)
    if not isinstance(value, list):
        return ()
    if not value:
        raise ValueError(f"field '{field}' is an empty list")
    return tuple(_checked(text, f"field '{field}', item {number}") for number, text in enumerate(value, start=1))


def _tokens(row: Row, field: str) -> tuple[str, ...]:
    """Return the tokens of a source that is a list; nothing if it is a text."""
    value = value_of(row, field)
    if not isinstance(value, list):
        return ()
    if not value or not all(isinstance(token, str) for token in value):
        raise ValueError(f"field '{field}' is a list, but not of one or more strings")
    _checked(" ".join(value), f"field '{field}'")
    return tuple(value)


def _label(row: Row, field: str) -> Value:
    """Return a label or several; None for null and blanks; a number becomes its digits."""
    value = value_of(row, field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return tuple(encodable(str(item), f"field '{field}'") for item in value)
    if isinstance(value, str | int):
        return encodable(str(value).strip(), f"field '{field}'")
    raise ValueError(f"field '{field}' is no label (a string or a number) and no list of labels")


def value_of(row: Row, field: str, around: str = "") -> object:
    """Return the value of a field; ``a.b`` is also the b within a. Errors: a ``ValueError`` if there is none."""
    if field in row:
        return row[field]
    name, _, inner = field.partition(".")
    below = row.get(name)
    if inner and isinstance(below, dict):
        return value_of(below, inner, f"{around}{name}.")
    raise ValueError(f"no field '{around}{field}'{nearest(field, row) if row else '; the object is empty'}")


def holds(row: Row, field: str) -> bool:
    """Return whether ``value_of`` finds the field."""
    name, _, inner = field.partition(".")
    below = row.get(name)
    return field in row or (bool(inner) and isinstance(below, dict) and holds(below, inner))


def _text(row: Row, field: str) -> str:
    return _checked(value_of(row, field), f"field '{field}'")


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'null' if value is None else f'not a string but {type(value).__name__}'}")
    if is_blank(value):
        raise ValueError(f"{name} is blank")
    return encodable(value, name).strip()


def given_text(text: object, key: str) -> str:
    """Return a caller's text. Errors: a ``UserError`` with the ``key`` for other types, and for lone surrogates."""
    if not isinstance(text, str):
        raise UserError(f"{key}: a text is needed, not {'None' if text is None else type(text).__name__}")
    try:
        return encodable(text, f"{key}: the text")
    except ValueError as error:
        raise UserError(str(error)) from error


def given_texts(texts: object, key: str) -> list[str]:
    """Return a caller's texts as a list. Errors: as for ``given_text``, and for one text instead of a list."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise UserError(f"{key}: a list of texts is needed, not {'None' if texts is None else type(texts).__name__}")
    return [given_text(text, f"{key}[{index}]") for index, text in enumerate(texts)]


def encodable(text: str, name: str) -> str:
    """Return a text that UTF-8 can encode. Errors: a ``ValueError``: JSON allows a lone surrogate such as u+d800."""
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{name} holds half of a surrogate pair")
    return text


class Fields(NamedTuple):
    """Names of fields: a file must have all of ``needed`` and one of ``one_of``, and may have those of ``more``.

    None may occur twice, as one of the two values would be lost. ``a.b`` may also be the b within a.
    """

    needed: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return all names, each once, in order."""
        return tuple(dict.fromkeys((*self.needed, *self.one_of, *self.more)))

    def met(self, names: Sequence[str]) -> bool:
        """Return whether a header has all required fields, if any are required."""
        asked = bool(self.needed or self.one_of)
        return asked and all(map(names.__contains__, self.needed)) and bool(self.chosen(names) or not self.one_of)

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of ``one_of`` that a header has."""
        return tuple(name for name in self.one_of if name in names)

    def check(self, names: Sequence[str], position: str, where: str) -> None:
        """Raise a UserError for a header that lacks a required field, or has one twice."""
        for field in self.names():
            if names.count(field) > 1:
                raise UserError(f"{position}: more than one field '{field}' {where}")
        missing = [field for field in self.needed if field not in names]
        if self.one_of and not self.chosen(names):
            missing.append(self.one_of[0])
        if missing:
            raise UserError(f"{position}: no field '{missing[0]}' {where}{nearest(missing[0], names)}")
