"""The published table's metrics: what rouge 1.0.0 gave, and what NLTK gives."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.metrics import method1_bleu, published_bleu, published_rouge, published_score, score
from s2s.metrics.published import spaced

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

# Runs of the package rouge 1.0.0: tokens between blanks, then ROUGE-1, ROUGE-2 and ROUGE-L.
TOKENS = [
    ("a b a b a b", "a b", 0.499999996, 0.333333331, 0.999999995),
    ("a a a b", "a a b b", 0.749999995, 0.666666662, 0.999999995),
    ("a a a a", "a b c d", 0.249999995, 0.0, 0.399999997),
]
# The same of texts whose characters were set apart: full stops, blanks, repetition, and subsequences of which there
# are several as long with other tokens.
TEXTS = [
    ("基于深度学习的图像分类方法研究", "深度学习的图像分类研究", 0.846153841, 0.749999995, 0.846153841),
    ("A. B.A", "a.b a", 0.999999995, 0.999999995, 0.999999995),
    ("小波 变换", "小波变换及其应用", 0.666666662, 0.599999996, 0.666666662),
    ("ab..ba", "a.bab", 0.888888884, 0.571428567, 0.799999995),
    ("结构结构结构", "结构的结构", 0.727272722, 0.44444444, 0.799999995),
    ("BCBCAA", "CBBAA", 0.909090904, 0.44444444, 0.666666662),
    ("CBBBAC", "BCBCBA", 0.999999995, 0.399999995, 0.999999995),
    ("ACBCAA", "AAAACB", 0.833333328, 0.599999995, 0.999999995),
]
texts = st.text(st.sampled_from("abAB .　中,"), max_size=14)


@pytest.mark.parametrize(("hypothesis", "reference", "first", "second", "longest"), TOKENS)
def test_rouge_is_that_of_the_package(
    hypothesis: str, reference: str, first: float, second: float, longest: float
) -> None:
    assert published_rouge(hypothesis, reference) == pytest.approx((first, second, longest), abs=2e-9)


@pytest.mark.parametrize(("hypothesis", "reference", "first", "second", "longest"), TEXTS)
def test_rouge_of_characters_is_that_of_the_package(
    hypothesis: str, reference: str, first: float, second: float, longest: float
) -> None:
    found = published_rouge(spaced(hypothesis), spaced(reference))
    assert found == pytest.approx((first, second, longest), abs=2e-9)


@settings(deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_bleu_is_that_of_nltk(hypothesis: str, references: list[str]) -> None:
    ours, theirs = spaced(hypothesis).split(" "), [spaced(reference).split(" ") for reference in references]
    expected = sentence_bleu(theirs, ours, smoothing_function=SmoothingFunction().method1)
    assert method1_bleu(ours, theirs) == pytest.approx(expected, abs=1e-12)
    assert published_bleu(hypothesis, references) == pytest.approx(expected if hypothesis.strip() else 0, abs=1e-12)


@pytest.mark.parametrize("empty", ["", " ", "　"])
def test_empty_predictions_score_zero(empty: str) -> None:
    assert set(published_score([empty], ["题 目"]).values.values()) == {0.0}


def test_a_text_of_full_stops_scores_nothing_where_the_package_fails() -> None:
    assert published_rouge("..", "a") == (0, 0, 0)
    assert published_rouge("a", "") == (0, 0, 0)


def test_the_table_s_columns_are_means_over_texts_under_their_own_names() -> None:
    hypotheses, references = [text[0] for text in TEXTS], [text[1] for text in TEXTS]
    values, signature = published_score(hypotheses, references)
    assert list(values) == ["published_rouge_l", "published_rouge_1", "published_rouge_2", "published_bleu"]
    for name, column in (("l", 4), ("1", 2), ("2", 3)):
        assert values[f"published_rouge_{name}"] == pytest.approx(12.5 * sum(row[column] for row in TEXTS), abs=1e-6)
    bleus = [published_bleu(ours, [theirs]) for ours, theirs in zip(hypotheses, references, strict=True)]
    assert values["published_bleu"] == pytest.approx(12.5 * sum(bleus))
    assert "like:rouge-1.0.0|l:unique-tokens" in signature
    assert "smooth:method1" in signature


def test_the_published_rouge_l_does_not_see_repetition_and_the_correct_one_does() -> None:
    repeated, reference = ["题目题目题目"], ["题目"]
    assert published_score(repeated, reference).values["published_rouge_l"] == pytest.approx(100)
    assert score(repeated, reference).values["rouge_l_char"] == pytest.approx(50)


def test_unpaired_texts_are_refused() -> None:
    with pytest.raises(UserError, match="2 hypotheses and 1 references"):
        published_score(["a", "b"], ["a"])
