"""Distances over a set of texts: embeddings, centring, whitening, batches, progress."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.progress import Progress

from s2s.metrics import (
    centring,
    changed,
    corpus_distances,
    corpus_sinkhorn_distances,
    movers_problems,
    rotators_problems,
    sinkhorn_transport,
    table_embedding,
    whitening,
    word_centroid_distance,
    word_movers_distance,
    word_rotators_distance,
)

few = settings(deadline=None, max_examples=30)
TABLE = np.random.default_rng(0).normal(0.5, 1.0, (26, 5))
HYPOTHESES, REFERENCES = ["abc", "hello", "z", "abba", "text"], ["abd", "yellow", "zoo", "baba", "context"]


def letters(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


embed = table_embedding(TABLE, letters)


def corpus(seed: int, width: int, sizes: list[int]) -> list[NDArray[np.float64]]:
    generator = np.random.default_rng([seed, width])
    mixing = generator.normal(size=(width, width)) + 2 * np.eye(width)
    return [generator.normal(size=(size, width)) @ mixing + 3 for size in sizes]


def test_a_table_gives_the_rows_of_the_ids() -> None:
    assert np.array_equal(embed("cab"), np.stack([TABLE[2], TABLE[0], TABLE[1]]))
    assert np.asarray(embed("")).shape == (0, 5)
    tensor = torch.tensor(TABLE, dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(table_embedding(tensor, letters)("b"), tensor[1:2].detach().double())


def test_a_model_s_token_embeddings_serve(random_model) -> None:
    model = random_model()
    vectors = table_embedding(model.embedding.tokens.weight, letters)("cab")
    np.testing.assert_array_equal(vectors, model.words(torch.tensor([2, 0, 1])).detach())


@pytest.mark.parametrize("distance", [word_movers_distance, word_rotators_distance, word_centroid_distance])
def test_distances_are_those_of_the_pairs_and_progress_counts_them(distance) -> None:
    with Progress(disable=True) as progress:
        task = progress.add_task("", total=len(HYPOTHESES))
        found = corpus_distances(HYPOTHESES, REFERENCES, embed, distance, lambda pairs: progress.advance(task, pairs))
        assert progress.finished
    pairs = zip(HYPOTHESES, REFERENCES, strict=True)
    assert found.tolist() == [distance(TABLE[letters(x)], TABLE[letters(y)]) for x, y in pairs]
    assert corpus_distances([], [], embed, distance).shape == (0,)


def test_texts_without_tokens_have_the_worth_given_or_are_refused_by_number() -> None:
    found = corpus_distances(["a", "", "b", ""], ["a", "b", "", ""], embed, word_rotators_distance, empty=2.0)
    assert found.tolist() == [0, 2, 2, 2]
    with pytest.raises(ValueError, match=r"^pair 2: y: an empty sentence"):
        corpus_distances(["a", "b"], ["a", ""], embed, word_rotators_distance)
    for distances in (corpus_distances, corpus_sinkhorn_distances):
        with pytest.raises(ValueError, match=r"^2 hypotheses, but 1 references$"):
            distances(["a", "b"], ["a"], embed, word_rotators_distance)


@pytest.mark.parametrize("problems", [movers_problems, rotators_problems])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_batches_change_nothing(problems, batch: int) -> None:
    heard: list[int] = []
    found = corpus_sinkhorn_distances(
        HYPOTHESES, REFERENCES, embed, problems, 0.1, batch=batch, on_progress=heard.append
    )
    rows = [[torch.tensor(embed(text)) for text in texts] for texts in (HYPOTHESES, REFERENCES)]
    alone = [float(sinkhorn_transport(problems(x, y), 0.1).cost) for x, y in zip(*rows, strict=True)]
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert heard == [min(batch, 5 - start) for start in range(0, 5, batch)]


def test_plans_that_did_not_converge_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [[torch.tensor(embed(text)) for text in texts] for texts in (HYPOTHESES, REFERENCES)]
    hasty = [sinkhorn_transport(movers_problems(x, y), 0.1, iterations=1) for x, y in zip(*rows, strict=True)]
    missed = sum(float(transport.miss) > 1e-3 for transport in hasty)
    assert 0 < missed < 5
    with caplog.at_level(logging.WARNING, "s2s"):
        corpus_sinkhorn_distances(HYPOTHESES, REFERENCES, embed, movers_problems, 0.1)
        assert not caplog.messages
        corpus_sinkhorn_distances(HYPOTHESES, REFERENCES, embed, movers_problems, 0.1, iterations=1)
    assert caplog.messages == [f"{missed} of 5 transport plans did not converge: raise iterations or epsilon"]


@given(seed=st.integers(0, 999), width=st.integers(1, 4), sizes=st.lists(st.integers(0, 9), min_size=3, max_size=6))
@few
def test_centring_takes_the_mean_of_all_vectors_away(seed: int, width: int, sizes: list[int]) -> None:
    sentences = corpus(seed, width, [*sizes, 2])
    change = centring(sentences)
    every = np.concatenate(sentences)
    np.testing.assert_allclose(change(every), every - sum(every) / len(every), atol=1e-12)


@given(seed=st.integers(0, 999), width=st.integers(1, 4), sizes=st.lists(st.integers(0, 9), max_size=6))
@few
def test_whitened_vectors_have_mean_0_and_the_identity_as_covariance(seed: int, width: int, sizes: list[int]) -> None:
    sentences = corpus(seed, width, [*sizes, 9])
    change, every = whitening(iter(sentences)), np.concatenate(sentences)
    white = change(every)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(sum(np.outer(v, v) for v in white) / len(white), np.eye(width), atol=1e-7)
    # Distances are Mahalanobis's, whichever rotation was chosen.
    inverse = np.linalg.inv(np.cov(every.T, bias=True).reshape(width, width))
    difference = every[0] - every[-1]
    assert ((white[0] - white[-1]) ** 2).sum() == pytest.approx(difference @ inverse @ difference, rel=1e-6)


def test_a_smaller_width_keeps_the_directions_of_largest_variance() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(400, 3)) * [1.0, 9.0, 3.0]
    narrow, whole = whitening([vectors], 2)(vectors), whitening([vectors])(vectors)
    np.testing.assert_allclose(narrow, whole[:, :2], atol=1e-12)
    correlations = np.abs(np.corrcoef(np.concatenate([narrow, vectors], axis=1).T)[:2, 2:])
    assert correlations.argmax(axis=1).tolist() == [1, 2]
    assert correlations.max(axis=1).min() > 0.99


def test_changes_follow_one_another() -> None:
    sentences = [TABLE[letters(text)] for text in REFERENCES]
    whiten = whitening(sentences, 2)
    both = changed(embed, centring(sentences), whitening(map(centring(sentences), sentences), 2))
    np.testing.assert_allclose(both("hello"), whiten(TABLE[letters("hello")]), atol=1e-9)
    assert np.array_equal(changed(embed)("abc"), embed("abc"))
    found = corpus_distances(HYPOTHESES, REFERENCES, both, word_rotators_distance)
    assert found[0] == word_rotators_distance(both("abc"), both("abd"))


def test_a_corpus_that_spans_too_little_is_refused() -> None:
    line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"^width: 3 directions, but the vectors of the corpus vary in 1$"):
        whitening([line])
    assert whitening([line], 1)(line).std() == pytest.approx(1)
    for change in (centring, whitening):
        with pytest.raises(ValueError, match=r"^corpus: no vectors"):
            change([np.ones((0, 3))])
