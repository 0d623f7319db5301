"""Tagging schemes against their definition on whole sequences, and a CRF that keeps to them."""

import itertools
import re

import pytest
import torch
from enumerated_chains import Enumerated, crf_score, random_chains, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.heads import CRF, bio_constraints, bmes_constraints

BIO_NAMES = ["I-per", "O", "B-org", "B-per", "I-org"]
BMES_NAMES = ["E-a", "B-a", "O", "S-a", "M-a", "S-b", "B-b", "E-b"]
SEGMENTATION = ["S", "B", "M", "E"]
few = settings(deadline=None, max_examples=15)


def is_bio(names):
    """Whether the names spell O and B-x I-x ... I-x."""
    return re.fullmatch(r"(O |B-(\w+) (I-\2 )*)*", "".join(f"{name} " for name in names)) is not None


def is_bmes(names):
    """Whether the names spell O, S-x and B-x M-x ... M-x E-x; types may be missing."""
    text = "".join(f"{name if '-' in name or name == 'O' else name + '-word'} " for name in names)
    return re.fullmatch(r"(O |S-\w+ |B-(\w+) (M-\2 )*E-\2 )*", text) is not None


SCHEMES = [
    (bio_constraints, is_bio, BIO_NAMES),
    (bmes_constraints, is_bmes, BMES_NAMES),
    (bmes_constraints, is_bmes, SEGMENTATION),
]


def is_allowed(constraints, path):
    between = all(constraints.transitions[pair] for pair in itertools.pairwise(path))
    return bool(constraints.starts[path[0]] and between and constraints.ends[path[-1]])


@pytest.mark.parametrize(("build", "definition", "names"), SCHEMES)
def test_a_scheme_allows_exactly_the_sequences_of_its_definition(build, definition, names):
    constraints = build(names)
    for length in (1, 2, 3, 4):
        for path in itertools.product(range(len(names)), repeat=length):
            assert is_allowed(constraints, path) == definition([names[label] for label in path]), path


@pytest.mark.parametrize(("build", "definition", "names"), SCHEMES)
@pytest.mark.parametrize("boundaries", [False, True])
def test_a_constrained_crf_is_a_softmax_over_the_allowed_sequences(build, definition, names, boundaries):
    crf = randomise(CRF(len(names), boundaries=boundaries, constraints=build(names)), 0)
    emissions, _, mask = random_chains([3, 1, 2], len(names), 1)
    found, scores = crf.k_best(emissions, mask, 20)
    for row, length in enumerate([3, 1, 2]):
        reference = Enumerated(crf_score(emissions[row], crf.transitions, crf.starts, crf.ends), len(names), length)
        spelled = {path: definition([names[label] for label in path]) for path in reference.scores}
        reference.scores = {path: score for path, score in reference.scores.items() if spelled[path]}
        torch.testing.assert_close(crf.log_partition(emissions, mask)[row].item(), reference.log_partition)
        torch.testing.assert_close(crf.marginals(emissions, mask)[row], reference.marginals(3))
        best = list(reference.scores.items())[:20]
        for place, (path, score) in enumerate(best):
            assert found[row, place, :length].tolist() == list(path)
            torch.testing.assert_close(scores[row, place].item(), score)
        assert (scores[row, len(best) :] == -torch.inf).all()
        assert (found[row, len(best) :] == -100).all()


@given(seed=st.integers(0, 1000), length=st.integers(2, 12), scale=st.sampled_from([1.0, 1e4]))
@few
def test_what_is_forbidden_is_never_chosen_and_has_no_probability(seed, length, scale):
    crf = randomise(CRF(4, constraints=bmes_constraints(SEGMENTATION)), seed).float()
    emissions, _, mask = random_chains([length, 1], 4, seed, scale, torch.float32)
    found, _ = crf.k_best(emissions, mask, 3)
    for row, place in itertools.product(range(2), range(3)):
        path = found[row, place][mask[row] & (found[row, place] >= 0)].tolist()
        assert is_bmes([SEGMENTATION[label] for label in path])
    marginals = crf.marginals(emissions, mask)
    assert not marginals[:, 0, 2:].any()
    assert not marginals[torch.arange(2), mask.sum(dim=1) - 1][:, 1:3].any()
    assert not marginals[1, 0, 1:].any()


def test_gradients_stay_finite_where_labels_are_forbidden():
    crf = CRF(4, boundaries=True, constraints=bmes_constraints(SEGMENTATION))
    emissions, _, mask = random_chains([5, 2, 1], 4, 0, 1e3, torch.float32)
    emissions.requires_grad_()
    labels, _ = crf.viterbi(emissions, mask)
    (crf.nll(emissions, labels, mask) + crf.log_partition(emissions, mask)).sum().backward()
    assert emissions.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in crf.parameters())
    assert not crf.transitions.grad[~crf.allowed_transitions].any()


@pytest.mark.parametrize(
    ("labels", "place"), [([1, 0, 0], "0, 1"), ([2, 3, 0], "0, 0"), ([0, 0, 1], "0, 2"), ([3, 0, 0], "0, 0")]
)
def test_forbidden_gold_is_refused_by_place(labels, place):
    crf = CRF(4, constraints=bmes_constraints(SEGMENTATION))
    with pytest.raises(ValueError, match=rf"labels\[{place}\]: label \d is forbidden"):
        crf.nll(torch.zeros(1, 3, 4), torch.tensor([labels]), torch.ones(1, 3))
    crf.nll(torch.zeros(1, 4, 4), torch.tensor([[1, 2, 3, -100]]), torch.tensor([[1, 1, 1, 0]]))


def test_a_row_for_which_nothing_is_allowed_is_refused_by_number():
    crf = CRF(3, constraints=bmes_constraints(["B", "M", "E"]))
    emissions, mask = torch.zeros(2, 3, 3), torch.tensor([[1, 1, 1], [1, 0, 0]])
    for call in (crf.viterbi, crf.log_partition, crf.marginals):
        with pytest.raises(ValueError, match="row 1: no sequence of 1 labels is allowed"):
            call(emissions, mask)


def test_a_label_of_another_scheme_is_refused_by_name():
    with pytest.raises(UserError, match="label 'E-x': 'E' is no tag of BIO; valid: B, I, O"):
        bio_constraints(["O", "E-x"])
    with pytest.raises(UserError, match="'I' is no tag of BMES"):
        bmes_constraints(["I-x"])
    with pytest.raises(ValueError, match=r"constraints\.starts: \[4\] does not fit 3 labels"):
        CRF(3, constraints=bmes_constraints(SEGMENTATION))
