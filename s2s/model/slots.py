"""Slots: the places that attention without keys tells rows and columns apart by.

Source token j sits in slot j, target token t in slot ``source_slots`` + t, in every packed copy of the target. So a
target row reads the same slots however long its source is, and a step of decoding reads what training read.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """``copies`` times the ``width`` slots from ``first`` on."""

    first: int
    width: int
    copies: int = 1

    def of(self, table: Tensor, dimension: int) -> Tensor:
        """The table's entries at these slots along one dimension."""
        part = table.narrow(dimension, self.first, self.width)
        return part if self.copies == 1 else torch.cat([part] * self.copies, dim=dimension)


class Columns(NamedTuple):
    """What a row looks at: the first ``source`` slots, which a memory fills, and then ``own`` ones."""

    source: int
    own: Slots

    def of(self, table: Tensor) -> Tensor:
        """The table's entries at these columns along its last dimension."""
        own = self.own.of(table, -1)
        return own if self.source == 0 else torch.cat([table[..., : self.source], own], dim=-1)
