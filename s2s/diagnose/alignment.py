"""Which tokens of a text are right: Levenshtein's alignment with its reference."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KINDS = "CSID"
"""Correct, substituted, inserted (only in the hypothesis), deleted (only in the reference)."""


class Edit(NamedTuple):
    """One step of an alignment: its kind and the places that it aligns, None where a side has none."""

    kind: str
    hypothesis: int | None
    reference: int | None


def align(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> list[Edit]:
    """The cheapest way from reference to hypothesis, from left to right; all edits cost 1, a correct token nothing.

    Of equally cheap ways it takes, from the right end, first tokens that are side by side, then insertions.
    Source: Levenshtein, "Binary Codes Capable of Correcting Deletions, Insertions and Reversals", 1966.
    """
    costs = _costs(hypothesis, reference)
    row, column, edits = len(hypothesis), len(reference), []
    while row or column:
        same = row > 0 and column > 0 and hypothesis[row - 1] == reference[column - 1]
        if row and column and costs[row, column] == costs[row - 1, column - 1] + (not same):
            row, column = row - 1, column - 1
            edits.append(Edit("C" if same else "S", row, column))
        elif row and costs[row, column] == costs[row - 1, column] + 1:
            row -= 1
            edits.append(Edit("I", row, None))
        else:
            column -= 1
            edits.append(Edit("D", None, column))
    return edits[::-1]


def correct(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Which tokens of the hypothesis are aligned with their like."""
    right = {edit.hypothesis for edit in align(hypothesis, reference) if edit.kind == "C"}
    return np.array([place in right for place in range(len(hypothesis))], dtype=bool)


def _costs(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> NDArray[np.int64]:
    """The distance of each beginning of the one from each beginning of the other."""
    costs = np.zeros((len(hypothesis) + 1, len(reference) + 1), dtype=np.int64)
    costs[0] = np.arange(len(reference) + 1)
    costs[:, 0] = np.arange(len(hypothesis) + 1)
    for row, token in enumerate(hypothesis, start=1):
        for column, other in enumerate(reference, start=1):
            beside = min(costs[row - 1, column], costs[row, column - 1]) + 1
            costs[row, column] = min(beside, costs[row - 1, column - 1] + (token != other))
    return costs
