"""The comparison of transport distances with scores of overlap: its ranks against scipy's, and the whole script."""

import json

import compare_similarity
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr


def test_ranks_and_correlations_are_those_of_scipy():
    draws = np.random.default_rng(0)
    for _ in range(20):
        first, second = draws.integers(0, 6, (2, 15)).astype(float)  # few values, so that many are equal
        assert compare_similarity.ranks(first) == pytest.approx(rankdata(first))
        assert compare_similarity.spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


@pytest.mark.slow
def test_every_distance_has_a_row_and_equal_texts_are_nearest(tmp_path, tiny_folder, capsys):
    words = ["a b", "b c", "c d e", "d", "e a", "a c", "b d", "c e", "a d", "e b", "b b a"]
    for name, texts in (("hypotheses", [*words[:6], *words[1:6]]), ("references", words)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    files = [f"{name}={tmp_path / name}.txt" for name in ("hypotheses", "references")]
    assert compare_similarity.main([*files, f"embeddings={tiny_folder}", f"json={tmp_path / 'rows.json'}"]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == list(compare_similarity.DISTANCES)
    assert {row["sentences"] for row in rows} == {11}
    for row in rows:
        assert row["chrf"]["low"] <= row["chrf"]["estimate"] <= row["chrf"]["high"]
        # Six texts equal their references: whatever is near is near by every measure.
        assert row["rouge_l"]["estimate"] > 0.5
    assert [row["exact"] for row in rows if row["name"] in ("wmd", "wrd")] == pytest.approx([1, 1])
    assert "wrd, relaxed" in capsys.readouterr().out


def test_a_missing_argument_is_one_line(capsys):
    assert compare_similarity.main(["hypotheses=a.txt", "references=b.txt"]) == 2
    assert "embeddings: missing" in capsys.readouterr().err
