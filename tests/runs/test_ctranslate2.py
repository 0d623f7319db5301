"""Exports of T5, BART and Marian in CTranslate2, converted by its own converter: the same beams as the run's."""

from pathlib import Path

import pytest
from exported import PAIRS
from foreign_runs import run_of

converters = pytest.importorskip("ctranslate2.converters", reason="ctranslate2 is not installed")
ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
pytestmark = pytest.mark.slow
LENGTH = 5
TEXTS = [source for source, _ in PAIRS[:3]]


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_the_beams_are_the_runs(family: str, tmp_path: Path) -> None:
    run = run_of(family, tmp_path)
    run.export_transformers(tmp_path / "model")
    converters.TransformersConverter(str(tmp_path / "model")).convert(str(tmp_path / "converted"))
    translator = ctranslate2.Translator(str(tmp_path / "converted"), device="cpu", intra_threads=1)
    pieces = run.vocabulary
    ids = [pieces.source_ids(row) for row in pieces.encode_sources(TEXTS)]
    rows = [[pieces.piece(id) for id in row] for row in ids]
    # Marian's converter leaves out the padding.
    never = [[pieces.piece(id)] for id in pieces.never_written if family != "marian" or id != pieces.padding]
    # Its decoder reads this after its start, as its searches do.
    prefix = [[pieces.piece(pieces.start)]] * len(rows) if run.vocabulary.prefix else None
    # There, a prefix counts in the length.
    for beams, penalty in ((1, 0.0), (4, 0.0), (4, 0.0 if prefix else 1.0)):
        ours = run.generate(TEXTS, beams=beams, n_best=beams, length_penalty=penalty, max_length=LENGTH)
        theirs = translator.translate_batch(
            rows,
            target_prefix=prefix,
            beam_size=beams,
            num_hypotheses=beams,
            length_penalty=penalty,
            max_decoding_length=LENGTH + (prefix is not None),
            min_decoding_length=0,
            return_scores=True,
            suppress_sequences=never,
        )
        for hypotheses, result in zip(ours, theirs, strict=True):
            wanted = [[pieces.piece(id) for id in row.tokens] for row in hypotheses]
            found = [row[prefix is not None :] for row in result.hypotheses]
            assert found == wanted
            if beams > 1:
                scores = [row.score for row in hypotheses]
                assert result.scores == pytest.approx(scores, abs=0.1 if family == "t5" else 1e-4)
