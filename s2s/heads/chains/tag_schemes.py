"""Which labels may follow each other in the tagging schemes of spans."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.errors import UserError, nearest


class Constraints(NamedTuple):
    """True where a label may begin a sequence, follow another, or end a sequence."""

    starts: Tensor  # [L]
    transitions: Tensor  # [L, L], from, to
    ends: Tensor  # [L]


class Scheme(NamedTuple):
    """The tags of a scheme. A ``continuing`` tag stands only behind an ``opening`` one of its type."""

    name: str
    tags: str
    opening: str
    continuing: str
    is_closed: bool  # whether an opening tag must have a continuing one behind it

    def allows(self, before: str | None, after: str | None) -> bool:
        """Return whether a tag may follow another; None is the sequence's beginning, or its end."""
        tag, kind = split(before or "O")
        next_tag, next_kind = split(after or "O")
        if next_tag in tuple(self.continuing):
            return tag in tuple(self.opening) and kind == next_kind
        return not (self.is_closed and tag in tuple(self.opening))


SCHEMES = {
    "bio": Scheme("BIO", tags="BIO", opening="BI", continuing="I", is_closed=False),
    "iob1": Scheme("IOB1", tags="IBO", opening="BI", continuing="B", is_closed=False),
    "bmes": Scheme("BMES", tags="BMESO", opening="BM", continuing="ME", is_closed=True),
    "bioes": Scheme("BIOES", tags="BIESO", opening="BI", continuing="IE", is_closed=True),
    "bilou": Scheme("BILOU", tags="BILUO", opening="BI", continuing="IL", is_closed=True),
}
"""Of each span's tokens BIO (IOB2) marks the first; IOB1 the first behind another span of its type; BMES, BIOES and
BILOU the first, the last and single ones. All have ``O`` for no span, ``B-x`` for a type x, or ``B`` without types."""


def split(name: str) -> tuple[str, str]:
    """Return the tag and the type of a label's name."""
    tag, _, kind = name.partition("-")
    return tag, kind


def bio_constraints(names: Sequence[str]) -> Constraints:
    """BIO (IOB2): ``I-x`` stands only behind ``B-x`` or ``I-x``.

    Names are ``O``, ``B-x`` and ``I-x``, or without types ``B`` and ``I``. UserError names a label of another scheme.
    """
    return scheme_constraints(names, "bio")


def bmes_constraints(names: Sequence[str]) -> Constraints:
    """BMES: ``B-x``, any number of ``M-x``, then ``E-x``; ``S-x`` and ``O`` stand alone.

    Names are ``O`` and ``B-x``, ``M-x``, ``E-x``, ``S-x``, or without types ``B``, ``M``, ``E``, ``S`` (word
    segmentation). UserError names a label of another scheme.
    """
    return scheme_constraints(names, "bmes")


def scheme_constraints(names: Sequence[str], scheme: str) -> Constraints:
    """Return what a row of ``SCHEMES`` allows of labels; UserError names a label of another scheme."""
    chosen = SCHEMES[scheme]
    for name in names:
        check_tag(name, chosen)
    return Constraints(
        starts=torch.tensor([chosen.allows(None, name) for name in names]),
        transitions=torch.tensor([[chosen.allows(name, other) for other in names] for name in names]),
        ends=torch.tensor([chosen.allows(name, None) for name in names]),
    )


def check_tag(name: str, scheme: Scheme) -> None:
    """Refuse a label whose tag the scheme does not know."""
    tag, _ = split(name)
    if tag not in tuple(scheme.tags):
        raise UserError(f"label '{name}': '{tag}' is no tag of {scheme.name}{nearest(tag, scheme.tags)}")
