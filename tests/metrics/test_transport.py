"""Exact transport distances against a linear programme, enumeration, closed forms and the laws of distances."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from s2s.metrics import (
    movers_problem,
    rotators_problem,
    transport_plan,
    word_movers_distance,
    word_movers_distance_article,
    word_rotators_distance,
)

Array = NDArray[np.float64]
few = settings(deadline=None, max_examples=40)
seeds, sizes, widths = st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 5)


def sentence(seed: int, size: int, width: int) -> Array:
    return np.random.default_rng([seed, size, width]).normal(0.3, 1.0, (size, width))


def shares(seed: int, size: int) -> Array:
    return np.random.default_rng([seed, size]).dirichlet(np.ones(size))


def programme(cost: list[list[float]], p: Array, q: Array) -> float:
    """The least cost by linear programming; the last column's constraint follows from the others."""
    n, m = len(p), len(q)
    rows = [[float(k // m == i) for k in range(n * m)] for i in range(n)]
    columns = [[float(k % m == j) for k in range(n * m)] for j in range(m)]
    flat = [c for row in cost for c in row]
    return float(linprog(flat, A_eq=(rows + columns)[:-1], b_eq=[*p, *q][:-1], method="highs").fun)


def euclid(x: Array, y: Array) -> list[list[float]]:
    return [[sum((a - b) ** 2 for a, b in zip(v, w, strict=True)) ** 0.5 for w in y] for v in x]


def turns(x: Array, y: Array) -> list[list[float]]:
    def cosine(v: Array, w: Array) -> float:
        return sum(v * w) / (sum(v * v) * sum(w * w)) ** 0.5

    return [[1 - cosine(v, w) for w in y] for v in x]


@given(seed=seeds, n=sizes, m=sizes, width=widths, weighted=st.booleans())
@few
def test_distances_are_the_optimum_of_a_linear_programme(seed: int, n: int, m: int, width: int, weighted: bool) -> None:
    x, y = sentence(seed, n, width), sentence(seed + 1, m, width)
    p, q = (shares(seed, n), shares(seed + 1, m)) if weighted else (np.full(n, 1 / n), np.full(m, 1 / m))
    found = word_movers_distance(x, y, p, q) if weighted else word_movers_distance(x, y)
    assert found == pytest.approx(programme(euclid(x, y), p, q), abs=1e-8)
    norms = [np.array([sum(v * v) ** 0.5 for v in bag]) for bag in (x, y)]
    expected = programme(turns(x, y), norms[0] / sum(norms[0]), norms[1] / sum(norms[1]))
    assert word_rotators_distance(x, y) == pytest.approx(expected, abs=1e-8)


@given(seed=seeds, n=st.integers(1, 6), width=widths)
@few
def test_between_sentences_of_one_length_it_is_the_best_permutation(seed: int, n: int, width: int) -> None:
    x, y = sentence(seed, n, width), sentence(seed + 1, n, width)
    cost = euclid(x, y)
    best = min(sum(cost[i][j] for i, j in enumerate(order)) / n for order in permutations(range(n)))
    assert word_movers_distance(x, y) == pytest.approx(best, abs=1e-10)


@given(seed=seeds, n=sizes, m=sizes)
@few
def test_on_a_line_it_is_the_area_between_the_distributions(seed: int, n: int, m: int) -> None:
    x, y, p, q = sentence(seed, n, 1), sentence(seed + 1, m, 1), shares(seed, n), shares(seed + 1, m)
    points = sorted([*x[:, 0], *y[:, 0]])
    below = [abs(p[x[:, 0] <= point].sum() - q[y[:, 0] <= point].sum()) for point in points]
    area = sum(height * (end - point) for height, point, end in zip(below, points, points[1:], strict=False))
    assert word_movers_distance(x, y, p, q) == pytest.approx(area, abs=1e-10)


@given(seed=seeds, n=sizes, m=sizes, k=sizes, width=widths)
@few
def test_word_movers_distance_is_a_metric(seed: int, n: int, m: int, k: int, width: int) -> None:
    x, y, z = sentence(seed, n, width), sentence(seed + 1, m, width), sentence(seed + 2, k, width)
    order = np.random.default_rng(seed).permutation(n)
    assert word_movers_distance(x, x[order]) == 0
    assert word_movers_distance(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-12)
    assert word_movers_distance(x, y) == pytest.approx(word_movers_distance(y, x[order]), abs=1e-12)
    assert word_movers_distance(x, z) <= word_movers_distance(x, y) + word_movers_distance(y, z) + 1e-12
    assert word_movers_distance(x + 2, y + 2) == pytest.approx(word_movers_distance(x, y), abs=1e-10)
    assert word_movers_distance(-3 * x, -3 * y) == pytest.approx(3 * word_movers_distance(x, y), abs=1e-10)


@given(seed=seeds, n=sizes, m=sizes, width=widths, factor=st.floats(0.01, 100))
@few
def test_word_rotators_distance_is_blind_to_lengths_of_sentences_and_splits_of_vectors(
    seed: int, n: int, m: int, width: int, factor: float
) -> None:
    x, y = sentence(seed, n, width), sentence(seed + 1, m, width)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    split = np.concatenate([0.3 * x[:1], 0.7 * x[:1], x[1:]])
    value = word_rotators_distance(x, y)
    assert 0 <= value <= 2
    assert word_rotators_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    for first, second in (
        (y, x),
        (factor * x, y),
        (x, factor * y),
        (x[::-1], y),
        (split, y),
        (x @ rotation, y @ rotation),
    ):
        assert word_rotators_distance(first, second) == pytest.approx(value, abs=1e-10)


def test_examples_by_hand() -> None:
    v, w = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
    assert word_movers_distance(np.zeros((1, 2)), v) == pytest.approx(5.0, abs=1e-12)
    assert word_movers_distance_article(np.zeros((2, 2)), v) == pytest.approx(5 / 2**0.5, abs=1e-12)
    assert word_rotators_distance(v, w) == pytest.approx(1 - 0.8, abs=1e-12)
    assert word_rotators_distance(v, -v) == 2
    both = np.array([[1.0, 0.0], [0.0, 3.0]])
    assert word_rotators_distance(both, -both) == pytest.approx(0.5 * 1 + 0.5 * 2, abs=1e-12)
    assert word_rotators_distance(both, both[:1]) == pytest.approx(3 / 4, abs=1e-12)
    assert word_rotators_distance(both[[0, 0, 1]], both[:1]) == pytest.approx(3 / 5, abs=1e-12)


def test_word_rotators_distance_is_no_metric() -> None:
    x, y, z = (np.array([[np.cos(angle), np.sin(angle)]]) for angle in (0.0, 0.8, 1.6))
    assert word_rotators_distance(x, z) > word_rotators_distance(x, y) + word_rotators_distance(y, z) + 0.4


@given(seed=seeds, n=sizes, m=sizes, width=widths)
@few
def test_the_article_s_distance_takes_the_mean_over_the_width(seed: int, n: int, m: int, width: int) -> None:
    x, y, p, q = sentence(seed, n, width), sentence(seed + 1, m, width), shares(seed, n), shares(seed + 1, m)
    cost = [[float(np.mean((v - w) ** 2) ** 0.5) for w in y] for v in x]
    assert word_movers_distance_article(x, y, p, q) == pytest.approx(programme(cost, p, q), abs=1e-8)


@given(seed=seeds, n=sizes, m=sizes)
@few
def test_a_plan_keeps_its_sums_and_gives_the_distance(seed: int, n: int, m: int) -> None:
    x, y, p, q = sentence(seed, n, 3), sentence(seed + 1, m, 3), shares(seed, n), shares(seed + 1, m)
    for problem, distance in (
        (movers_problem(x, y, p, q), word_movers_distance(x, y, p, q)),
        (rotators_problem(x, y), word_rotators_distance(x, y)),
    ):
        plan = transport_plan(problem)
        assert (plan >= 0).all()
        np.testing.assert_allclose(plan.sum(axis=1), problem.x_weights, atol=1e-9)
        np.testing.assert_allclose(plan.sum(axis=0), problem.y_weights, atol=1e-9)
        assert (plan * problem.cost).sum() == pytest.approx(distance, abs=1e-12)


def test_vectors_of_weight_0_count_for_nothing() -> None:
    x, y, padding = sentence(0, 3, 4), sentence(1, 2, 4), np.full((2, 4), 9.0)
    padded = word_movers_distance(np.concatenate([x, padding]), y, [1 / 3] * 3 + [0, 0])
    assert padded == pytest.approx(word_movers_distance(x, y), abs=1e-12)


def test_a_pair_of_long_sentences_is_solved() -> None:
    x, y = sentence(0, 300, 2), sentence(1, 299, 2)
    whole = transport_plan(movers_problem(x, y))
    assert np.count_nonzero(whole) <= 300 + 299 - 1  # a vertex of the polytope of plans
