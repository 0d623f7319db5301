"""Arguments of transport distances: accepted ones, refused ones and their messages; and the cost of importing them."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import s2s.metrics
from s2s.errors import UserError
from s2s.metrics import word_movers_distance, word_movers_distance_article, word_rotators_distance


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_and_lists_are_arrays(kind: torch.dtype) -> None:
    draws = np.random.default_rng(0)
    x, y = (
        torch.tensor(draws.normal(size=(3, 4))).to(kind).requires_grad_(),
        torch.tensor(draws.normal(size=(5, 4))).to(kind),
    )
    weights = torch.full((3,), 1 / 3)
    for distance in (word_movers_distance, word_rotators_distance):
        assert distance(x, y) == distance(x.tolist(), y.double().numpy())
    assert word_movers_distance(x, y, weights) == pytest.approx(word_movers_distance(x, y), abs=1e-6)


@pytest.mark.slow
def test_neither_torch_nor_pot_is_imported_before_it_is_needed() -> None:
    script = "import sys, s2s.metrics; print(*{'torch', 'ot', 'scipy'} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout
        == "\n"
    )
    assert all(callable(getattr(s2s.metrics, name)) for name in s2s.metrics.__all__)
    with pytest.raises(AttributeError, match=r"'s2s.metrics' has no attribute 'word_mover_distance'"):
        _ = s2s.metrics.word_mover_distance


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    for distance in (word_movers_distance, word_rotators_distance):
        with pytest.raises(UserError, match=r"POT.*: pip install -e '\.\[transport\]'$"):
            distance(np.ones((1, 2)), np.ones((2, 2)))


ONE, TWO = np.ones((1, 2)), np.ones((2, 2))
HOLE = np.array([[1.0, 1.0], [np.nan, 1.0]])
WRONG = [
    ((np.ones((0, 2)), ONE), r"^x: an empty sentence, of shape \(0, 2\)$"),
    ((ONE, []), r"^y: an empty sentence, of shape \(0,\)$"),
    ((ONE, np.ones(2)), r"^y: a sentence is an array \[tokens, width\], not of shape \(2,\)$"),
    ((HOLE, ONE), "^x: vector 1 is not finite$"),
    ((ONE, np.ones((1, 3))), "^x and y: vectors of different widths, 2 and 3$"),
]
WRONG_WEIGHTS = [
    ((ONE, TWO, None, [1.0]), r"^y_weights: one weight for each of 2 vectors, not of shape \(1,\)$"),
    ((TWO, ONE, [1.5, -0.5]), "^x_weights: weight 1 is negative or not finite$"),
    ((TWO, ONE, [0.5, np.nan]), "^x_weights: weight 1 is negative or not finite$"),
    ((TWO, ONE, [np.inf, 0.5]), "^x_weights: weight 0 is negative or not finite$"),
    ((TWO, ONE, [0.5, 0.6]), r"^x_weights: the weights add up to 1\.1, not to 1$"),
    ((TWO, ONE, [0.0, 0.0]), "^x_weights: the weights add up to 0, not to 1$"),
]


@pytest.mark.parametrize(("arguments", "message"), [*WRONG, *WRONG_WEIGHTS])
def test_what_has_no_distance_is_refused_by_argument(arguments: tuple[object, ...], message: str) -> None:
    distances = [word_movers_distance, word_movers_distance_article]
    for distance in [*distances, word_rotators_distance] if len(arguments) == 2 else distances:
        with pytest.raises(ValueError, match=message):
            distance(*arguments)


def test_a_vector_of_zeros_has_no_direction() -> None:
    with pytest.raises(ValueError, match=r"^y: vector 1 is zero and has no direction$"):
        word_rotators_distance(ONE, [[1.0, 0.0], [0.0, 0.0]])
