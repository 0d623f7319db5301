"""Laws of the metrics, and their agreement with slow references and other packages."""

import io
import itertools
import random
import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf
from sacrebleu.metrics import BLEU, CHRF

from s2s.errors import UserError
from s2s.metrics import Scores, characters, paired_bootstrap, rouge_l, rouge_l_by_sentence, rouge_n, score, show, words
from s2s.metrics.overlap import bleu, chrf

KEYS = ["rouge_1", "rouge_2", "rouge_l", "rouge_1_char", "rouge_2_char", "rouge_l_char", "bleu", "chrf"]
OTHER_SCORER = RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL"], use_stemmer=False)

# The longer lists pass the size of a machine word.
tokens = st.lists(st.sampled_from("abcd"), max_size=12) | st.lists(st.sampled_from("abcd"), min_size=60, max_size=90)
# The other package knows ASCII letters and digits only, and splits at underscores.
ascii_texts = st.text("abAB12 .,-'", max_size=40)
corpora = st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=5)


def recursive_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + length(i + 1, j + 1)
        return max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


def harmonic_mean(shared: int, first: int, second: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / first, shared / second
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(tokens, tokens)
def test_rouge_l_is_the_f1_of_a_recursive_subsequence(first: list[str], second: list[str]) -> None:
    expected = harmonic_mean(recursive_subsequence(first, second), len(first), len(second))
    assert rouge_l(first, second) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(ascii_texts, ascii_texts)
def test_rouge_agrees_with_another_package(hypothesis: str, reference: str) -> None:
    other = [value.fmeasure for value in OTHER_SCORER.score(reference, hypothesis).values()]
    pair = words(hypothesis), words(reference)
    assert [*(rouge_n(*pair, n) for n in (1, 2, 3)), rouge_l(*pair)] == pytest.approx(other, abs=1e-12)


@settings(deadline=None)
@given(tokens, tokens)
def test_rouge_is_symmetric_and_one_only_for_equals(first: list[str], second: list[str]) -> None:
    assert 0 <= rouge_l(first, second) == rouge_l(second, first) <= rouge_n(first, second, 1) <= 1
    assert (rouge_l(first, second) == 1) == (first == second != [])
    assert rouge_n(first, second, 2) == rouge_n(second, first, 2)


def test_empty_sides_score_zero_and_ngrams_need_a_token() -> None:
    assert [rouge_l([], []), rouge_l(["a"], []), rouge_n([], ["a"], 1), rouge_n(["a"], ["a"], 2)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="at least 1"):
        rouge_n(["a"], ["a"], 0)


def test_thousand_pairs_take_well_under_a_second() -> None:
    generator = random.Random(2)
    vocabulary = [str(number) for number in range(50)]
    pairs = [[generator.choices(vocabulary, k=60) for _ in range(2)] for _ in range(1000)]
    start = time.process_time()
    for first, second in pairs:
        rouge_l(first, second)
    assert time.process_time() - start < 0.8


@settings(deadline=None)
@given(st.text())
def test_characters_leave_out_white_space_only(text: str) -> None:
    assert characters(text) == [character for character in text.lower() if not character.isspace()]


@settings(deadline=None)
@given(corpora)
def test_score_is_made_of_its_parts(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = map(list, zip(*pairs, strict=True))
    values, _ = score(hypotheses, references)
    assert list(values) == KEYS
    assert all(0 <= value <= 100 for value in values.values())
    assert values["bleu"] == pytest.approx(corpus_bleu(hypotheses, [references]).score)
    assert values["chrf"] == pytest.approx(corpus_chrf(hypotheses, [references]).score)
    assert values["rouge_l"] == pytest.approx(rouge_l_by_sentence(hypotheses, references).mean())
    bigrams = [rouge_n(characters(first), characters(second), 2) for first, second in pairs]
    assert values["rouge_2_char"] == pytest.approx(100 * sum(bigrams) / len(pairs))
    unigrams = [rouge_n(words(first), words(second), 1) for first, second in pairs]
    assert values["rouge_1"] == pytest.approx(100 * sum(unigrams) / len(pairs))


@pytest.mark.parametrize(("text", "lang"), [("the cat sat on the mat .", "en"), ("今天天气很好", "zh-TW")])
def test_perfect_texts_score_hundred(text: str, lang: str) -> None:
    assert list(score([text] * 200, [text] * 200, lang).values.values()) == [pytest.approx(100)] * 8
    assert max(score([text] * 200, [text] * 200, lang).values.values()) <= 100


def test_language_chooses_the_tokenizer_of_bleu_alone() -> None:
    hypotheses, references = ["今天天气很好吗"], ["今天天气不好吗"]
    english, chinese = score(hypotheses, references), score(hypotheses, references, "zh")
    differing = {key for key in KEYS if english.values[key] != chinese.values[key]}
    assert differing == {"bleu"}
    assert chinese.values["bleu"] == pytest.approx(corpus_bleu(hypotheses, [references], tokenize="zh").score)
    assert "BLEU|nrefs:1|case:mixed|eff:no|tok:13a|" in english.signature
    assert "BLEU|nrefs:1|case:mixed|eff:no|tok:zh|" in chinese.signature
    assert re.match(r"rouge\|nrefs:1\|case:lc\|tok:words\|.*\|version:s2s-\d", chinese.signature)
    assert "chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:" in chinese.signature


@pytest.mark.parametrize(("lang", "package"), [("ja", "MeCab"), ("ko", "mecab_ko")])
def test_missing_tokenizer_is_named(lang: str, package: str) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=re.escape(f"sacrebleu[{lang}]")) as caught:
        score(["a"], ["a"], lang)
    assert "\n" not in str(caught.value)


def test_tokenised_texts_bring_no_warning(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    score(["a tokenised text ."] * 200, ["a tokenised text ."] * 200)
    assert (caplog.text, capsys.readouterr().err) == ("", "")


@pytest.mark.parametrize("function", [score, rouge_l_by_sentence])
def test_unpaired_or_no_texts_name_both_counts(function: Callable[[list[str], list[str]], object]) -> None:
    with pytest.raises(UserError, match="3 hypotheses and 2 references"):
        function(["a"] * 3, ["a"] * 2)
    with pytest.raises(UserError, match="0 hypotheses and 0 references"):
        function([], [])


def test_scores_are_lines_in_a_pipe_and_a_table_on_a_terminal() -> None:
    scores = Scores({"bleu": 12.345, "chrf": 100.0}, "signature|" * 30)
    pipe, terminal = io.StringIO(), io.StringIO()
    show(scores, Console(file=pipe, width=20, force_terminal=False))
    show(scores, Console(file=terminal, width=40, force_terminal=True))
    assert pipe.getvalue().splitlines() == ["bleu\t12.35", "chrf\t100.00", "signature\t" + scores.signature]
    assert re.search(r"│ bleu +│ +12\.35 │", terminal.getvalue())
    assert scores.signature in terminal.getvalue()


values_of_two = st.integers(2, 30).flatmap(
    lambda count: st.tuples(*[st.lists(st.floats(0, 100), min_size=count, max_size=count)] * 2)
)


@settings(deadline=None)
@given(values_of_two, st.integers(0, 99))
def test_swapping_the_systems_mirrors_the_comparison(pair: tuple[list[float], list[float]], seed: int) -> None:
    forwards = paired_bootstrap(pair[0], pair[1], samples=50, seed=seed)
    backwards = paired_bootstrap(pair[1], pair[0], samples=50, seed=seed)
    mirrored = (-backwards.difference, -backwards.high, -backwards.low, backwards.p)
    assert forwards == pytest.approx(mirrored, abs=1e-9)
    assert forwards.difference == pytest.approx(np.mean(pair[0]) - np.mean(pair[1]), abs=1e-9)
    assert forwards == paired_bootstrap(np.array(pair[0]), np.array(pair[1]), samples=50, seed=seed)


def test_bootstrap_agrees_with_every_resample_there_is() -> None:
    tenths = np.array([3, -1, 1, 2, 0])
    sums = np.array([sum(resample) for resample in itertools.product(tenths, repeat=5)])
    means = sums / 50
    # Many resamples tie with the observed difference; whole numbers compare them exactly.
    extreme = np.abs(sums - tenths.sum()) >= abs(tenths.sum())
    result = paired_bootstrap(tenths / 10, np.zeros(5), samples=40_000)
    assert result.p == pytest.approx(extreme.mean(), abs=0.01)
    assert np.mean(means < result.low - 1e-9) <= 0.03
    assert np.mean(means <= result.low + 1e-9) >= 0.02
    assert np.mean(means > result.high + 1e-9) <= 0.03
    assert np.mean(means >= result.high - 1e-9) >= 0.02


def test_p_is_near_uniform_and_the_interval_covers_where_systems_are_equal() -> None:
    generator = np.random.default_rng(3)
    results = []
    for seed in range(400):
        common = generator.normal(50, 20, size=60)
        a, b = common + generator.exponential(5, 60), common + generator.exponential(5, 60)
        results.append(paired_bootstrap(a, b, samples=400, seed=seed))
    p = np.sort([result.p for result in results])
    assert np.abs(p - np.linspace(0, 1, 400)).max() < 0.1
    assert 0.02 < np.mean(p <= 0.05) < 0.1
    assert 0.9 < np.mean([result.low <= 0 <= result.high for result in results]) < 0.98


def test_clear_differences_have_the_least_p_and_equal_systems_one() -> None:
    generator = np.random.default_rng(4)
    a = generator.uniform(0, 100, 200)
    clear = paired_bootstrap(a + 5 + generator.normal(0, 3, 200), a)
    assert clear.p == pytest.approx(1 / 10_001)
    assert 4 < clear.low < clear.difference < clear.high < 6
    assert paired_bootstrap(a, a) == (0, 0, 0, 1)


def test_seed_decides_the_resamples() -> None:
    a, b = np.random.default_rng(5).uniform(size=(2, 40))
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7) != paired_bootstrap(a, b, seed=8)


def test_many_sentences_are_resampled_in_bounded_memory() -> None:
    a, b = np.random.default_rng(6).uniform(size=(2, 3000))
    tracemalloc.start()
    paired_bootstrap(a, b, samples=3000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20
    many = paired_bootstrap(np.arange(2_000_000.0), np.zeros(2_000_000), samples=3)
    assert many.difference == pytest.approx(999_999.5)


@pytest.mark.parametrize(
    ("a", "b", "samples", "message"),
    [
        ([1.0, 2.0], [1.0], 10, "shapes"),
        ([[1.0, 2.0]], [[1.0, 2.0]], 10, "shapes"),
        ([1.0], [1.0], 10, "at least 2 sentences, not 1"),
        ([], [], 10, "not 0"),
        ([1.0, float("nan")], [1.0, 2.0], 10, "sentence 2"),
        ([1.0, 2.0], [1.0, 2.0], 0, "at least 1 sample"),
    ],
)
def test_bootstrap_refuses_scores_it_cannot_compare(a: list[float], b: list[float], samples: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paired_bootstrap(a, b, samples=samples)


def test_corpus_scores_of_many_sums_are_those_of_sacrebleu():
    metrics, draw = (BLEU(force=True), CHRF()), np.random.default_rng(0)
    for metric in metrics:
        metric.corpus_score(["a"], [["a"]])  # before a first score it has no signature
    rows: tuple[list[list[int]], list[list[int]]] = ([], [])
    for _ in range(2000):
        length = draw.integers(0, 12)  # 0 to 3 words have no 4-grams
        total = np.maximum(length - np.arange(4), 0)
        rows[0].append([length, draw.integers(1, 15), *(draw.integers(0, count + 1) for count in total), *total])
        counts = [draw.integers(0, 8, 2) for _ in range(6)]
        rows[1].append([count for pair in counts for count in (*pair, draw.integers(0, pair.min() + 1))])
    for metric, measure, sums in zip(metrics, (bleu, chrf), rows, strict=True):
        expected = [metric._compute_score_from_stats([int(count) for count in row]).score for row in sums]
        assert measure(np.array(sums, dtype=float)) == pytest.approx(expected, abs=1e-9)
        assert measure(np.array(sums, dtype=float).reshape(2, 1000, -1)).shape == (2, 1000)
