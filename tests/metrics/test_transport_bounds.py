"""Bounds of the transport distances: their formulas, and that they are bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from s2s.metrics import (
    relaxed_word_movers_distance,
    relaxed_word_rotators_distance,
    word_centroid_distance,
    word_centroid_distance_article,
    word_movers_distance,
    word_movers_distance_article,
    word_rotators_bound,
    word_rotators_distance,
)
from s2s.metrics.transport.bags import distances_by_rows, movers_problem

Array = NDArray[np.float64]
few = settings(deadline=None, max_examples=60)
seeds, sizes, widths = st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 5)
HAIR = 1e-12


def draw(seed: int, size: int, width: int) -> tuple[Array, Array]:
    generator = np.random.default_rng([seed, size, width])
    weights = generator.dirichlet(np.ones(size)) * (generator.random(size) < 0.7)
    weights[0] += 1 - weights.sum()
    return generator.normal(0.4, 1.0, (size, width)), weights


@given(seed=seeds, n=sizes, m=sizes, width=widths)
@few
def test_bounds_of_the_movers_lie_below_it(seed: int, n: int, m: int, width: int) -> None:
    (x, p), (y, q) = draw(seed, n, width), draw(seed + 1, m, width)
    for weights in ((None, None), (p, q)):
        exact = word_movers_distance(x, y, *weights)
        assert word_centroid_distance(x, y, *weights) <= exact + HAIR
        assert relaxed_word_movers_distance(x, y, *weights) <= exact + HAIR
        article = word_movers_distance_article(x, y, *weights)
        assert word_centroid_distance_article(x, y, *weights) <= article + HAIR
        assert article == pytest.approx(exact / width**0.5)


@given(seed=seeds, n=sizes, m=sizes, width=widths)
@few
def test_bounds_of_the_rotators_lie_below_it(seed: int, n: int, m: int, width: int) -> None:
    (x, _), (y, _) = draw(seed, n, width), draw(seed + 1, m, width)
    exact = word_rotators_distance(x, y)
    assert word_rotators_bound(x, y) <= exact + HAIR
    assert relaxed_word_rotators_distance(x, y) <= exact + HAIR
    assert word_rotators_bound(x, 7 * y) == pytest.approx(word_rotators_bound(x, y), abs=1e-12)


@given(seed=seeds, n=sizes, m=sizes, width=widths)
@few
def test_bounds_are_their_formulas(seed: int, n: int, m: int, width: int) -> None:
    (x, p), (y, q) = draw(seed, n, width), draw(seed + 1, m, width)
    means = [sum(w * v for w, v in zip(shares, bag, strict=True)) for shares, bag in ((p, x), (q, y))]
    centroid = sum((means[0] - means[1]) ** 2) ** 0.5
    assert word_centroid_distance(x, y, p, q) == pytest.approx(centroid, abs=1e-12)
    assert word_centroid_distance_article(x, y, p, q) == pytest.approx(centroid / width**0.5, abs=1e-12)
    cost = np.array([[sum((v - w) ** 2) ** 0.5 for w in y] for v in x])
    to_y = sum(p[i] * min(cost[i, j] for j in range(m) if q[j]) for i in range(n))
    to_x = sum(q[j] * min(cost[i, j] for i in range(n) if p[i]) for j in range(m))
    assert relaxed_word_movers_distance(x, y, p, q) == pytest.approx(max(to_y, to_x), abs=1e-12)
    sums = [sum(bag) / sum(sum(v * v) ** 0.5 for v in bag) for bag in (x, y)]
    assert word_rotators_bound(x, y) == pytest.approx(sum((sums[0] - sums[1]) ** 2) / 2, abs=1e-12)


@given(seed=seeds, m=sizes, width=widths)
@few
def test_with_one_vector_on_a_side_the_relaxed_distance_is_exact(seed: int, m: int, width: int) -> None:
    (x, _), (y, q) = draw(seed, 1, width), draw(seed + 1, m, width)
    expected = sum(share * np.linalg.norm(x[0] - vector) for share, vector in zip(q, y, strict=True))
    assert word_movers_distance(x, y, None, q) == pytest.approx(expected, abs=1e-12)
    assert relaxed_word_movers_distance(x, y, None, q) == pytest.approx(expected, abs=1e-12)
    assert relaxed_word_rotators_distance(x, y) == pytest.approx(word_rotators_distance(x, y), abs=1e-12)


def test_bounds_refuse_what_their_distances_refuse() -> None:
    one, nothing = np.ones((1, 2)), np.ones((0, 2))
    bounds = (word_centroid_distance, word_centroid_distance_article, relaxed_word_movers_distance)
    for bound in (*bounds, word_rotators_bound, relaxed_word_rotators_distance):
        with pytest.raises(ValueError, match=r"^y: an empty sentence"):
            bound(one, nothing)
    for bound in bounds:
        with pytest.raises(ValueError, match=r"^x_weights: the weights add up to 2"):
            bound(one, one, [2.0])
    for bound in (word_rotators_bound, relaxed_word_rotators_distance):
        with pytest.raises(ValueError, match=r"^x: vector 0 is zero"):
            bound(0 * one, one)


def test_distances_without_scipy_are_those_with_it() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 7, 5))
    y[3] = x[2] * (1 + 1e-9)  # near: what products of vectors would get wrong
    np.testing.assert_allclose(distances_by_rows(x, y), movers_problem(x, y).cost, rtol=1e-12)
