"""What a target copies: the longest common subsequence of two rows of ids, as BIO tags of the first."""

from collections.abc import Sequence

import numpy

OUTSIDE, BEGIN, INSIDE = range(3)
NAMES = ["O", "B", "I"]


def common_subsequence(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of places of a longest common subsequence, in order; of several, that which ends earliest in both.

    L(i, j) = max(L(i - 1, j), L(i, j - 1), L(i - 1, j - 1) + [ours_i = theirs_j]), a row at a time: within a row the
    second case is a running maximum.
    """
    row = numpy.zeros(len(theirs) + 1, dtype=numpy.int32)
    lengths, wanted = [row], numpy.asarray(theirs, dtype=numpy.int64)
    for id in ours:
        longer = numpy.maximum(row[1:], row[:-1] + (wanted == id))
        row = numpy.concatenate([row[:1], numpy.maximum.accumulate(longer)])
        lengths.append(row)
    return _followed(lengths)


def _followed(lengths: Sequence[numpy.typing.NDArray[numpy.int32]]) -> list[tuple[int, int]]:
    """The places at which the length grows, from the last pair back to the first."""
    pairs, i, j = [], len(lengths) - 1, len(lengths[0]) - 1
    while lengths[i][j]:
        if lengths[i - 1][j] == lengths[i][j]:
            i -= 1
        elif lengths[i][j - 1] == lengths[i][j]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def copy_tags(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """A tag for each id of the source: begin, where the target copies it; inside, where it copies it and the one
    before it as neighbours; outside elsewhere (after the copy mechanism of spaces.ac.cn 8046).
    """
    tags, before = [OUTSIDE] * len(source), (-2, -2)
    for i, j in common_subsequence(source, target):
        tags[i] = INSIDE if before == (i - 1, j - 1) else BEGIN
        before = i, j
    return tags
