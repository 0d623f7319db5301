"""The MEMM against loops over its local softmaxes, and against the CRF."""

import math

import torch
from enumerated_chains import Enumerated, memm_score, random_chains, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import CRF, MEMM, HalfLogitMEMM
from s2s.heads.chains.chain import Chain, absorb_following

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)
LABELS, SEEDS = st.integers(1, 4), st.integers(0, 1000)
KINDS = st.sampled_from([MEMM, HalfLogitMEMM])
few = settings(deadline=None, max_examples=20)


def directions(model, emissions, length):
    """The log-likelihood of a path from left to right and from right to left, as loops."""
    inside, scale = emissions[:length], 0.5 if isinstance(model, HalfLogitMEMM) else 1.0
    forwards = memm_score(inside, model.transitions, scale)
    backwards = memm_score(inside.flip(0), model.transitions.t(), scale)
    return forwards, lambda path: backwards(path[::-1])


def reference(model, emissions, length):
    forwards, backwards = directions(model, emissions, length)
    mean = (lambda path: (forwards(path) + backwards(path)) / 2) if model.bidirectional else forwards
    return Enumerated(mean, model.num_labels, length)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, kind=KINDS, both=st.booleans(), low=st.booleans())
@few
def test_every_quantity_is_that_of_the_enumeration(lengths, labels, seed, kind, both, low):
    model = randomise(kind(labels, both, rank=1 if low else None), seed)
    emissions, gold, mask = random_chains(lengths, labels, seed + 1)
    nll, marginals = model.nll(emissions, gold, mask), model.marginals(emissions, mask)
    paths, scores = model.k_best(emissions, mask, 3)
    for row, length in enumerate(lengths):
        expected = reference(model, emissions[row], length)
        torch.testing.assert_close(nll[row].item(), -expected.scores[tuple(gold[row, :length].tolist())])
        torch.testing.assert_close(model.log_partition(emissions, mask)[row].item(), expected.log_partition)
        torch.testing.assert_close(marginals[row], expected.marginals(mask.shape[1]))
        for position, (path, score) in enumerate(list(expected.scores.items())[:3]):
            torch.testing.assert_close(scores[row, position].item(), score)
            assert paths[row, position].tolist() == [*path, *[-100] * (mask.shape[1] - length)]
    assert (nll >= 0).all()


@given(length=st.integers(1, 5), labels=LABELS, seed=SEEDS, kind=KINDS)
@few
def test_each_direction_sums_to_one_over_all_sequences(length, labels, seed, kind):
    model = randomise(kind(labels), seed)
    emissions, _, mask = random_chains([length], labels, seed)
    for score in directions(model, emissions[0], length):
        torch.testing.assert_close(Enumerated(score, labels, length).log_partition, 0.0, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.log_partition(emissions, mask).item(), 0.0, rtol=0, atol=1e-12)
    model.bidirectional = True
    assert model.log_partition(emissions, mask) <= 1e-12


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS)
@few
def test_a_crf_is_the_memm_that_has_absorbed_what_follows(lengths, labels, seed):
    crf, memm = randomise(CRF(labels), seed), randomise(MEMM(labels), seed)
    emissions, gold, mask = random_chains(lengths, labels, seed)
    edge = torch.zeros(labels, dtype=torch.float64)
    filled = emissions.masked_fill(~mask[..., None], 0.0)
    within, _ = absorb_following(Chain(filled, crf.transitions, edge, edge, mask))
    torch.testing.assert_close(crf.nll(emissions, gold, mask), memm.nll(within, gold, mask))
    torch.testing.assert_close(crf.marginals(emissions, mask), memm.marginals(within, mask))
    assert crf.viterbi(emissions, mask)[0].equal(memm.viterbi(within, mask)[0])


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, both=st.booleans())
@few
def test_without_transitions_it_is_the_crf_and_the_softmax(lengths, labels, seed, both):
    crf, memm = CRF(labels).double(), MEMM(labels, both).double()
    for model in (crf, memm):
        torch.nn.init.zeros_(model.transitions)
    emissions, gold, mask = random_chains(lengths, labels, seed)
    torch.testing.assert_close(memm.nll(emissions, gold, mask), crf.nll(emissions, gold, mask))
    torch.testing.assert_close(memm.marginals(emissions, mask)[mask], emissions.softmax(dim=-1)[mask])
    assert memm.viterbi(emissions, mask)[0].equal(crf.viterbi(emissions, mask)[0])


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS)
@few
def test_backwards_is_forwards_on_the_reversed_row_with_transposed_transitions(lengths, labels, seed):
    both, forward_model = randomise(MEMM(labels, bidirectional=True), seed), randomise(MEMM(labels), seed)
    emissions, gold, mask = random_chains(lengths, labels, seed)
    forwards = forward_model.nll(emissions, gold, mask)
    forward_model.transitions.data = forward_model.transitions.data.t().contiguous()
    for row, length in enumerate(lengths):
        mirrored = emissions[row, :length].flip(0)[None], gold[row, :length].flip(0)[None], mask[row, :length][None]
        expected = (forwards[row] + forward_model.nll(*mirrored)[0]) / 2
        torch.testing.assert_close(both.nll(emissions, gold, mask)[row], expected)


@given(lengths=st.lists(st.integers(2, 4), min_size=1, max_size=3), labels=st.integers(2, 4), seed=SEEDS)
@few
def test_a_constant_for_all_moves_from_a_label_changes_the_crf_alone(lengths, labels, seed):
    crf, memm = randomise(CRF(labels), seed), randomise(MEMM(labels), seed)
    emissions, gold, mask = random_chains(lengths, labels, seed)
    before = [model.nll(emissions, gold, mask) for model in (crf, memm)]
    for model in (crf, memm):
        model.transitions.data[0] += 3.0
    torch.testing.assert_close(memm.nll(emissions, gold, mask), before[1])
    assert not torch.allclose(crf.nll(emissions, gold, mask), before[0])


def test_label_bias_a_label_with_one_successor_does_not_look():
    """From label 0 only label 1 follows: a MEMM is sure of it whatever it sees, a CRF is not (Lafferty et al. 2001)."""
    crf, memm = CRF(3).double(), MEMM(3).double()
    for model in (crf, memm):
        model.transitions.data.copy_(torch.tensor([[-50.0, 0, -50], [0, 0, 0], [0, 0, 0]]))
    emissions = torch.zeros(2, 2, 3, dtype=torch.float64)
    emissions[1, 1] = torch.tensor([5.0, -5, 5])  # the second row speaks against label 1
    mask, gold = torch.ones(2, 2), torch.tensor([[0, 1], [0, 1]])
    torch.testing.assert_close(memm.nll(emissions, gold, mask).tolist(), [math.log(3), math.log(3)])
    doubtful = crf.nll(emissions, gold, mask)
    assert doubtful[1] > doubtful[0] + 5
