"""The tagging schemes of spans: which labels may follow each other, and whether a data set's tags fit a scheme.

Tags of another scheme than the one a recipe names would train without a complaint, and mark other spans.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.errors import UserError, nearest

Pair = tuple[str | None, str | None]
SHOWN = 40
"""Characters of a source in a message."""


class Constraints(NamedTuple):
    """True where a label may begin a sequence, follow another, or end a sequence."""

    starts: Tensor  # [L]
    transitions: Tensor  # [L, L], from, to
    ends: Tensor  # [L]


class Scheme(NamedTuple):
    """The tags of a scheme. A ``continuing`` tag may only follow an ``opening`` one of its type."""

    name: str
    tags: str
    opening: str
    continuing: str
    is_closed: bool  # whether a continuing tag must follow an opening one

    def knows(self, name: str | None) -> bool:
        """Return whether a label has a tag of the scheme; None is the sequence's beginning, or its end."""
        return name is None or split(name)[0] in tuple(self.tags)

    def allows(self, before: str | None, after: str | None) -> bool:
        """Return whether a label may follow another; None is the sequence's beginning, or its end."""
        tag, kind = split(before or "O")
        next_tag, next_kind = split(after or "O")
        if next_tag in tuple(self.continuing):
            return tag in tuple(self.opening) and kind == next_kind
        return not (self.is_closed and tag in tuple(self.opening))

    def check(self, name: str) -> None:
        """Raise a UserError that names a label whose tag the scheme does not know."""
        if not self.knows(name):
            tag, _ = split(name)
            raise UserError(f"label '{name}': '{tag}' is no tag of {self.name}{nearest(tag, self.tags)}")


SCHEMES = {
    "bio": Scheme("BIO", tags="BIO", opening="BI", continuing="I", is_closed=False),
    # A B of IOB1 needs a span of its type right before it, so it is the tag that continues.
    "iob1": Scheme("IOB1", tags="IBO", opening="BI", continuing="B", is_closed=False),
    "bmes": Scheme("BMES", tags="BMESO", opening="BM", continuing="ME", is_closed=True),
    "bioes": Scheme("BIOES", tags="BIESO", opening="BI", continuing="IE", is_closed=True),
    "bilou": Scheme("BILOU", tags="BILUO", opening="BI", continuing="IL", is_closed=True),
}
"""BIO (IOB2) marks the first token of every span; IOB1 only where the span follows another of its type; BMES, BIOES and
BILOU mark the first, the last and single tokens. All have ``O`` for no span, ``B-x`` for a type x, or ``B`` without
types."""


def split(name: str) -> tuple[str, str]:
    """Return the tag and the type of a label's name."""
    tag, _, kind = name.partition("-")
    return tag, kind


def bio_constraints(names: Sequence[str]) -> Constraints:
    """Return the constraints of BIO (IOB2): ``I-x`` follows only ``B-x`` or ``I-x``.

    Names are ``O``, ``B-x`` and ``I-x``, or without types ``B`` and ``I``. Errors: a UserError names a label of another
    scheme.
    """
    return scheme_constraints(names, "bio")


def bmes_constraints(names: Sequence[str]) -> Constraints:
    """Return the constraints of BMES: ``B-x``, any number of ``M-x``, then ``E-x``; or a single ``S-x`` or ``O``.

    Names are ``O`` and ``B-x``, ``M-x``, ``E-x``, ``S-x``, or without types ``B``, ``M``, ``E``, ``S`` (word
    segmentation). Errors: a UserError names a label of another scheme.
    """
    return scheme_constraints(names, "bmes")


def scheme_constraints(names: Sequence[str], scheme: str) -> Constraints:
    """Return the constraints of a row of ``SCHEMES``. Errors: a UserError names a label of another scheme."""
    chosen = SCHEMES[scheme]
    for name in names:
        chosen.check(name)
    return Constraints(
        starts=torch.tensor([chosen.allows(None, name) for name in names]),
        transitions=torch.tensor([[chosen.allows(name, other) for other in names] for name in names]),
        ends=torch.tensor([chosen.allows(name, None) for name in names]),
    )


class Tagged(NamedTuple):
    """The tags of one source."""

    source: str
    tags: Sequence[str]


def check_rows(head: str, scheme: str, rows: Iterable[Tagged], constrained: bool) -> None:
    """Refuse training tags that another scheme fits and this one does not, or that no constraint would allow.

    Errors: a UserError of one line names the tag, its source and the scheme that fits.
    """
    chosen, first_sources = SCHEMES[scheme], _pairs(rows)
    if (misfit := _misfit(chosen, first_sources)) is None:
        return
    fitting = [name for name, other in SCHEMES.items() if _misfit(other, first_sources) is None]
    (before, after), source = misfit, first_sources[misfit]
    if not chosen.knows(after):
        check_tags(head, scheme, Tagged(source, [str(after)]), fitting)
    # A few wrong tags, which fit no scheme at all, are common in real data; the scores read them leniently.
    if fitting or constrained:
        end = "comes first" if before is None else "comes last"
        problem = f"'{after}' follows '{before}'" if before and after else f"'{after or before}' {end}"
        raise UserError(
            f"heads.{head}.scheme: {scheme} does not allow what the data has: {problem} ('{source[:SHOWN]}')"
            f"{_advice(fitting)}"
        )


def check_tags(head: str, scheme: str, row: Tagged, fitting: Sequence[str] | None = None) -> None:
    """Refuse a row with a tag that the scheme does not know; a UserError names it, its source and what fits."""
    for name in row.tags:
        try:
            SCHEMES[scheme].check(name)
        except UserError as error:
            schemes = [key for key, other in SCHEMES.items() if other.knows(name)] if fitting is None else fitting
            problem = f"heads.{head}.scheme: {scheme}, but the data has the {error} ('{row.source[:SHOWN]}')"
            raise UserError(f"{problem}{_advice(schemes)}") from error


def _pairs(rows: Iterable[Tagged]) -> dict[Pair, str]:
    """Return all tags that follow each other, None at both ends, each with the first source that has them."""
    pairs: dict[Pair, str] = {}
    for source, tags in rows:
        if tags:
            for pair in zip([None, *tags], [*tags, None], strict=True):
                pairs.setdefault(pair, source)
    return pairs


def _misfit(scheme: Scheme, pairs: Iterable[Pair]) -> Pair | None:
    """Return a pair with a tag that the scheme does not know, or else one that it forbids, or None."""
    pairs = list(pairs)
    unknown = next((pair for pair in pairs if not scheme.knows(pair[1])), None)
    return unknown or next((pair for pair in pairs if not scheme.allows(*pair)), None)


def _advice(fitting: Sequence[str]) -> str:
    if fitting:
        return f"; its tags fit scheme: {' or '.join(fitting)}"
    return f"; no scheme fits ({', '.join(SCHEMES)}): correct the tags, or leave scheme out to score tokens alone"
