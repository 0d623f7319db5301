"""Which labels may follow each other in the tagging schemes BIO and BMES."""

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
    """The tags of a scheme; ``opening`` ones may have a ``continuing`` one of the same type behind them."""

    name: str
    tags: str
    opening: str
    continuing: str
    is_closed: bool  # whether an opening tag must have a continuing one behind it


BIO = Scheme("BIO", tags="BIO", opening="BI", continuing="I", is_closed=False)
BMES = Scheme("BMES", tags="BMESO", opening="BM", continuing="ME", is_closed=True)


def bio_constraints(names: Sequence[str]) -> Constraints:
    """BIO (IOB2): ``I-x`` stands only behind ``B-x`` or ``I-x``.

    Names are ``O``, ``B-x`` and ``I-x``, or without types ``B`` and ``I``. UserError names a label of another scheme.
    """
    return _constraints(names, BIO)


def bmes_constraints(names: Sequence[str]) -> Constraints:
    """BMES: ``B-x``, any number of ``M-x``, then ``E-x``; ``S-x`` and ``O`` stand alone.

    Names are ``O`` and ``B-x``, ``M-x``, ``E-x``, ``S-x``, or without types ``B``, ``M``, ``E``, ``S`` (word
    segmentation). UserError names a label of another scheme.
    """
    return _constraints(names, BMES)


def _constraints(names: Sequence[str], scheme: Scheme) -> Constraints:
    labels = [_split(name, scheme) for name in names]
    is_open = torch.tensor([tag in scheme.opening for tag, _ in labels])
    continues = torch.tensor([tag in scheme.continuing for tag, _ in labels])
    same_type = torch.tensor([[kind == other for _, other in labels] for _, kind in labels])
    unfinished = is_open & scheme.is_closed
    transitions = torch.where(continues, is_open[:, None] & same_type, ~unfinished[:, None])
    return Constraints(starts=~continues, transitions=transitions, ends=~unfinished)


def _split(name: str, scheme: Scheme) -> tuple[str, str]:
    """The tag and the type of a label's name."""
    tag, _, kind = name.partition("-")
    if tag not in tuple(scheme.tags):
        raise UserError(f"label '{name}': '{tag}' is no tag of {scheme.name}{nearest(tag, scheme.tags)}")
    return tag, kind
