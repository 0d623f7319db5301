"""Types of settings that declare a range of numbers or a path: ``rate: Share = 0.3``; ``settle`` checks them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from math import inf
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from s2s.config.outside_names import form_of, names_in
from s2s.config.values import MisreadError, read, shown
from s2s.errors import UserError
from s2s.files.paths import Home, expanded

MOST = 10**9
"""Upper limit of counts, so that products of two of them fit 64 bits."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``; an open end is not in the range."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False
    natural: bool = True  # both ends follow from the meaning of the number; else ``high`` only prevents overflow

    def holds(self, value: float) -> bool:
        """Return whether a number is in the range; NaN never is."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.natural:
            return f"{'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"
        return f"{'above ' if self.open_low else ''}{self.low} .. {self.high}"

    def refuse(self, key: str, value: float, given: Any = None) -> None:
        """Raise a UserError for a number outside the range; the message names the key and shows the ``given`` value."""
        if self.holds(value):
            return
        number = shown(value if given is None else given)
        if value != value:
            raise UserError(f"{key}: {number} is no number to compute with")
        if self.natural:
            raise UserError(f"{key}: {number} is not in {self}")
        if value > self.high:
            raise UserError(f"{key}: {number} is more than {self.high}")
        raise UserError(f"{key}: {number} is not {'above' if self.open_low else 'at least'} {self.low}")


def at_least(low: float, most: float = MOST) -> Range:
    """Return the range from ``low`` on; above ``most`` arithmetic would overflow."""
    return Range(low, most, natural=False)


def above(low: float, most: float = MOST) -> Range:
    """Return the range above ``low``; above ``most`` arithmetic would overflow."""
    return Range(low, most, open_low=True, natural=False)


# Whole numbers.
Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]
Few = Annotated[int, at_least(1, 10_000)]  # of what is held or repeated at once: beams, samples, passes
Size = Annotated[int, at_least(1, 1_000_000)]  # of an axis of a tensor
Seed = Annotated[int, Range(0, 2**63 - 1)]
Offset = Annotated[int, Range(-1_000_000, 1_000_000)]
# Numbers.
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, open_high=True)]
ShareAboveZero = Annotated[float, Range(0, 1, open_low=True)]
Strength = Annotated[float, at_least(0)]
Positive = Annotated[float, above(0)]
Number = Annotated[float, Range(-1_000_000, 1_000_000)]
Limit = Annotated[float, above(0, inf)]  # infinity: no limit
Exponent = Annotated[float, Range(-10, 10)]  # of lengths, whose powers then fit a float
Ratio = Annotated[float, at_least(0, 1_000)]
Factor = Annotated[float, at_least(1, 1_000)]
# Texts.
PathText = Annotated[str, Home]


def settle(settings: Any, prefix: str = "") -> None:
    """Check the numbers of a settings object against their ranges, refuse empty names, and expand ``~`` in paths.

    Errors: a UserError that names the key, with ``prefix`` before it.
    """
    _refuse_empty(settings, prefix)
    kind: Any = type(settings)
    for name, hint in declared(kind):
        value = getattr(settings, name)
        checked = settled(hint, value, f"{prefix}{name}")
        if checked is not value:
            setattr(settings, name, checked)


def _refuse_empty(settings: Any, prefix: str) -> None:
    """Refuse a blank name of a file, a folder or code: "" would name the current folder."""
    kind: Any = type(settings)
    paths = {name for name, hint in declared(kind) if Home in marks(hint)}
    for item in fields(settings):
        form = form_of(item) or ("PATH" if item.name in paths else None)
        value = getattr(settings, item.name)
        # A default of "" is no fault: commands have it for arguments that are needed, and check those themselves.
        if form and value != item.default and any(not name.strip() for name in names_in(value)):
            valid = f"{form}, null" if item.default is None else form
            raise UserError(f"{prefix}{item.name}: an empty name; give {valid}, or leave the key out")


@cache
def declared(kind: Any) -> list[tuple[str, Any]]:
    """Return the fields of a settings class that declare a range or a path, with their types."""
    hints = get_type_hints(kind, include_extras=True)
    return [(item.name, hints[item.name]) for item in fields(kind) if any(marks(hints[item.name]))]


def marks(hint: Any) -> Iterator[Any]:
    """Yield the annotations within a type: ranges, and ``Home`` for paths."""
    if get_origin(hint) is Annotated:
        yield from get_args(hint)[1:]
    for inner in get_args(hint):
        yield from marks(inner)


def settled(hint: Any, value: Any, key: str) -> Any:
    """Check and expand one value of a declared type, as ``settle`` does."""
    if value is None:
        return None
    if get_origin(hint) is Annotated:
        kind, *annotations = get_args(hint)
        return _annotated(kind, annotations, value, key)
    if get_origin(hint) is list and isinstance(value, list | tuple):
        return [settled(get_args(hint)[0], item, f"{key}[{index}]") for index, item in enumerate(value)]
    parts = [part for part in get_args(hint) if (get_origin(part) is list) == isinstance(value, list | tuple)]
    return settled(parts[0], value, key) if parts and get_origin(hint) is not list else value


def _annotated(kind: type, annotations: list[Any], value: Any, key: str) -> Any:
    given = value
    try:
        value = read(kind, given, key) if kind in (int, float) else given
    except MisreadError as error:
        raise UserError(str(error)) from error
    for mark in annotations:
        if isinstance(mark, Range):
            mark.refuse(key, value, given)
        elif mark is Home and isinstance(value, str):
            try:
                value = expanded(value)
            except UserError as error:
                raise UserError(f"{key}: {error}") from error
    return value
