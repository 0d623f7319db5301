"""Samples: their frequencies against enumerated probabilities, their independence of the batch, filters by loops."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, outputs, random_table, total_of

from s2s.search import sample_search
from s2s.search.truncation import Epsilon, Eta, MinP, TopK, TopP, Typical

few = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32)
MANY = 4000


def top_k(count):
    return lambda row: sorted(row, key=lambda token: -row[token])[:count]


def leading(order, row, mass):
    kept, have = [], 0.0
    for token in order:
        if kept and have >= mass:
            break
        kept.append(token)
        have += row[token]
    return kept


def top_p(mass):
    return lambda row: leading(sorted(row, key=lambda token: -row[token]), row, mass)


def entropy(row):
    return -sum(value * math.log(value) for value in row.values())


def typical(mass):
    return lambda row: leading(sorted(row, key=lambda token: abs(-math.log(row[token]) - entropy(row))), row, mass)


def at_least(threshold):
    return lambda row: [token for token in row if row[token] >= threshold(row) or token == top_k(1)(row)[0]]


def eta(cutoff):
    return at_least(lambda row: min(cutoff, math.sqrt(cutoff) * math.exp(-entropy(row))))


SHARES = st.floats(0.02, 0.98)
FILTERS = st.one_of(
    st.integers(1, 4).map(lambda count: (TopK(count), top_k(count))),
    SHARES.map(lambda mass: (TopP(mass), top_p(mass))),
    SHARES.map(lambda mass: (Typical(mass), typical(mass))),
    SHARES.map(lambda share: (MinP(share), at_least(lambda row: share * max(row.values())))),
    SHARES.map(lambda cutoff: (Epsilon(cutoff), at_least(lambda _: cutoff))),
    SHARES.map(lambda cutoff: (Eta(cutoff), eta(cutoff))),
)


def filtered(log_probs, temperature, plains):
    """The distribution after temperature and filters, as a dictionary of what is left."""
    row = {token: math.exp(value / temperature) for token, value in enumerate(log_probs) if value > -math.inf}
    for plain in [list, *plains]:
        left = plain(row)
        row = {token: row[token] / sum(row[other] for other in left) for token in left}
    return row


@given(seed=SEEDS, pairs=st.lists(FILTERS, max_size=3), temperature=st.floats(0.3, 3))
@few
def test_filters_keep_what_the_loops_keep_in_any_combination(seed, pairs, temperature):
    table = random_table(seed, 6)
    rows = [table(name, ()) for name in range(4)]
    found = (torch.tensor(rows, dtype=torch.float64) / temperature).log_softmax(dim=1)
    for cut, _ in pairs:
        found = cut(found).log_softmax(dim=1)
    for row, values in zip(rows, found.exp().tolist(), strict=True):
        wanted = filtered(row, temperature, [plain for _, plain in pairs])
        assert values == pytest.approx([wanted.get(token, 0.0) for token in range(6)], abs=1e-9)


def exact(row, cut):
    """Which of the tokens stay, in fractions, where nothing is rounded."""
    shares = [Fraction(text) for text in row]
    by_size = sorted(range(len(row)), key=lambda token: -shares[token])
    if isinstance(cut, TopP):
        return {token for place, token in enumerate(by_size)
                if place == 0 or sum(shares[other] for other in by_size[:place]) < Fraction(str(cut.mass))}  # fmt: skip
    least = Fraction(str(cut.share)) * max(shares) if isinstance(cut, MinP) else Fraction(str(cut.cutoff))
    return {token for token in by_size if shares[token] >= least} | {by_size[0]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", ["5 3 1 1", "1 3 5 1", "4 3 2 1", "7 1 1 1", "1 1 1 1 1 1 1 1 1 1", "6 4", "8 2 0"])
@pytest.mark.parametrize("kind", [TopP, MinP, Epsilon])
def test_a_bound_that_is_met_to_the_last_bit_is_met(row, kind, dtype):
    """Of tenths, every bound in tenths: masses that the first tokens have, and thresholds that some have."""
    tenths = [f"0.{text}" for text in row.split()]
    table = torch.tensor([[float(text) for text in tenths]], dtype=dtype).log().log_softmax(dim=1)
    for bound in range(1, 10):
        cut = kind(bound / 10)
        kept = (cut(table)[0] > -math.inf).nonzero()[:, 0].tolist()
        if kind is not TopP and "0" in row.split():
            kept = [token for token in kept if table[0, token] > -math.inf]
        assert set(kept) == exact(tenths, cut), bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [TopP(1.0), Typical(1.0)])
def test_a_mass_of_1_keeps_every_token(cut, dtype):
    table = torch.linspace(0, -40, 5000, dtype=dtype)[None].log_softmax(dim=1)
    assert torch.equal(cut(table), table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mass_is_met_among_many_tokens(dtype):
    """A running sum of 50,000 float32 numbers would be off by more than a token's share."""
    for width in (1000, 32_000, 50_000):
        table = torch.zeros(1, width, dtype=dtype).log_softmax(dim=1)
        for cut in (TopP(0.5), Typical(0.5)):
            assert int((cut(table) > -math.inf).sum()) == width // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eta_s_bound_is_met_by_a_uniform_distribution(dtype):
    """sqrt(e) exp(-entropy) is 1 / 4 of 4 tokens where e is 1."""
    table = torch.zeros(1, 4, dtype=dtype).log_softmax(dim=1)
    assert (Eta(1.0)(table) > -math.inf).all()


@pytest.mark.parametrize("cut", [TopK(2), TopP(0.5), MinP(1.0), TopK(1)])
def test_of_equally_likely_tokens_the_first_are_kept(cut):
    kept = (cut(torch.full((1, 4), 0.25).log()) > -math.inf)[0].tolist()
    assert kept == {TopK(2): [True, True, False, False], TopP(0.5): [True, True, False, False]}.get(
        cut, [True] * 4 if cut == MinP(1.0) else [True, False, False, False]
    )


@pytest.mark.parametrize(
    ("temperature", "pairs"),
    [(1.0, []), (0.6, []), (1.7, [(TopP(0.8), top_p(0.8))]), (1.0, [(Epsilon(0.1), at_least(lambda _: 0.1))])],
)
def test_samples_come_as_often_as_their_probabilities_say(temperature, pairs):
    vocabulary, longest, table = 3, 3, random_table(5, 3, impossible=0.0, power=1)
    cuts, plains = [cut for cut, _ in pairs], [plain for _, plain in pairs]

    def drawn_from(name, prefix):
        row = filtered(table(name, prefix), temperature, plains)
        return [math.log(row[token]) if token in row else -math.inf for token in range(vocabulary)]

    found = sample_search(TableScorer(table, range(2)), MANY, longest, [11, 12], temperature, cuts)
    for name, samples in enumerate(found):
        counts = Counter(tuple(sample.tokens) for sample in samples)
        statistic, cells = 0.0, 0
        for output in outputs(vocabulary, longest):
            expected = MANY * math.exp(total_of(drawn_from, name, output))
            count = counts.pop(tuple(token for token in output if token), 0)
            assert expected or not count
            if expected >= 5:
                statistic, cells = statistic + (count - expected) ** 2 / expected, cells + 1
        assert not counts
        # Wilson and Hilferty's normal approximation, at five standard deviations.
        freedom = cells - 1
        assert freedom >= 2
        assert (statistic / freedom) ** (1 / 3) < 1 - 2 / (9 * freedom) + 5 * math.sqrt(2 / (9 * freedom))


@given(seed=SEEDS)
@few
def test_scores_are_those_of_the_scorer_and_of_what_was_drawn_from(seed):
    table, cuts, plains = random_table(seed, 5), [TopK(3), MinP(0.2)], [top_k(3), None]
    plains[1] = at_least(lambda row: 0.2 * max(row.values()))
    for name, samples in enumerate(sample_search(TableScorer(table, range(3)), 4, 5, [seed, 1, 2], 1.3, cuts)):
        for tokens, score, proposal in samples:
            output = tuple(tokens) if len(tokens) == 5 else (*tokens, 0)
            steps = [filtered(table(name, output[:at]), 1.3, plains)[token] for at, token in enumerate(output)]
            assert score == pytest.approx(total_of(table, name, output))
            assert proposal == pytest.approx(math.log(math.prod(steps)))


@given(seed=SEEDS)
@few
def test_the_batch_its_order_more_samples_and_greater_lengths_change_nothing(seed):
    chance, table = random.Random(seed), random_table(seed, 4)
    names = chance.sample(range(6), chance.randint(1, 6))
    longest = {name: chance.randint(0, 6) for name in range(6)}
    samples = chance.randint(1, 4)
    found = sample_search(
        TableScorer(table, names), samples, [longest[name] for name in names], [seed + name for name in names]
    )
    for name, together in zip(names, found, strict=True):
        [alone] = sample_search(TableScorer(table, [name]), samples + 2, longest[name], [seed + name])
        assert together == alone[:samples]
        [longer] = sample_search(TableScorer(table, [name]), samples, longest[name] + 3, [seed + name])
        assert [sample.tokens[: longest[name]] for sample in longer] == [sample.tokens for sample in together]


def test_samples_of_one_source_and_of_seeds_differ():
    table = random_table(0, 6, impossible=0.0, power=1)
    first, second = sample_search(TableScorer(table, [0, 0]), 20, 12, [1, 2])
    assert len({tuple(sample.tokens) for sample in first + second}) > 20
    assert sample_search(TableScorer(table, [0]), 20, 12, [1]) == [first]


@pytest.mark.parametrize(
    ("samples", "temperature", "seeds", "message"), [(0, 1.0, [1], "0"), (1, 0.0, [1], "0.0"), (1, 1.0, [], "seeds")]
)
def test_what_makes_no_sense_is_refused(samples, temperature, seeds, message):
    with pytest.raises(ValueError, match=message):
        sample_search(TableScorer(random_table(0, 3), [0]), samples, 3, seeds, temperature)


def test_a_source_without_a_possible_token_gets_no_sample_and_nan_is_refused():
    assert sample_search(TableScorer(lambda *_: [-math.inf, -math.inf], [0]), 1, 3, [0]) == [[]]
    with pytest.raises(ValueError, match="NaN"):
        sample_search(TableScorer(lambda *_: [math.nan, math.nan], [0]), 1, 3, [0])


@pytest.mark.parametrize("make", [TopP, MinP, Typical, Epsilon, Eta, TopK])
def test_filters_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match="not"):
        make(0)
