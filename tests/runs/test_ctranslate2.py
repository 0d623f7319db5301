"""Exports of T5, BART and Marian in CTranslate2, converted by its own converter: the same beams as the run's."""

from pathlib import Path

import pytest
from test_transformers_export import TEXTS, run_of

converters = pytest.importorskip("ctranslate2.converters", reason="ctranslate2 is not installed")
ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
pytestmark = pytest.mark.slow
LENGTH = 5


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_beams_are_the_runs(family: str, tmp_path: Path) -> None:
    run = run_of(family, tmp_path, kind="bpe", more=0)
    run.export_transformers(tmp_path / "model")
    converters.TransformersConverter(str(tmp_path / "model")).convert(str(tmp_path / "converted"))
    translator = ctranslate2.Translator(str(tmp_path / "converted"), device="cpu", intra_threads=1)
    pieces = run.vocabulary
    ids = [pieces.source_ids(row) for row in pieces.encode_all(TEXTS)]
    rows = [[pieces.piece(id) for id in row] for row in ids]
    for beams, penalty in ((1, 0.0), (4, 0.0), (4, 1.0)):
        ours = run.generate(TEXTS, beams=beams, n_best=beams, length_penalty=penalty, max_length=LENGTH)
        theirs = translator.translate_batch(
            rows,
            beam_size=beams,
            num_hypotheses=beams,
            length_penalty=penalty,
            max_decoding_length=LENGTH,
            min_decoding_length=0,
            return_scores=True,
        )
        for hypotheses, result in zip(ours, theirs, strict=True):
            wanted = [[pieces.piece(id) for id in row.tokens] for row in hypotheses]
            assert result.hypotheses == wanted, (beams, penalty)
            if beams > 1:
                assert result.scores == pytest.approx([row.score for row in hypotheses], abs=1e-4)
