"""Metrics of one text: their range, their best value, their peers, and how they are named."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import sentence_bleu, sentence_chrf

from s2s.errors import UserError
from s2s.metrics import rouge_l, rouge_n, words
from s2s.metrics.sentence import METRICS, check_metric, sentence_metric

TEXTS = st.text("abc é東京.,-", max_size=25) | st.text(max_size=25)
WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "東", "x1"]), min_size=1, max_size=8).map(" ".join)
few = settings(deadline=None, max_examples=60)
names = pytest.mark.parametrize("name", sorted(METRICS))


def half(hypothesis: str, reference: str) -> float:
    return len(hypothesis) / (len(hypothesis) + len(reference) + 1)


@names
@given(hypothesis=TEXTS, reference=TEXTS)
@few
def test_a_metric_lies_between_0_and_1_and_remembers_nothing(name: str, hypothesis: str, reference: str) -> None:
    metric = sentence_metric(name)
    value = metric(hypothesis, reference)
    assert isinstance(value, float)
    assert 0 <= value <= 1
    metric(reference, hypothesis)
    assert metric(hypothesis, reference) == value == sentence_metric(name)(hypothesis, reference)


@names
@given(text=WORDS)
@few
def test_the_reference_itself_is_worth_1_and_nothing_is_worth_0(name: str, text: str) -> None:
    metric = sentence_metric(name)
    perfect = metric(text, text)
    assert perfect == pytest.approx(1.0, rel=1e-12) or (name == "rouge_2" and len(words(text)) == 1)
    assert metric("", text) == 0
    assert metric("zz qq", text) < 0.35
    assert metric(text + " zz", text) < max(perfect, 1e-9)


@given(hypothesis=TEXTS, reference=TEXTS)
@few
def test_chrf_is_sacrebleu_s(hypothesis: str, reference: str) -> None:
    expected = sentence_chrf(hypothesis, [reference]).score / 100
    assert sentence_metric("chrf")(hypothesis, reference) == pytest.approx(expected, abs=1e-12)


@given(hypothesis=WORDS, reference=WORDS)
@few
def test_bleu_is_sacrebleu_s_over_words(hypothesis: str, reference: str) -> None:
    spaced = (" ".join(text.replace("東", " 東 ").split()) for text in (hypothesis, reference))
    first, second = spaced
    expected = sentence_bleu(first, [second], tokenize="none", use_effective_order=True).score / 100
    assert sentence_metric("bleu")(hypothesis, reference) == pytest.approx(expected, abs=1e-12)


@given(hypothesis=TEXTS, reference=TEXTS)
@few
def test_rouge_is_that_of_the_evaluation(hypothesis: str, reference: str) -> None:
    ours, theirs = words(hypothesis), words(reference)
    letters = [list("".join(text.lower().split())) for text in (hypothesis, reference)]
    expected = {"rouge_1": rouge_n(ours, theirs, 1), "rouge_2": rouge_n(ours, theirs, 2),
                "rouge_l": rouge_l(ours, theirs), "rouge_l_char": rouge_l(*letters)}  # fmt: skip
    assert {name: sentence_metric(name)(hypothesis, reference) for name in expected} == expected


def test_a_function_of_one_s_own_is_found_by_its_place() -> None:
    assert sentence_metric(f"{__name__}:half")("abc", "") == half("abc", "") == 3 / 4
    assert sentence_metric("math:fmod") is math.fmod


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chrff", r"^metric: no 'chrff'; did you mean 'chrf'\?, or module:function$"),
        ("rouge_l_chars", r"^metric: no 'rouge_l_chars'; did you mean 'rouge_l_char'"),
        ("", r"^metric: no ''; valid: bleu, chrf, "),
        ("no_such_module:f", r"^metric: 'no_such_module:f' cannot be imported: .*no_such_module"),
        ("math:no_such_function", r"^metric: 'math:no_such_function' cannot be imported: .*no_such_function"),
        (":f", r"^metric: ':f' cannot be imported"),
        (".relative:f", r"^metric: '\.relative:f' cannot be imported"),
        ("math:pi", r"^metric: 'math:pi' is no function"),
    ],
)
def test_what_is_no_metric_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sentence_metric(name)
    if ":" in name:
        check_metric(name)  # what a recipe checks imports nothing
    else:
        with pytest.raises(UserError, match=message):
            check_metric(name)
