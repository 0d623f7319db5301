"""The whole path on the copying task: it is learnt, and the decoder's files and the library agree."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

import s2s
from s2s.commands.decode import main as decode
from s2s.data import load
from s2s.runs.run import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run") / "toy_copy"
    return s2s.fit(s2s.Recipe.load("toy_copy", [f"run.folder={folder}"]))


def test_toy_copy_reaches_exact_match(run: Run) -> None:
    examples = load(run.recipe.data).test
    found = run.generate([example.source for example in examples])
    exact = sum(hypotheses[0].text == example.target for hypotheses, example in zip(found, examples, strict=True))
    assert exact >= 99, f"{exact} of {len(examples)}"


def test_scores_of_the_n_best_are_those_of_score(run: Run) -> None:
    texts = ["a b c", "j i h g f e d c b a", "a a b b c", ""]
    # Scores are in float32, whatever the run decodes in.
    found = run.generate(texts, beams=5, n_best=4, max_length=12, precision="fp32")
    for text, hypotheses in zip(texts, found, strict=True):
        assert len(hypotheses) == 4
        log_probs = run.score([text] * 4, [hypothesis.tokens for hypothesis in hypotheses])
        for hypothesis, row in zip(hypotheses, log_probs, strict=True):
            ended = row if len(hypothesis.tokens) < 12 else row[:-1]
            assert hypothesis.score == pytest.approx(float(ended.sum()), abs=1e-4)
            assert len(row) == len(hypothesis.tokens) + 1


def test_any_batch_and_order_gives_the_same(run: Run) -> None:
    texts = [" ".join(random.Random(seed).choices("abcdefghij", k=seed % 8 + 1)) for seed in range(20)]
    alone = [run.generate([text], beams=3)[0][0] for text in texts]
    shuffled = random.Random(0).sample(range(20), 20)
    together = run.generate([texts[index] for index in shuffled], beams=3, batch=7)
    for index, hypotheses in zip(shuffled, together, strict=True):
        assert hypotheses[0].tokens == alone[index].tokens
        assert hypotheses[0].score == pytest.approx(alone[index].score, abs=1e-4)


def test_sources_that_are_cut_are_counted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.generate(["a " * 50, "a b"], max_length=3)
    assert "1 of 2 sources cut to 16 tokens" in caplog.text


def test_unknown_search_keys_name_their_neighbour(run: Run) -> None:
    with pytest.raises(s2s.UserError, match="unknown search key 'lenght_penalty'; did you mean 'length_penalty'"):
        run.generate(["a"], lenght_penalty=1.0)
    with pytest.raises(s2s.UserError, match="n_best: 3 is more than"):
        run.generate(["a"], beams=2, n_best=3)


def test_plain_lines_in_plain_lines_out_in_order(run: Run, tmp_path: Path) -> None:
    lines = ["a b c", "", "h g f e d c b a", "i j"]
    (tmp_path / "in.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    assert decode([f"run={run.folder}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path / 'out.txt'}"]) == 0
    written = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    expected = [hypotheses[0].text for hypotheses in run.generate(lines, beams=run.recipe.search.beams)]  # type: ignore[attr-defined]
    assert written == expected
    command = [sys.executable, str(ROOT / "scripts" / "decode.py"), f"run={run.folder}", "input=-", "output=-"]
    text = "".join(line + "\n" for line in lines)
    streamed = subprocess.run(command, input=text, capture_output=True, text=True, timeout=200, encoding="utf-8")
    assert streamed.stdout.splitlines() == expected


def test_jsonl_in_jsonl_out_with_identity_scores_and_settings(run: Run, tmp_path: Path) -> None:
    rows = [{"id": "x", "source": "a b"}, {"source": "c d e", "target": "c d e"}]
    with gzip.open(tmp_path / "in.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    arguments = [f"run={run.folder}", f"input={tmp_path / 'in.jsonl.gz'}", "search.beams=3", "search.n_best=2"]
    assert decode([*arguments, f"output={tmp_path / 'out.jsonl'}"]) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["source"]) for row in written] == [("x", "a b"), (1, "c d e")]
    assert all(set(row) == {"id", "source", "hypotheses", "settings"} for row in written)
    assert all(set(row["hypotheses"][0]) == {"text", "score", "tokens"} for row in written)
    assert all(len(row["hypotheses"]) == 2 and row["settings"]["beams"] == 3 for row in written)


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["search.beam=2"], '{"source": "a"}\n', "unknown key 'search.beam'; did you mean 'search.beams'"),
        (["search.n_best=9"], '{"source": "a"}\n', "search.n_best: 9 is more than search.beams"),
        (["search.max_length=999"], '{"source": "a"}\n', "search.max_length: 999"),
        (["checkpoint=worst"], '{"source": "a"}\n', "checkpoint"),
        ([], '{"source": "a"}\n{"sauce": "b"}\n', "in.jsonl, line 2: no field 'source'"),
        ([], '{"source": "a"\n', "in.jsonl, line 1: malformed JSON"),
        (["run=/nowhere"], "", "no run there"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], content: str, message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(content, encoding="utf-8")
    code = decode([f"run={run.folder}", f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out'}", *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
