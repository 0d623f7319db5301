"""Bootstrap, randomisation and Holm's correction against sacrebleu's paired tests, loops and enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from s2s import metrics
from s2s.errors import UserError
from s2s.metrics.bootstrap import (
    approximate_randomisation,
    bootstrap,
    bootstrap_over_seeds,
    compare,
    hierarchical_bootstrap,
    holm,
    mean,
    percentile_interval,
    weighted,
)

WORDS = list("abcdefghijkl")


def texts(sentences, wrong, seed):
    generator = np.random.default_rng(seed)
    references = [" ".join(generator.choice(WORDS, generator.integers(5, 14))) for _ in range(sentences)]
    systems = []
    for rate in wrong:
        noisy = [
            [str(generator.choice(WORDS)) if generator.random() < rate else w for w in r.split()] for r in references
        ]
        systems.append([" ".join(words) for words in noisy])
    return references, systems


def bleu_statistics(hypotheses, references):
    """The sums of sacrebleu for each sentence, and a function of their sum to its own corpus score."""
    bleu = BLEU(force=True)
    rows = np.array(bleu._extract_corpus_statistics(hypotheses, [references]), dtype=float)

    def measure(sums):
        flat = sums.reshape(-1, sums.shape[-1]).astype(int).tolist()
        return np.array([bleu._compute_score_from_stats(row).score for row in flat]).reshape(sums.shape[:-1])

    return rows, measure


def scores(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("wrong", [(0.3, 0.4), (0.3, 0.32)])
def test_the_tests_of_bleu_agree_with_those_of_sacrebleu(wrong):
    references, systems = texts(60, wrong, seed=3)
    (a, measure), (b, _) = (bleu_statistics(system, references) for system in systems)
    named = list(zip("ab", systems, strict=True))
    paired = {
        kind: PairedTest(named, {"BLEU": BLEU(force=True)}, [references], kind, trials)()[1]["BLEU"][1]
        for kind, trials in (("bs", 500), ("ar", 1000))
    }
    ours = approximate_randomisation(a, b, measure, trials=1000)
    assert ours == pytest.approx(paired["ar"].p_value, abs=4 * np.sqrt(0.25 * 2 / 1000))
    # Its p-value of the bootstrap is of another, one-sided kind; the resampled scores are the same.
    interval = bootstrap(b, measure, samples=500)
    assert interval.estimate == pytest.approx(paired["bs"].score)
    assert (interval.high - interval.low) / 2 == pytest.approx(paired["bs"].ci, rel=0.15)


def test_of_means_it_is_the_bootstrap_of_the_metrics():
    a, b = scores(0, 50), scores(1, 50)
    differences, observed = np.subtract(a, b), np.mean(a) - np.mean(b)
    means = differences[np.random.default_rng(7).integers(50, size=(3000, 50))].mean(axis=1)
    p = (1 + int((np.abs(means - observed) >= abs(observed)).sum())) / 3001
    resampled = (observed, *np.quantile(means, [0.025, 0.975]), p)
    assert compare(weighted(a), weighted(b), mean, 3000, seed=7) == pytest.approx(resampled)
    assert metrics.paired_bootstrap(a, b, samples=3000, seed=7) == pytest.approx(resampled)


def test_the_bootstrap_of_few_sentences_is_the_enumeration_of_all_draws():
    values = scores(2, 5)
    every = [np.mean([values[index] for index in drawn]) for drawn in product(range(5), repeat=5)]
    found = bootstrap(weighted(values), mean, samples=40_000)
    assert found.estimate == pytest.approx(values.mean())
    assert found[1:] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.03)


def test_randomisation_of_few_sentences_is_the_enumeration_of_all_exchanges():
    a, b = scores(3, 8) + 0.5, scores(4, 8)
    observed = abs(a.mean() - b.mean())
    every = [abs(np.dot(signs, a - b) / 8) >= observed - 1e-12 for signs in product((-1, 1), repeat=8)]
    found = approximate_randomisation(weighted(a), weighted(b), mean, trials=40_000)
    assert found == pytest.approx(np.mean(every), abs=0.01)


def test_the_bootstrap_over_seeds_draws_seeds_and_sentences():
    # With one sentence's value a = s + n of independent seeds and sentences the variance of the mean is known.
    seeds, sentences = scores(5, 6), scores(6, 40)
    table = seeds[:, None] + sentences
    other = scores(7, 3, 40) * 0
    found = hierarchical_bootstrap(
        np.stack([weighted(row) for row in table]), np.stack([weighted(row) for row in other]), mean, samples=20_000
    )
    spread = np.sqrt(seeds.var() / 6 + sentences.var() / 40)
    assert found.difference == pytest.approx(table.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.06)


@given(st.lists(st.floats(0, 1), max_size=7))
@settings(deadline=None, max_examples=50)
def test_holms_adjusted_values_reject_what_his_steps_reject(p_values):
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
        while left and p_values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_holm_of_an_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    a, b = weighted(scores(0, 30)), weighted(scores(1, 30))
    one, again, other = (compare(a, b, mean, 500, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert approximate_randomisation(a, b, mean, 500, 1) == approximate_randomisation(a, b, mean, 500, 1)


def test_what_has_no_value_counts_for_nothing():
    rows = weighted([1.0, np.nan, 3.0])
    assert float(mean(rows.sum(axis=0))) == 2
    assert percentile_interval([np.nan], 1.0) == (
        1.0,
        pytest.approx(np.nan, nan_ok=True),
        pytest.approx(np.nan, nan_ok=True),
    )


@pytest.mark.parametrize("b", [np.ones((3, 2)), np.ones(4), np.full((4, 2), np.nan)])
def test_what_does_not_pair_is_refused(b):
    for test in (compare, approximate_randomisation):
        with pytest.raises(UserError, match="sentence"):
            test(np.ones((4, 2)), b, mean)


def test_the_interval_over_seeds_is_that_of_a_method_against_nothing():
    seeds = np.random.default_rng(3).normal(1.0, 1.0, (3, 20, 1)) * np.array([1.0, 0.0]) + np.array([0.0, 1.0])
    nothing = np.tile([0.0, 1.0], (1, 20, 1))
    found = bootstrap_over_seeds(seeds, mean, samples=4000, seed=1)
    against = hierarchical_bootstrap(seeds, nothing, mean, samples=4000, seed=2)
    assert found.estimate == pytest.approx(against.difference)
    assert (found.low, found.high) == pytest.approx((against.low, against.high), abs=0.05)
    assert bootstrap_over_seeds(seeds[:1], mean, samples=50, seed=4) == bootstrap(seeds[0], mean, samples=50, seed=4)
