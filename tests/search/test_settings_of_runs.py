"""What the keys of ``search:`` do to the texts of a run."""

from itertools import pairwise
from pathlib import Path

import pytest

import s2s
from s2s.errors import UserError
from s2s.runs.run import Run
from s2s.search.methods.beam import SearchSettings

TEXTS = ["a b c d e", "b a", "j i h"]


@pytest.fixture(scope="module")
def run(tiny_folder: Path) -> Run:
    return s2s.load(tiny_folder)


def best(run: Run, **search: object) -> list[tuple[list[int], float]]:
    return [(found[0].tokens, found[0].score) for found in run.generate(TEXTS, beams=4, **({"max_length": 9} | search))]


def test_lengths_cost_what_the_key_says(run: Run) -> None:
    plain = best(run, min_length=9)  # all of one length, so that no cost changes which is best
    rewarded, normalised = best(run, min_length=9, word_reward=5.0), best(run, min_length=9, translation_alpha=0.7)
    for (tokens, total), (_, more), (_, score) in zip(plain, rewarded, normalised, strict=True):
        assert len(tokens) == 9
        assert more == pytest.approx(total + 5.0 * 9, rel=1e-4)
        assert score == pytest.approx(total / ((5 + 9) / 6) ** 0.7, rel=1e-4)


@pytest.mark.parametrize("none", [{"translation_alpha": 0.0}, {"word_reward": 0.0}])
@pytest.mark.parametrize("given", [{"length_penalty": 0.5}, {"word_reward": 5.0}, {"translation_alpha": 0.7}])
def test_a_cost_of_zero_leaves_the_one_that_is_given(none: dict[str, float], given: dict[str, float]) -> None:
    assert SearchSettings(**(none | given)).length_score() == SearchSettings(**given).length_score()


def test_no_ngram_comes_twice(run: Run) -> None:
    for tokens, _ in best(run, no_repeat_ngram=2, min_length=9):
        pairs = list(pairwise(tokens))
        assert len(set(pairs)) == len(pairs)


def test_a_large_penalty_forbids_repetition(run: Run) -> None:
    for tokens, _ in best(run, repetition_penalty=50.0, min_length=5):
        assert len(set(tokens)) == len(tokens)


def test_lengths_follow_the_sources(run: Run) -> None:
    texts = [len(run.vocabulary.encode(text)) for text in TEXTS]
    found = [len(tokens) for tokens, _ in best(run, max_length_ratio=1.0, word_reward=50.0)]
    assert found == [min(9, length) for length in texts]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"length_penalty": 1.0, "word_reward": 0.5}, "search.word_reward: search.length_penalty says already"),
        ({"no_repeat_ngram": -1}, "search.no_repeat_ngram: -1 is not at least 0"),
        ({"repetition_penalty": 0.5}, "search.repetition_penalty: 0.5 is not at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(keys: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSettings(**keys)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_of_a_file_opens_no_folder(run: Run, empty: str) -> None:
    with pytest.raises(UserError, match=r"search\.allowed: an empty name"):
        run.generate(TEXTS, allowed=empty)
