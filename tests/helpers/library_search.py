"""Hypotheses of the library's own ``generate`` as this package's searches return them, and their comparison."""

from collections.abc import Sequence

import pytest


def before_end(tokens: list[int], end: int) -> list[int]:
    """The tokens before the first end; all of them where there is none."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def assert_same(
    found: Sequence[Sequence[tuple[list[int], float]]], wanted: Sequence[Sequence[tuple[list[int], float]]]
) -> None:
    """Assert that the hypotheses of each source are equal, and their scores but for rounding."""
    for ours, others in zip(found, wanted, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in others]
        assert [score for _, score in ours] == pytest.approx([score for _, score in others], abs=1e-5)
