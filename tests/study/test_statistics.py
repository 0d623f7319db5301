"""Differences over seeds and sentences: calibration on simulated studies, and tests that are known in special cases."""

from math import isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import nct
from simulated_studies import MEASURES, SHARES, Design, bleu, draw, grid, rates, studies

from s2s.errors import UserError
from s2s.metrics import bootstrap
from s2s.metrics.bootstrap import mean, weighted
from s2s.study.statistics import (
    Difference,
    Hypothesis,
    compare,
    equivalence,
    family,
    non_inferiority,
    replicate,
    resample,
    subtract,
    superiority,
    t_quantile,
    t_tail,
)

WITH_P = Difference(0.4, -0.1, 0.9, 0.22, 9.3, 0.1, 0.7, (6, 6), 200)
WITHOUT_P = WITH_P._replace(p=None, seeds=(3, 3))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def rows(values):
    return np.stack([weighted(row) for row in values])


QUICK = [
    Design("mean", 5, 0.0, "run"),
    Design("mean", 5, 1.0, "common"),
    Design("mean", 8, 2.0, "variant"),
    Design("ratio", 5, 1.0, "variant"),
]

# A third of the grid that simulated_studies.py prints: each measure with another dominant effect.
PROMISED = [design for design in grid() if (design.measure, design.dominant) in zip(MEASURES, SHARES, strict=True)]


@pytest.mark.parametrize("design", QUICK, ids=str)
def test_a_study_without_an_effect_finds_one_in_a_twentieth_of_cases(design):
    _, significant, covered = rates(design, number=500)
    assert 0.025 <= significant <= 0.075
    assert covered == pytest.approx(1 - significant)


@pytest.mark.slow
@pytest.mark.parametrize("design", PROMISED, ids=str)
def test_of_a_thousand_studies_tests_and_intervals_are_right_to_the_promised_share(design):
    """Without an effect p < 0.05 in at most 6 %; with one, the interval holds it in 93 to 97 %."""
    _, significant, covered = rates(design)
    if not design.effect:
        assert significant <= 0.06
    assert 0.93 <= covered <= 0.97


def analysis_of_variance(first, second):
    """The variance of a difference of means over seeds and sentences, from mean squares of the crossed table."""
    sentences, over_seeds, over_runs = first.shape[1], 0.0, 0.0
    for side in (first, second):
        seeds = len(side)
        residual = side - side.mean(axis=0) - side.mean(axis=1, keepdims=True) + side.mean()
        over_seeds += side.mean(axis=1).var(ddof=1) / seeds
        over_runs += (residual**2).sum() / ((seeds - 1) * (sentences - 1)) / sentences / seeds
    of_sentences = (first.mean(axis=0) - second.mean(axis=0)).var(ddof=1) / sentences
    return over_seeds + max(0.0, of_sentences - over_runs)


@pytest.mark.parametrize("dominant", ["common", "variant", "run"])
def test_the_error_of_a_mean_is_that_of_the_analysis_of_variance(dominant):
    # Few seeds without a spread of their own: the term that is subtracted is then as large as it can be.
    first, second = draw(Design("mean", 6, 0.0, dominant), np.random.default_rng(3))
    first[..., 0] += normal(4, 150)  # an effect on one variant, so that the subtraction stays above 0
    error = compare(first[:2], second[:3], mean, samples=50_000).error
    assert error**2 == pytest.approx(analysis_of_variance(first[:2, :, 0], second[:3, :, 0]), rel=0.02)


def test_with_sentences_that_all_move_with_the_run_it_is_the_test_of_welch():
    """The sentences then say nothing that the run's mean does not."""
    first, second = 0.5 + normal(0, 6), 2 * normal(1, 9)
    welch = stats.ttest_ind(first, second, equal_var=False)
    sides = [rows(np.repeat(side[:, None], 40, axis=1)) for side in (first, second)]
    study = compare(*sides, mean)
    assert (study.estimate, study.p, study.freedom) == pytest.approx(
        (first.mean() - second.mean(), welch.pvalue, welch.df)
    )
    assert (study.low, study.high) == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert study.detectable == pytest.approx(stats.t.ppf([0.975, 0.8], welch.df).sum() * study.error)
    assert study.seeds == (6, 9)
    assert study.sentences == 40


def test_with_runs_that_are_the_same_for_all_seeds_it_is_the_bootstrap_of_sentences():
    a, b = normal(2, 300) + 0.1, normal(3, 300)
    paired = bootstrap.compare(weighted(a), weighted(b), mean, 20_000)
    study = compare(*(rows(np.repeat(x[None], 5, axis=0)) for x in (a, b)), mean, samples=20_000)
    assert study.estimate == pytest.approx(paired.difference)
    assert (study.low, study.high) == pytest.approx((paired.low, paired.high), abs=0.04 * (paired.high - paired.low))
    assert study.p == pytest.approx(paired.p, abs=0.03)
    # And closer, the test of Student for pairs, which knows that the variance is estimated.
    student = stats.ttest_rel(a, b)
    assert study.p == pytest.approx(student.pvalue, abs=0.01)


def test_a_single_run_a_side_has_an_interval_over_sentences_and_no_p():
    a, b = normal(4, 200) + 0.2, normal(5, 200)
    study = compare(rows([a]), rows([b]), mean, samples=20_000)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert study.p is None
    assert (study.low, study.high) == pytest.approx(tuple(interval), abs=0.02 * (interval.high - interval.low))


@pytest.mark.parametrize(("seeds", "tested"), [((4, 8), False), ((5, 5), True), ((8, 4), False), ((1, 6), False)])
def test_fewer_than_five_seeds_have_an_interval_and_no_p(seeds, tested):
    study = compare(*(rows(normal(n, n, 50)) for n in seeds), mean)
    assert (study.p is not None) == tested
    assert study.low < study.estimate < study.high
    assert study.detectable > 0


@pytest.mark.slow
def test_the_detectable_difference_is_found_in_four_of_five_studies():
    """Of studies that have exactly the effect which another study of the design says it could have found."""
    design = Design("mean", 6, 1.0, "variant")
    error = np.sqrt(np.mean([study.error**2 for study in studies(design, 300, seed=1)]))
    freedom = np.median([study.freedom for study in studies(design, 300, seed=1)])
    detectable = (t_quantile(0.975, freedom) + t_quantile(0.8, freedom)) * error
    typical = np.median([study.detectable for study in studies(design, 300, seed=1)])
    assert typical == pytest.approx(detectable, rel=0.05)
    assert rates(design._replace(effect=detectable), number=1500, seed=2).significant == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("freedom", [6.0, 8.0, 15.0, 100.0])
def test_the_power_at_the_detectable_difference_is_four_fifths_by_the_noncentral_t(freedom):
    effect = t_quantile(0.975, freedom) + t_quantile(0.8, freedom)
    assert nct.sf(stats.t.ppf(0.975, freedom), freedom, effect) == pytest.approx(0.8, abs=0.015)


def test_one_sided_tests_are_those_of_the_t_distribution():
    gain, error, freedom = WITH_P.estimate, WITH_P.error, WITH_P.freedom
    assert superiority(WITH_P) == pytest.approx(stats.t.sf(gain / error, freedom))
    assert superiority(WITH_P, "lower") == pytest.approx(stats.t.cdf(gain / error, freedom))
    assert non_inferiority(WITH_P, 0.3) == pytest.approx(stats.t.sf((gain + 0.3) / error, freedom))
    assert non_inferiority(WITH_P, 0.3, "lower") == pytest.approx(stats.t.cdf((gain - 0.3) / error, freedom))


@pytest.mark.parametrize("margin", [0.3, 0.5, 1.5])
def test_equivalence_is_the_larger_p_of_two_one_sided_tests(margin):
    above = stats.t.sf((WITH_P.estimate + margin) / WITH_P.error, WITH_P.freedom)
    below = stats.t.cdf((WITH_P.estimate - margin) / WITH_P.error, WITH_P.freedom)
    assert equivalence(WITH_P, margin) == pytest.approx(max(above, below))
    # At 0.05 it is the question whether the 90 % interval is within the margins.
    reach = t_quantile(0.95, WITH_P.freedom) * WITH_P.error
    within = -margin < WITH_P.estimate - reach and WITH_P.estimate + reach < margin
    assert (equivalence(WITH_P, margin) < 0.05) == within


def test_equivalence_against_the_one_sided_tests_of_scipy():
    first, second = normal(6, 7), normal(7, 8) * 1.5
    study = compare(*(rows(np.repeat(side[:, None], 20, axis=1)) for side in (first, second)), mean)
    sides = [
        stats.ttest_ind(first, second + shift, equal_var=False, alternative=alternative).pvalue
        for shift, alternative in ((-2.0, "greater"), (2.0, "less"))
    ]
    assert equivalence(study, 2.0) == pytest.approx(max(sides))
    assert non_inferiority(study, 2.0) == pytest.approx(sides[0])


def test_a_family_is_corrected_together_and_keeps_hypotheses_without_p():
    verdicts = family(
        [
            Hypothesis("chrf", WITH_P._replace(p=0.01)),
            Hypothesis("bleu", WITHOUT_P),
            Hypothesis("repetition", WITH_P, "non_inferiority", 0.5, "lower"),
            Hypothesis("clean", WITH_P, "equivalence", 1.5),
        ]
    )
    assert [verdict.name for verdict in verdicts] == ["chrf", "bleu", "repetition", "clean"]
    ps = [0.01, 1.0, non_inferiority(WITH_P, 0.5, "lower"), equivalence(WITH_P, 1.5)]
    assert [verdict.p for verdict in verdicts] == [ps[0], None, ps[2], ps[3]]
    adjusted = bootstrap.holm(ps)
    assert [verdict.adjusted for verdict in verdicts] == [adjusted[0], None, adjusted[2], adjusted[3]]
    assert adjusted[0] == pytest.approx(0.03)  # of four, with the smaller p of the equivalence before it


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "better"}, "chrf: a hypothesis is of no kind better; valid: difference, equivalence"),
        ({"kind": "superiority", "margin": 0.1}, "chrf: superiority has no margin; non_inferiority and equivalence"),
        ({"kind": "equivalence"}, "equivalence needs a margin above 0, not 0"),
        ({"kind": "non_inferiority", "margin": -1.0}, "a margin is at least 0, not -1"),
        ({"kind": "superiority", "better": "neither"}, "a direction is higher or lower, not neither"),
    ],
)
def test_a_hypothesis_that_cannot_be_tested_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        family([Hypothesis("chrf", WITH_P, **wrong)])


@pytest.mark.parametrize("seeds", [1, 5])
def test_variants_that_are_identical_do_not_differ(seeds):
    side = rows(np.repeat(normal(8, 1, 50), seeds, axis=0))
    study = compare(side, side, mean)
    assert study[:4] == (0, 0, 0, 0)
    assert study.detectable == 0
    assert study.p == (1.0 if seeds >= 5 else None)
    assert equivalence(study, 0.1) == (0.0 if seeds >= 5 else None)
    assert superiority(study) == (1.0 if seeds >= 5 else None)


def test_rounding_is_no_difference():
    """The same text for all seeds: means of 5 and of 7 equal numbers may differ in their last bit."""
    text = normal(9, 1, 50) / 3 + 0.1
    study = compare(*(rows(np.repeat(text, seeds, axis=0)) for seeds in (5, 7)), mean)
    assert (study.estimate, study.error, study.p) == (0, 0, 1)
    assert compare(*(rows(np.repeat(text, 5, axis=0) + move) for move in (0.1, 0.0)), mean).p < 1e-12


def test_the_same_runs_in_another_order_do_not_differ():
    side = rows(normal(10, 6, 50))
    study = compare(side, side[::-1], mean)
    assert study.estimate == pytest.approx(0, abs=1e-12)
    assert study.p == pytest.approx(1)


def test_too_few_sentences_have_an_estimate_alone():
    study = compare(rows(normal(11, 5, 9)), rows(normal(12, 5, 9)), mean)
    assert study[1:] == (*[None] * 6, (5, 5), 9)
    assert isclose(study.estimate, normal(11, 5, 9).mean() - normal(12, 5, 9).mean())
    assert family([Hypothesis("a", study)])[0].p is None


def test_sentences_without_a_value_do_not_count():
    values = normal(13, 5, 30)
    padded = np.concatenate([values, np.full((5, 70), np.nan)], axis=1)
    few, more = (compare(rows(v), rows(v[::-1] * 2), mean, samples=20_000) for v in (values, padded))
    assert more.sentences == few.sentences == 30
    assert more.error == pytest.approx(few.error, rel=0.1)


def test_a_measure_without_a_value_has_no_interval():
    study = compare(np.zeros((5, 30, 2)), rows(normal(14, 5, 30)), mean)
    assert np.isnan(study.estimate)
    assert study[1:7] == (None,) * 6


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((5, 30, 2)), np.ones((5, 31, 2)), r"of the same sentences, not \(5, 30, 2\) and \(5, 31, 2\)"),
        (np.ones((5, 30, 2)), np.ones((5, 30, 3)), r"of the same sentences, not \(5, 30, 2\) and \(5, 30, 3\)"),
        (np.ones((30, 2)), np.ones((30, 2)), r"statistics \[seeds, sentences, sums\]"),
        (np.ones((0, 30, 2)), np.ones((5, 30, 2)), r"not of shape \(0, 30, 2\)"),
    ],
)
def test_statistics_of_other_shapes_are_refused(first, second, message):
    with pytest.raises(UserError, match=message):
        compare(first, second, mean)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sums_that_are_not_finite_are_refused_by_their_place(value):
    broken = np.ones((5, 30, 2))
    broken[2, 17, 1] = value
    with pytest.raises(UserError, match="sentence 18 of seed 3 has a sum that is not finite"):
        compare(np.ones((5, 30, 2)), broken, mean)


def test_draws_of_other_sentences_are_refused():
    with pytest.raises(UserError, match="the draws are of 20 sentences, and the statistics of 30"):
        compare(np.ones((5, 30, 2)), np.ones((5, 30, 2)), mean, counts=resample(20))
    with pytest.raises(UserError, match="needs a sentence and 2 samples, not 20 and 1"):
        resample(20, samples=1)


def test_draws_and_replicates_may_be_shared():
    """And the draws are those of the other bootstraps: of the seed and the number of sentences alone."""
    first, second = draw(Design("bleu", 5, 1.0, "run"), np.random.default_rng(0))
    counts = resample(150, 2000, seed=3)
    shared = subtract(*(replicate(side, bleu, counts) for side in (first, second)))
    assert shared == compare(first, second, bleu, 2000, seed=3) == compare(first, second, bleu, counts=counts)
    assert shared != compare(first, second, bleu, 2000, seed=4)
    interval = bootstrap.bootstrap(first[0], bleu, 2000, seed=3)
    assert np.quantile(replicate(first, bleu, counts).drawn[:, 0], 0.975) == pytest.approx(interval.high)


def test_the_order_of_the_variants_only_turns_the_sign():
    first, second = draw(Design("bleu", 5, 1.0, "run"), np.random.default_rng(0))
    ahead, back = compare(first[:3], second, bleu), compare(second, first[:3], bleu)
    assert (back.estimate, back.low, back.high) == pytest.approx((-ahead.estimate, -ahead.high, -ahead.low))
    assert back.error == pytest.approx(ahead.error)


@settings(deadline=None)
@given(t=st.floats(-40, 40), freedom=st.floats(1, 1e4))
def test_the_tail_of_t_is_that_of_scipy(t, freedom):
    assert t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-8, abs=1e-300)


@settings(deadline=None)
@given(probability=st.floats(0.5, 0.9999), freedom=st.floats(1, 1e4))
def test_the_quantile_of_t_is_that_of_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-8, abs=1e-9)
