"""The fields that whoever reads a file asks of its header."""

from collections.abc import Sequence
from typing import NamedTuple

from s2s.errors import UserError, nearest


class Fields(NamedTuple):
    """Names of fields: all of ``needed`` and one of ``one_of`` have to be there, those of ``more`` may be.

    None of them may be there twice, as one of the two values would be lost. ``a.b`` may also be the b within a.
    """

    needed: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return all names, each once, in order."""
        return tuple(dict.fromkeys((*self.needed, *self.one_of, *self.more)))

    def met(self, names: Sequence[str]) -> bool:
        """Return whether a header has what has to be there."""
        asked = bool(self.needed or self.one_of)
        return asked and all(map(names.__contains__, self.needed)) and bool(self.chosen(names) or not self.one_of)

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of ``one_of`` that are there."""
        return tuple(name for name in self.one_of if name in names)

    def check(self, names: Sequence[str], place: str, where: str) -> None:
        """Refuse a header that lacks a field or has it twice."""
        for field in self.names():
            if names.count(field) > 1:
                raise UserError(f"{place}: more than one field '{field}' {where}")
        missing = [field for field in self.needed if field not in names]
        if self.one_of and not self.chosen(names):
            missing.append(self.one_of[0])
        if missing:
            raise UserError(f"{place}: no field '{missing[0]}' {where}{nearest(missing[0], names)}")
