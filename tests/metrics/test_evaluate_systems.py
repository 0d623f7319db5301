"""Several files of hypotheses and several references a text."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from test_evaluate import as_jsonl, refusal, write

from s2s.commands import evaluate
from s2s.errors import UserError
from s2s.metrics import paired_bootstrap, rouge_l_by_sentence, score
from s2s.metrics.bootstrap import LEAST
from s2s.metrics.overlap import score_statistics
from s2s.metrics.systems import System, differences, show_comparison

WORDS = np.array(["the", "cat", "sat", "on", "a", "mat", "while", "dogs", "ran", "home"])
KEYS = ["rouge_1", "rouge_2", "rouge_l", "rouge_1_char", "rouge_2_char", "rouge_l_char", "bleu", "chrf"]


def corpus(texts: int) -> tuple[list[str], list[str], list[str]]:
    """References, and hypotheses of which the second have more wrong words than the first."""
    generator = np.random.default_rng(0)
    references = generator.choice(WORDS, (texts, 9))

    def spoilt(share: float) -> list[str]:
        wrong = generator.random(references.shape) < share
        return [" ".join(row) for row in np.where(wrong, generator.choice(WORDS, references.shape), references)]

    return [" ".join(row) for row in references], spoilt(0.3), spoilt(0.4)


def lines(texts: list[str]) -> str:
    return "".join(text + "\n" for text in texts)


def compared(folder: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """The comparisons' rows by metric, of the files that ``corpus`` filled."""
    for name, texts in zip(("r", "a", "b"), corpus(60), strict=True):
        write(folder / name, lines(texts))
    files = [f"hypotheses={folder / 'a'},{folder / 'b'}", f"references={folder / 'r'}", f"json={folder / 'json'}"]
    assert evaluate.main([*files, *arguments]) == 0
    record = json.loads((folder / "json").read_text(encoding="utf-8"))
    assert [row["hypotheses"] for row in record["systems"]] == [str(folder / "a"), str(folder / "b")]
    assert all((row["first"], row["second"]) == (str(folder / "a"), str(folder / "b")) for row in record["comparisons"])
    return {row["metric"]: row for row in record["comparisons"]}


def test_two_files_are_compared_in_all_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references, first, second = corpus(60)
    rows = compared(tmp_path, "samples=400")
    values = [score(texts, references).values for texts in (first, second)]
    assert list(rows) == KEYS
    for name, row in rows.items():
        assert row["difference"] == pytest.approx(values[0][name] - values[1][name])
        assert row["low"] < row["difference"] < row["high"]
        assert min(row["p_bootstrap"], row["p_randomisation"]) >= 1 / 401
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split("\t") == ["metric", str(tmp_path / "a"), str(tmp_path / "b"), "difference", "low", "high",
                                      "p (bootstrap)", "p (randomisation)"]  # fmt: skip
    assert [line.split("\t")[0] for line in printed[1:]] == [*KEYS, "signature"]
    assert printed[1].split("\t")[1:4] == [f"{values[0]['rouge_1']:.2f}", f"{values[1]['rouge_1']:.2f}",
                                           f"{rows['rouge_1']['difference']:+.2f}"]  # fmt: skip
    assert "paired-bootstrap|samples:400|seed:0" in printed[-1]
    assert "approximate-randomisation|trials:400|seed:0" in printed[-1]


def test_the_comparison_of_means_is_that_of_their_texts(tmp_path: Path) -> None:
    references, first, second = corpus(60)
    row = compared(tmp_path, "samples=4000")["rouge_l"]
    other = paired_bootstrap(*(rouge_l_by_sentence(texts, references) for texts in (first, second)), samples=4000)
    assert [row["low"], row["high"]] == pytest.approx([other.low, other.high], abs=0.5)
    assert row["p_bootstrap"] == pytest.approx(other.p, abs=0.01)


def test_comparisons_of_corpus_scores_are_sacrebleu_s(tmp_path: Path) -> None:
    references, first, second = corpus(60)
    rows = compared(tmp_path, "samples=1000")
    systems = [("a", first), ("b", second)]
    for key, kind in (("p_bootstrap", "bs"), ("p_randomisation", "ar")):
        test = PairedTest(systems, {"BLEU": BLEU(), "chrF": CHRF()}, [references], kind, n_samples=1000)
        _, found = test()
        for name, label in (("bleu", "BLEU"), ("chrf", "chrF2")):
            assert rows[name][key] == pytest.approx(found[label][1].p_value, abs=0.02)


def test_a_seed_fixes_the_draws_and_equal_files_do_not_differ(tmp_path: Path) -> None:
    once, again, other = (compared(tmp_path, "samples=50", f"seed={seed}") for seed in (1, 1, 2))
    assert once == again != other
    path = tmp_path / "a"
    arguments = [f"hypotheses={path},{path}", f"references={tmp_path / 'r'}", f"json={tmp_path / 'j'}", "samples=20"]
    assert evaluate.main(arguments) == 0
    rows = json.loads((tmp_path / "j").read_text(encoding="utf-8"))["comparisons"]
    assert {(row["difference"], row["p_bootstrap"], row["p_randomisation"]) for row in rows} == {(0, 1, 1)}


def test_several_references_are_one_file_each_or_lists_in_rows(tmp_path: Path) -> None:
    hypotheses = ["the cat sat", "a mat", "dogs"]
    columns = [["the cat ran", "a mat", "cats"], ["a cat sat on", "the mat", "dogs ran"]]
    write(tmp_path / "h", lines(hypotheses))
    for name, column in zip("01", columns, strict=True):
        write(tmp_path / name, lines(column))
    rows = [{"target": list(texts)} for texts in zip(*columns, strict=True)]
    write(tmp_path / "both.jsonl", as_jsonl(rows))
    for references in (f"{tmp_path / '0'},{tmp_path / '1'}", str(tmp_path / "both.jsonl")):
        arguments = [f"hypotheses={tmp_path / 'h'}", f"references={references}", f"json={tmp_path / 'j'}"]
        assert evaluate.main([*arguments, "published=true"]) == 0
        record = json.loads((tmp_path / "j").read_text(encoding="utf-8"))
        values = record["values"]
        assert values["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, columns).score)
        assert values["chrf"] == pytest.approx(CHRF().corpus_score(hypotheses, columns).score)
        singly = [rouge_l_by_sentence(hypotheses, column) for column in columns]
        assert values["rouge_l"] == pytest.approx(np.maximum(*singly).mean())
        assert record["signature"].count("nrefs:2") == 5


def test_texts_may_have_different_numbers_of_references() -> None:
    hypotheses, references = ["a cat", "a mat"], [["a cat", "the cat"], "the mat"]
    values, signature = score(hypotheses, references)
    streams = [["a cat", "the mat"], ["the cat", None]]
    assert values["bleu"] == BLEU().corpus_score(hypotheses, streams).score
    assert values["rouge_l"] == pytest.approx(75)
    assert signature.count("nrefs:var") == 3
    with pytest.raises(UserError, match="text 2 has no reference"):
        score(hypotheses, ["a", []])


def test_a_file_whose_name_has_a_comma_is_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a,b", "the cat\n")
    assert evaluate.main([f"hypotheses={path}", f"references={path}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hypotheses={h},{h}", "references={long}"], "1 hypotheses and 2 references"),
        (["hypotheses={h}", "references={h},{long}"], "long has 2 references and"),
        (["hypotheses=-,-", "references={h}"], "only one of"),
        (["hypotheses={h},{h}", "references={h}", "samples=0"], "samples: 0 is not at least 1"),
        (["hypotheses={h},{h}", "references={h}", "samples=many"], "samples: 'many' is not a whole number"),
        (["hypotheses={h}", "references={h}", "published=perhaps"], "published: 'perhaps' is neither true nor false"),
        (["hypotheses={h},no/such", "references={h}"], "no/such: No such file"),
        (["hypotheses={h}", "references={bad}"], "bad.jsonl, line 1: field 'target' is a list, but not of"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"h": write(tmp_path / "h", "a\n"), "long": write(tmp_path / "long", "a\nb\n")}
    names["bad"] = write(tmp_path / "bad.jsonl", '{"target": []}\n')
    assert message in refusal([argument.format(**names) for argument in arguments], capsys)


def few(folder: Path, texts: int) -> tuple[list[str], dict[str, Any]]:
    """Two systems' files on so few texts, and the arguments that compare them."""
    for name, lists in zip(("r", "a", "b"), corpus(texts), strict=True):
        write(folder / name, lines(lists))
    files = [f"hypotheses={folder / 'a'},{folder / 'b'}", f"references={folder / 'r'}", f"json={folder / 'json'}"]
    assert evaluate.main([*files, "samples=50"]) == 0
    return files, json.loads((folder / "json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("texts", [1, 2, LEAST - 1, LEAST])
def test_too_few_texts_have_a_difference_and_no_interval(
    texts: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, record = few(tmp_path, texts)
    printed = capsys.readouterr().out
    references, first, second = corpus(texts)
    note = f"{texts} sentence{'s are' if texts > 1 else ' is'} too few for an interval (at least {LEAST})"
    for row in record["comparisons"]:
        both = [score(system, references).values[row["metric"]] for system in (first, second)]
        assert row["difference"] == pytest.approx(both[0] - both[1])
        there = [row[key] is not None for key in ("low", "high", "p_bootstrap", "p_randomisation")]
        assert there == [texts >= LEAST] * 4
    assert (record.get("note") == note) == (f"note\t{note}" in printed) == (texts < LEAST)
    cells = [line.split("\t") for line in printed.splitlines() if line.startswith("rouge_l\t")]
    assert [bool(cell) for cell in cells[0]] == [True] * 4 + [texts >= LEAST] * 4
    assert "nan" not in printed.lower()


def test_a_terminal_says_so_too() -> None:
    references, first, second = corpus(3)
    systems = [System(name, score(texts, references), score_statistics(texts, references)[0])
               for name, texts in (("a", first), ("b", second))]  # fmt: skip
    out = Console(file=io.StringIO(), force_terminal=True, width=200)
    show_comparison(*systems, differences(*(system.statistics for system in systems)), "how", out)
    assert "3 sentences are too few for an interval (at least 10)" in out.file.getvalue()  # type: ignore[attr-defined]


def test_the_least_number_of_sentences_is_one_that_can_be_significant_after_holm() -> None:
    """Of n sentences that all favour one system, 2 of the 2^n exchanges are as extreme."""
    for sentences, reaches in ((5, False), (LEAST, True)):
        extreme = [abs(sum(signs)) == sentences for signs in itertools.product((-1, 1), repeat=sentences)]
        p = sum(extreme) / len(extreme)
        assert p == 2.0 ** (1 - sentences)
        assert (25 * p < 0.05) == reaches
        assert (p < 0.05) == reaches
