"""Read a written value by the declared type of its key: unchanged text, decimal numbers, ``true`` or ``false``."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from s2s.config.layers import Argument, Written, opened
from s2s.errors import nearest

NULL = ("null", "Null", "NULL", "~", "")
NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)([eE][+-]?\d{1,9})?", re.ASCII)
LONGEST_NUMBER = 400
"""In characters. Python raises an error of its own for integers of more than 4300 digits."""
INFINITE = re.compile(r"[+-]?\.?(inf(inity)?|nan)", re.ASCII | re.IGNORECASE)
VARIABLE = re.compile(r"\\\$\{|\$\{oc\.env:([A-Za-z_]\w*)(?:,([^}]*))?\}|\$\{", re.ASCII)


class MisreadError(Exception):
    """A value that the type of its key does not allow; ``key`` is the key or the item in its list."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def read(hint: Any, value: Any, key: str) -> Any:
    """Return the typed value of a key. Errors: a ``MisreadError``."""
    if get_origin(hint) is Annotated:
        return read(get_args(hint)[0], value, key)
    if get_origin(hint) in (Union, UnionType):
        return _one_of(get_args(hint), value, key)
    if get_origin(hint) is list:
        return _list(get_args(hint)[0], value, key)
    if get_origin(hint) is dict:
        return _free(value, key)
    if hint is Any:  # text or a list of texts: model.attention makes one text of a list
        return _one_of((str, list[str]), value, key)
    if get_origin(hint) is Literal:
        return _choice(get_args(hint), text_of(value, key), key)
    return READERS[hint](value, key)


def _one_of(hints: Sequence[Any], value: Any, key: str) -> Any:
    """Read the value of a key with several types: null, and text or a list of texts."""
    *others, last = [hint for hint in hints if hint is not NoneType]
    text = str in (_bare(hint) for hint in (*others, last))
    if NoneType in hints and is_null(value, text):
        return None
    if others:
        lists = [hint for hint in (*others, last) if get_origin(hint) is list]
        if lists and _is_list(value):
            return read(lists[0], value, key)
        return read(next(hint for hint in (*others, last) if hint not in lists), value, key)
    return read(last, value, key)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_null(value: Any, text: bool = True) -> bool:
    """Return whether a value means null.

    On the command line of a key that may hold ``text``, only ``null`` does: a file may be called ``~``, a prefix empty.
    """
    if isinstance(value, Argument):
        return value.text == "null" or (not text and value.text.lower() in ("none", *NULL))
    if isinstance(value, Written):
        return value.plain and (value.text in NULL or (not text and value.text.lower() == "none"))
    return value is None


def _is_list(value: Any) -> bool:
    try:
        return isinstance(opened(value), list | tuple)
    except ValueError:
        return False


def _opened(value: Any, key: str) -> Any:
    """Return the list or mapping that an argument's text holds. Errors: a ``MisreadError``."""
    try:
        return opened(value)
    except ValueError as error:
        raise MisreadError(key, str(error)) from error


def _list(hint: Any, value: Any, key: str) -> list[Any]:
    value = _opened(value, key)
    if not isinstance(value, list | tuple):
        raise MisreadError(key, f"{shown(value)} is not a list such as [a, b]")
    return [read(hint, item, f"{key}[{index}]") for index, item in enumerate(value)]


def _free(value: Any, key: str) -> Any:
    """Return keys and values that nobody has declared: null, truths, numbers and texts as they look, nested or not."""
    value = _opened(value, key)
    if not isinstance(value, dict):
        raise MisreadError(key, f"expected keys and values, not {shown(value)}")
    return _free_value(value, key)


def _free_value(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {str(name): _free_value(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_free_value(inner, f"{key}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, Argument) and value.text[:1] in ("{", "["):
        return _free_value(_opened(value, key), key)
    if not isinstance(value, Written):
        return value
    if is_null(value, text=False):
        return None
    if not value.plain:
        return text_of(value, key)
    for kind in (whole_number, number, truth):
        try:
            return kind(value, key)
        except MisreadError:
            continue
    return text_of(value, key)


def _choice(choices: Sequence[Any], text: str, key: str) -> str:
    if text not in choices:
        raise MisreadError(key, f"no {shown(text)}{nearest(text, choices)}")
    return text


def text_of(value: Any, key: str) -> str:
    """Return the text of a value, unquoted, with its variables replaced. Errors: a ``MisreadError``."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Written):
        raise MisreadError(key, f"{shown(value)} is not a text; write it in quotes if it is meant as one")
    text = _unquoted(value.text) if isinstance(value, Argument) else value.text
    if value.plain and text == value.text and not value.literal:
        if text == "???":
            raise MisreadError(key, "'???' is no value; write it in quotes if it is meant as text")
        if text in ("null",) if isinstance(value, Argument) else text in NULL:
            raise MisreadError(
                key, f"'{text}' is null, but a text is needed; write it in quotes if it is meant as text"
            )
    return text if value.literal else _with_variables(text, key)


def _unquoted(text: str) -> str:
    """Return the content of an argument that is quoted as a whole; any other text as it is."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return text
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.style == text[0] else text


def _with_variables(text: str, key: str) -> str:
    """Replace ``${oc.env:NAME}`` and ``${oc.env:NAME,default}`` by variables of the environment."""

    def value_of(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name is None and match[0].startswith("\\"):
            return "${"
        if name is None:
            reason = "'${' begins ${oc.env:NAME}, a variable of the environment; write \\${ where it is text"
            raise MisreadError(key, reason)
        value = os.environ.get(name, default)
        if value is None:
            raise MisreadError(key, f"the environment has no variable '{name}'")
        return value

    return VARIABLE.sub(value_of, text)


def _raw(value: Any, key: str) -> Any:
    """Return the stripped text of a written value, variables replaced; other values as they are."""
    if not isinstance(value, Written):
        return value
    return (value.text if value.literal else _with_variables(value.text, key)).strip()


def _number_text(value: Any, key: str, kind: str) -> str | None:
    """Return the digits of a written number, or None for a value that is a number already."""
    text = _raw(value, key)
    if not isinstance(text, str):
        return None
    # YAML spells these numbers .inf and .nan, Python without the dot.
    if INFINITE.fullmatch(text):
        return text.replace(".", "")
    if not NUMBER.fullmatch(text) or len(text) > LONGEST_NUMBER:
        raise MisreadError(key, f"{shown(value)} is not {kind}{_hint(text)}")
    return text.replace("_", "")


def _hint(text: str) -> str:
    """Return the end of an error message: how to write a number that is not decimal."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,30}|0[oO][0-7]{1,30}|0[bB][01]{1,60}", text):
        return f"; numbers are decimal, write {int(text, 0)}"
    return "; numbers are decimal" if text[:1].isdigit() else ""


def whole_number(value: Any, key: str) -> int:
    """Return a whole number: ``100``, ``1_000`` or ``1e3``. Errors: a ``MisreadError``."""
    text = _number_text(value, key, "a whole number")
    if text is None:
        # For Python True is the number 1, but nobody who writes steps: true means one step.
        if isinstance(value, bool) or not isinstance(value, Integral | float) or value % 1 != 0:
            raise MisreadError(key, f"{shown(value)} is not a whole number")
        return int(value)
    if text.lstrip("+-").isdigit():
        return int(text)
    decimal = Decimal(text)
    # The exponent is checked before the value is computed: 1e999999999 would fill the memory with digits.
    small = not decimal or -1 < decimal.adjusted() < LONGEST_NUMBER
    if not decimal.is_finite() or not small or decimal != decimal.to_integral_value():
        raise MisreadError(key, f"{text} is not a whole number")
    return int(decimal)


def number(value: Any, key: str) -> float:
    """Return a number. Errors: a ``MisreadError``, for NaN too; whether infinity is allowed is up to the range."""
    text = _number_text(value, key, "a number")
    if text is None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise MisreadError(key, f"{shown(value)} is not a number")
    try:
        result = float(value if text is None else text)
    except OverflowError as error:
        raise MisreadError(key, f"{shown(value)} is too large") from error
    if result != result:
        raise MisreadError(key, f"{shown(value)} is no number to compute with")
    return result


def truth(value: Any, key: str) -> bool:
    """Return true or false; ``yes``, ``on`` and 1 are refused. Errors: a ``MisreadError``."""
    text = _raw(value, key)
    if isinstance(text, str) and text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    if isinstance(value, bool):
        return value
    raise MisreadError(key, f"{shown(value)} is neither true nor false")


READERS: Mapping[Any, Callable[[Any, str], Any]] = {str: text_of, int: whole_number, float: number, bool: truth}


def shown(value: Any) -> str:
    """Return a value for a message: on one line, at most 60 characters."""
    text = value.text if isinstance(value, Written) else value
    if isinstance(text, int) and not isinstance(text, bool) and abs(text) >= 10**40:
        return "the number"  # Python refuses to write integers of thousands of digits
    written = "null" if text is None else f"{_plain(text)!r}"
    return written if len(written) <= 60 else f"{written[:57]}..."


def _plain(value: Any) -> Any:
    """Return nested values with plain texts for ``Written`` ones."""
    if isinstance(value, Written):
        return value.text
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
