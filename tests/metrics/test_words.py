"""Words of texts in any script against a scan by hand; all scores of words use them."""

import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu import corpus_bleu

from s2s.metrics import score, words
from s2s.metrics.generated import repetition_statistics, transport_statistics
from s2s.metrics.overlap import measured
from s2s.metrics.sentence import METRICS, sentence_metric
from s2s.search.mbr import aggregate_bayes_risk

SOUTH_EAST = r"^(THAI|LAO|MYANMAR|KHMER|TAI LE|NEW TAI LUE|TAI THAM|TAI VIET|AHOM) "


def stands_alone(character: str) -> bool:
    name = unicodedata.name(character, "")
    names = rf"IDEOGRAPH|GANA |KATAKANA|KANA REPEAT|HANGUL SYLLABLE|{SOUTH_EAST}"
    is_unspaced = re.search(names, name) is not None
    return is_unspaced and unicodedata.category(character) in {"Lo", "Lm", "Nl"}


def test_unspaced_scripts_are_words_of_one_character_in_all_of_unicode() -> None:
    letters = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if chr(code).isalnum() and chr(code).lower() == chr(code) == unicodedata.normalize("NFC", chr(code))
    ]
    letters = [letter for letter in letters if not is_mark(letter)]
    alone = {letter for letter in letters if words(letter * 2) == [letter, letter]}
    assert alone == {letter for letter in letters if stands_alone(letter)}
    assert all(words(letter * 2) == [letter * 2] for letter in letters if letter not in alone)


def is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or character in "\u0e33\u0eb3\uff9e\uff9f"


def scanned(text: str) -> list[str]:
    """Scan words a character at a time: a letter opens or continues one, a mark continues it, a joiner waits."""
    found, waiting, open_kind = [], "", None  # the kind of the word that may continue: of one character, or of many
    for character in unicodedata.normalize("NFC", text.lower()):
        name = unicodedata.name(character, "")
        if "VARIATION SELECTOR" in name or character == "\u20e3":
            continue
        if character in "\u200c\u200d":
            waiting += character
            continue
        is_word = character.isalnum() or character == "_"
        if is_mark(character) and open_kind:
            found[-1] += waiting + character
        elif is_word and stands_alone(character):
            if open_kind == "one" and not waiting and found[-1][-1] in "\u1039\u17d2\u1a60":
                found[-1] += character
            else:
                found.append(character)
            open_kind = "one"
        elif is_word and open_kind == "many":
            found[-1] += waiting + character
        elif is_word:
            below = open_kind == "one" and not waiting and found[-1][-1] in "\u1039\u17d2\u1a60"
            found[-1:] = [found[-1] + character] if below else [*found[-1:], character]
            open_kind = "one" if below or is_mark(character) else "many"
        else:
            open_kind = None
        waiting = ""
    return found


SCRIPTS = (
    "aZ_ 中かカｶﾞﾟ가・ー々.é\u0301\u0308नमस्ते१\u200d\u200cمُحَمَّد\u064bकि ภาษาไทยกำ๒ ລາວຄຳ ខ្មែរ មြန်မာစာ က္က\u3099"
    "😀👍🏽👩\u200d\ufe0f1\u20e3שָׁל한\u1100\u1161\u11a8"
)


@settings(deadline=None, max_examples=400)
@given(st.text(st.one_of(st.characters(), st.sampled_from(SCRIPTS), st.sampled_from(SCRIPTS)), max_size=20))
@example("ก\u200dา")
@example("က္1")
def test_words_are_those_scanned_by_hand(text: str) -> None:
    assert words(text) == scanned(text)


@settings(deadline=None, max_examples=300)
@given(st.text(st.one_of(st.characters(), st.sampled_from(SCRIPTS)), max_size=20))
def test_an_accent_is_the_same_however_it_is_typed(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert words(forms[0]) == words(forms[1]) == words(text)
    assert score([forms[0] + " x"], [forms[1] + " x"], "zh").values["chrf"] == pytest.approx(100)


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_english_is_cut_as_python_cuts_it(text: str) -> None:
    assert words(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("मेरी बेटी", ["मेरी", "बेटी"]),
        ("مُحَمَّد كَتَبَ", ["مُحَمَّد", "كَتَبَ"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("নিয়ে যা", ["নিয়ে", "যা"]),
        ("தமிழ் நூல்", ["தமிழ்", "நூல்"]),
        ("ภาษา ๒๕๖๗", ["ภ", "า", "ษ", "า", "๒๕๖๗"]),
        ("កម្ពុជា", ["ក", "ម្ពុ", "ជា"]),
        ("e\u0301te\u0301 \u212b", ["été", "å"]),
        ("\u1112\u1161\u11ab", ["한"]),
        ("か\u3099 か\u309a", ["が", "か\u309a"]),
        ("ｶﾞｷﾞ ﾊﾟ", ["ｶﾞ", "ｷﾞ", "ﾊﾟ"]),
        ("한국어 배우기", ["한", "국", "어", "배", "우", "기"]),
        ("葛\U000e0100", ["葛"]),
        ("great 👩\u200d👩\u200d👧 day 👍🏽 1\ufe0f\u20e3 ❤\ufe0f", ["great", "day", "1"]),
        ("\u0301 \u200d \u0903", []),
    ],
)
def test_words_of_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == [unicodedata.normalize("NFC", word) for word in expected]


@pytest.mark.parametrize(
    ("first", "second"),
    [("मेरी बेटी", "मारा बाटा"), ("كَتَبَ", "كُتُبٌ"), ("ที่", "ทู่"), ("ກິນ ເຂົ້າ", "ກຸນ ເຂັ້າ"), ("កិ", "កី"), ("מֶלֶךְ", "מָלַךְ"),
     ("நீ", "நா"), ("か\u309a", "か")],
)  # fmt: skip
def test_texts_that_differ_in_their_marks_are_not_the_same(first: str, second: str) -> None:
    """In every score that is made of words: of evaluation, of rewards and utilities, of copying and repetition."""
    values = score([first], [second]).values
    assert all(values[f"rouge_{kind}"] < 100 for kind in "1l")
    for name in ("rouge_1", "rouge_l", "bleu"):
        assert sentence_metric(name)(first, second) < 1 == sentence_metric(name)(first, first)
    copied = measured(repetition_statistics([f"{first} {first}"], [first], [f"{second} {second}"]))
    assert copied["copy_2"] < 100


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("text", ["été à Noël déjà", "nâo Ångström ñandú très", "が ぎ ぐ げ ご", "한국어 배우기 쉽다"])
def test_a_metric_reads_two_encodings_of_a_text_as_one(name: str, text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    assert sentence_metric(name)(*forms) == pytest.approx(1)
    assert aggregate_bayes_risk(forms).utilities == pytest.approx([1, 1])


@pytest.mark.parametrize("lang", ["th", "lo", "km-KH", "my", "tha", "bo_CN"])
def test_bleu_of_a_script_without_blanks_is_of_characters(lang: str) -> None:
    hypotheses, references = ["กขคงจ ฉช"], ["กขคงจ ฉซ"]
    found = score(hypotheses, references, lang)
    assert found.values["bleu"] == pytest.approx(corpus_bleu(hypotheses, [references], tokenize="char").score)
    assert "|tok:char|" in found.signature


@pytest.mark.parametrize("lang", ["zh", "zh-TW", "yue", "cmn_Hans", "zho"])
def test_bleu_of_every_chinese_is_of_sacrebleu_s_chinese(lang: str) -> None:
    assert "|tok:zh|" in score(["今天天气很好"], ["今天天气很好"], lang).signature


def test_distances_read_two_encodings_of_a_text_as_one() -> None:
    seen: list[str] = []

    def embed(text: str) -> np.ndarray:
        seen.append(text)
        return np.ones((1, 2))

    pytest.importorskip("ot")
    transport_statistics([unicodedata.normalize("NFD", "été")], ["été"], embed)
    assert set(seen) == {"été"}
