"""Scheduled sampling against loops that write one token after another under the same coins."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import IGNORED, collate, count
from s2s.losses.passes import Passes
from s2s.mitigations.base import StepContext
from s2s.mitigations.scheduled_sampling import POLICIES, ScheduledSampling
from s2s.randomness import Draws

SIZES = st.lists(st.tuples(st.integers(2, 6), st.integers(0, 6)), min_size=1, max_size=4)
SEEDS = st.integers(0, 1000)
few = settings(deadline=None, max_examples=20)
NAME, END, SIZE = "scheduled_sampling", 3, 23
# Thresholds that a random model passes: a quarter of the gold tokens or so lies in each part.
KEYS = {"base": 0.7, "decay": 3.0, "confident": 0.01, "sure": 0.05}


@pytest.fixture(scope="session")
def lively_model(random_model):
    """Random models whose words depend on what they have read; those of ``random_model`` all but repeat one word."""

    def make(seed=2):
        model, generator = random_model(seed), torch.Generator().manual_seed(seed)
        model.embedding.tokens.weight.data.normal_(0.0, 1.0, generator=generator)
        model.final_norm.weight.data.fill_(0.6)
        model.final_norm.bias.data.zero_()
        return model

    return make


def context_of(batch, model, step=0, strength=1.0):
    return StepContext(Passes(model, 0.0, model), Draws(batch.seeds, NAME), count(batch), step, strength)


def chances(method, number, step, gold):
    """The policies' probabilities of (prediction, random token) for one token, from their formulas."""
    by_number, by_step = 1 - method.base**number, 1 - method.decay / (method.decay + math.exp(step / method.decay))
    likely, certain = method.confident < gold <= method.sure, gold > method.sure
    return {
        "decoding_step": (by_number, 0.0),
        "inverse_sigmoid": (by_step, 0.0),
        "decoding_and_training_step": (by_number * by_step, 0.0),
        "confidence": (float(likely), float(certain)),
        "always": (1.0, 0.0),
    }[method.policy]


@torch.no_grad()
def written(method, model, batch, context, own):
    """The decoder inputs of each row, token by token; predictions go by the row's ``own`` mixed prefix or by gold."""
    width, rows = batch.target.shape[1], []
    coin, draw = context.draws.uniform("coin", width), context.draws.uniform("token", width)
    gumbel = context.draws.gumbel("word", width, SIZE)
    for row, source in enumerate(batch.source_lengths.tolist()):
        length = int((batch.labels[row] != IGNORED).sum())
        gold, mixed = batch.target[row, :length].tolist(), [END]
        memory = model.encode(batch.source[row : row + 1, :source], torch.tensor([source]))
        for number in range(1, length):
            prefix = mixed if own else gold[:number]
            scores = model.logits(model.decode(torch.tensor([prefix]), memory))[0, -1].float()
            predicted, random = chances(method, number, context.step, float(scores.softmax(dim=0)[gold[number]]))
            rate, token = method.rate * context.strength, gold[number]
            if coin[row, number] < rate * random:
                token = gold[1 + int(draw[row, number] * (length - 1))]
            if coin[row, number] < rate * predicted:
                token = int((scores + method.noise * gumbel[row, number]).argmax())
            mixed.append(token)
        rows.append(mixed)
    return rows


def rows_of(batch):
    lengths = (batch.labels != IGNORED).sum(dim=1).tolist()
    return [row[:length].tolist() for row, length in zip(batch.target, lengths, strict=True)]


@given(
    sizes=SIZES,
    seed=SEEDS,
    policy=st.sampled_from(sorted(POLICIES)),
    noise=st.sampled_from([0.0, 0.5, 1.0]),
    rate=st.sampled_from([0.5, 1.0]),
    step=st.integers(0, 9),
    strength=st.sampled_from([0.4, 1.0]),
)
@few
def test_one_pass_puts_the_prediction_for_a_token_in_the_token_s_own_place(
    lively_model, random_batch, sizes, seed, policy, noise, rate, step, strength
):
    model, batch = lively_model(seed), random_batch(sizes, seed)
    method, context = (
        ScheduledSampling(rate=rate, policy=policy, noise=noise, **KEYS),
        context_of(batch, model, step, strength),
    )
    assert rows_of(method.feed(batch, context)) == written(method, model, batch, context, own=False)


@given(
    sizes=SIZES,
    seed=SEEDS,
    policy=st.sampled_from(sorted(POLICIES)),
    noise=st.sampled_from([0.0, 1.0]),
    more=st.integers(0, 2),
)
@few
def test_as_many_passes_as_tokens_are_sampling_token_by_token(
    lively_model, random_batch, sizes, seed, policy, noise, more
):
    model, batch = lively_model(seed), random_batch(sizes, seed)
    passes = max(1, max(target for _, target in sizes) + more)
    method = ScheduledSampling(rate=0.7, policy=policy, passes=passes, noise=noise, **KEYS)
    context = context_of(batch, model, step=4)
    assert rows_of(method.feed(batch, context)) == written(method, model, batch, context, own=True)


@torch.no_grad()
def test_passes_under_sure_coins_are_greedy_decoding_and_fewer_are_not(lively_model, random_batch):
    model, batch = lively_model(1), random_batch([(5, 6), (3, 4), (6, 1)])
    expected = []
    for row, (source, target) in enumerate([(5, 6), (3, 4), (6, 1)]):
        memory, tokens = model.encode(batch.source[row : row + 1, :source], torch.tensor([source])), [END]
        for _ in range(target):
            tokens.append(int(model.logits(model.decode(torch.tensor([tokens]), memory))[0, -1].argmax()))
        expected.append(tokens)
    prefixes = [
        rows_of(ScheduledSampling(policy="always", passes=passes).feed(batch, context_of(batch, model)))
        for passes in (1, 6, 9)
    ]
    assert prefixes[1] == prefixes[2] == expected
    assert prefixes[0] != expected


def test_noise_of_one_samples_the_softmax(lively_model):
    model, rows = lively_model(4), 5000
    model.output_bias.data.mul_(3.0)
    batch = collate([([2, 7, 8, END], [9])] * rows, 0, END)
    fed = ScheduledSampling(policy="always", noise=1.0).feed(batch, context_of(batch, model))
    memory = model.encode(batch.source[:1], batch.source_lengths[:1])
    shares = model.logits(model.decode(batch.target[:1, :1], memory))[0, 0].softmax(dim=0).tolist()
    counts = torch.bincount(fed.target[:, 1], minlength=SIZE).tolist()
    assert sorted(shares)[-3] > 0.02
    for number, share in zip(counts, shares, strict=True):
        assert abs(number - rows * share) <= 5 * math.sqrt(rows * share * (1 - share)) + 1


def test_confidence_does_all_three_things(lively_model, random_batch):
    model, batch = lively_model(), random_batch([(5, 6)] * 60)
    method, context = ScheduledSampling(policy="confidence", **KEYS), context_of(batch, model)
    logits = model.logits(Passes(model, 0.0, model).hidden(batch)).float().log_softmax(dim=-1)
    gold = logits.gather(2, batch.labels[..., None])[:, :-1, 0].exp()
    fed, kept = method.feed(batch, context).target[:, 1:], batch.target[:, 1:]
    low, high = gold <= 0.01, gold > 0.05
    for part in (low, high, ~low & ~high):
        assert part.sum() > 20
    assert torch.equal(fed[low], kept[low])
    assert torch.equal(fed[~low & ~high], logits.argmax(dim=-1)[:, :-1][~low & ~high])
    assert not torch.equal(fed[high], kept[high])
    assert all(token in row for row, places, new in zip(kept, high, fed, strict=True) for token in new[places])
