"""The decode command: gone on with after a kill, made of the right run, several processes, prefixes, ensembles."""

import datetime
import gzip
import importlib
import io
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

import s2s
from s2s.commands.decode import main as command
from s2s.data.rows import json_text
from s2s.decoding.ensemble import ensemble, rerank
from s2s.decoding.resumable_output import Journal
from s2s.diagnose.__main__ import diagnose
from s2s.diagnose.settings import DiagnosisSettings
from s2s.errors import UserError
from s2s.runs.run import Run
from s2s.search.methods import SEARCHES

SEARCH = ["search.beams=2", "search.max_length=5", "search.batch=4", "chunk=5"]


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, other_tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Copies, since a diagnosis keeps its measures in a run's folder."""
    folder = tmp_path_factory.mktemp("runs")
    copies = [shutil.copytree(run, folder / run.name) for run in (tiny_folder, other_tiny_folder)]
    return [s2s.load(copy) for copy in copies]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    chance, path = random.Random(0), tmp_path / "in.jsonl"
    texts = [" ".join(chance.choices("abcdefghij", k=chance.randint(1, 6))) for _ in range(22)]
    rows = [{"id": f"n{at}", "source": text, "hint": "e f" if at % 2 else ""} for at, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Killed(BaseException):
    """What no code of ours catches."""


def decode(run: Run, source: Path | str, output: Path, *more: str) -> int:
    return command([f"run={run.folder}", f"input={source}", f"output={output}", *SEARCH, *more])


def killed_after(pieces: int, monkeypatch: pytest.MonkeyPatch, run: Run, source: Path, output: Path) -> None:
    """Decode, but die after so many pieces, one of them written and not told of."""
    left = iter(range(pieces))
    append = Journal.append

    def dying(journal: Journal, lines: list[str], digest: str) -> None:
        if next(left, None) is None:
            journal.file.write(b"half a li")
            journal.file.close()
            raise Killed
        append(journal, lines, digest)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dying)
        with pytest.raises(Killed):
            decode(run, source, output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_after_any_kill_every_line_is_there_once_in_order(
    runs: list[Run], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys
) -> None:
    assert decode(runs[0], source, tmp_path / name) == 0
    whole = (tmp_path / name).read_bytes()
    rows = (gzip.decompress(whole) if name.endswith(".gz") else whole).decode().splitlines()
    assert [json.loads(row)["id"] for row in rows] == [f"n{at}" for at in range(22)]
    for pieces in range(5):
        path = tmp_path / str(pieces) / name
        path.parent.mkdir()
        killed_after(pieces, monkeypatch, runs[0], source, path)
        capsys.readouterr()
        assert decode(runs[0], source, path) == 0
        assert (f"resuming after its {5 * pieces} lines" in capsys.readouterr().err) == bool(pieces)
        assert path.read_bytes() == whole
        assert list(path.parent.iterdir()) == [path]


def test_what_was_made_otherwise_is_begun_anew(
    runs: list[Run], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for at, (run, change, reason) in enumerate(
        [(0, "search.beams=3", "search"), (1, "search.beams=2", "run"), (0, "input", "input")]
    ):
        output, expected, used = tmp_path / f"{at}.jsonl", tmp_path / f"{at}.expected.jsonl", source
        killed_after(2, monkeypatch, runs[0], source, output)
        if change == "input":
            lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
            used = tmp_path / "changed.jsonl"
            used.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
        more = [] if change == "input" else [change]
        capsys.readouterr()
        assert decode(runs[run], used, output, *more) == 0
        assert f"made with other {reason}; starting again" in capsys.readouterr().err
        assert decode(runs[run], used, expected, *more) == 0
        assert output.read_bytes() == expected.read_bytes()


def test_standard_input_goes_on_where_it_is_the_same(
    runs: list[Run], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode(runs[0], source, tmp_path / "whole.jsonl") == 0
    text = source.read_bytes()
    killed_after(2, monkeypatch, runs[0], source, tmp_path / "out.jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"source": "z"}\n' + text), encoding="utf-8"))
    assert decode(runs[0], "-", tmp_path / "out.jsonl") == 2
    assert "made from other input, which cannot be read again" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    assert decode(runs[0], "-", tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_write_what_one_writes(runs: list[Run], source: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        assert decode(runs[0], source, tmp_path / f"{processes}.jsonl", f"processes={processes}") == 0
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_prefixes_ensembles_and_a_second_run(runs: list[Run], source: Path, tmp_path: Path) -> None:
    first, second = runs
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    keys = ["prefix_field=hint", "search.n_best=2", "search.token_scores=true", "weights=[1, 2]"]
    more = [f"run={first.folder},{second.folder}", f"rerank={second.folder}", "rerank_weight=0.4"]
    assert decode(first, source, tmp_path / "out.jsonl", *keys, *more) == 0
    texts, prefixes = [row["source"] for row in rows], [row["hint"] for row in rows]
    both = ensemble(runs, [1.0, 2.0])
    found = both.generate(texts, beams=2, n_best=2, max_length=5, batch=4, prefixes=prefixes, token_scores=True)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, wanted in zip(written, rerank(second, texts, found, 0.4), strict=True):
        assert [each["text"] for each in row["hypotheses"]] == [each.text for each in wanted]
        for each, hypothesis in zip(row["hypotheses"], wanted, strict=True):
            assert each["score"] == pytest.approx(hypothesis.score, abs=1e-3)
            assert each["token_scores"] == pytest.approx(hypothesis.token_scores, abs=1e-3)
    assert all(row["hypotheses"][0]["text"].startswith("e f") for row in written[1::2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["processes=0"], "processes: 0 is not at least 1"),
        (["rerank_weight=2"], "rerank_weight: 2.0 is not in [0, 1]"),
        (["weights=[1, 2]"], "weights: 1 runs need 1 positive weights"),
        (["prefix_field=hnt"], "no field 'hnt'"),
        (["search.name=smple"], "search.name: no 'smple'; did you mean 'sample'"),
        (["search={name: sample, top_p: 2}"], "search.top_p: 2.0 is not in (0, 1]"),
        (["rerank=x", "search.n_best=1"], "rerank: with one hypothesis of each source there is nothing to sort"),
        (
            ["rerank=x", "rerank_weight=0", "search={beams: 2, n_best: 2}"],
            "rerank_weight: 0 leaves the second run's word out",
        ),
        (["rerank_weight=0.5"], "rerank_weight: without rerank=FOLDER there is no second run"),
        (["rerank=/nowhere", "search={beams: 2, n_best: 2}"], "run '/nowhere': no best or last checkpoint yet"),
        (["output=/nowhere/out.txt"], "No such file or directory"),
    ],
)
def test_mistakes_are_one_line(
    runs: list[Run],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert command([f"run={runs[0].folder}", f"input={source}", f"output={tmp_path / 'out'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_blank_sources_are_counted(runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("a b\n\n   \n\u200b\nc\n", encoding="utf-8")
    assert command([f"run={runs[0].folder}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path / 'out.txt'}"]) == 0
    assert len((tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()) == 5
    assert " of 5 sources are blank; what is written for them is invented" in capsys.readouterr().err


def test_what_a_run_has_no_positions_for_is_not_scored(runs: list[Run], caplog: pytest.LogCaptureFixture) -> None:
    long = [5] * runs[0].model.shape.positions
    with pytest.raises(UserError, match=r"a target has \d+ tokens and an end here, but after a source of 5"):
        runs[0].score(["a b c"], [long])
    found = runs[0].generate(["a", " "])
    assert "1 of 2 sources are blank" in caplog.text
    found[0][0] = found[0][0]._replace(text=" ".join("ab" * len(long)))
    with pytest.raises(UserError, match="its model has room for"):
        rerank(runs[1], ["a", ""], found)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"min_length": 3, "no_repeat_ngram": 2},
        {"name": "sample", "temperature": 0.7, "top_k": 9, "seed": 4},
        {"name": "sample", "required": ["b"]},
    ],
)
def test_a_stream_is_what_is_found_piece_by_piece(runs: list[Run], keys: dict[str, object]) -> None:
    for text in ["a b c", "d", "e f e f"]:
        [[found]] = runs[0].generate([text], max_length=7, token_scores=True, **keys)
        pieces = list(runs[0].stream(text, max_length=7, **keys))
        assert "".join(piece.text for piece in pieces) == found.text
        told = [piece for piece in pieces if piece.token is not None]
        assert [piece.token for piece in told] == found.tokens
        assert [piece.log_prob for piece in told] == pytest.approx(found.token_scores[: len(told)], abs=1e-4)


def test_only_what_needs_no_looking_back_is_streamed(runs: list[Run]) -> None:
    for keys in ({"name": "beam", "beams": 2}, {"name": "mbr"}, {"name": "sample", "samples": 2}, {"name": "diverse"}):
        with pytest.raises(s2s.UserError, match="stream: only greedy decoding"):
            runs[0].stream("a", **keys)


FORMATS = {
    "s.csv": 'id,source\n0,"a b"\n1, "c, d"\n',
    "s.tsv": "source\tid\na b\t0\nc, d\t1\n",
    "s.json": '[{"id": "0", "source": "a b"},\n {"id": "1", "source": ["c,", "d"]}]',
    "s.jsonl": '{"id": "0", "source": "a b"}\n{"id": "1", "source": "c, d"}\n',
    "s.txt": '{"id": "0", "source": "a b"}\n{"id": "1", "source": "c, d"}\n',
    "s.rows": 'id,source\n0,a b\n1,"c, d"\n',
    "-": "source\tid\na b\t0\nc, d\t1\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_training_is_a_format_of_sources(
    runs: list[Run], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / name if name != "-" else "-"
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FORMATS[name].encode()), encoding="utf-8"))
    else:
        Path(source).write_text(FORMATS[name], encoding="utf-8")
    assert decode(runs[0], source, tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["source"]) for row in rows] == [("0", "a b"), ("1", "c, d")]
    told = name in ("s.txt", "s.rows", "-")
    assert capsys.readouterr().err.count(": read as ") == told


def test_plain_lines_are_lines_by_what_they_are_or_by_what_is_asked(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first, more in (("a.txt", "{a} b", []), ("b.txt", '{"source": "a"}', ["format=lines"])):
        (tmp_path / name).write_text(f"{first}\na\n", encoding="utf-8")
        assert decode(runs[0], tmp_path / name, tmp_path / "out", *more) == 0
        assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == 2
        assert "read as" not in capsys.readouterr().err
    assert decode(runs[0], tmp_path / "b.txt", tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert "line 2: malformed JSON" in error
    assert error.endswith("format=lines reads plain lines)\n")
    assert error.count("\n") == 1
    (tmp_path / "t.csv").write_text("text,id\na,0\n", encoding="utf-8")
    assert decode(runs[0], tmp_path / "t.csv", tmp_path / "new") == 2
    assert "t.csv:1: no field 'source' in the header" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_parquet_sources_keep_their_ids(runs: list[Run], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    table = arrow.Table.from_pylist([{"id": datetime.date(2020, 1, day), "source": "a b"} for day in (1, 2)])
    parquet.write_table(table, tmp_path / "s.parquet")
    assert decode(runs[0], tmp_path / "s.parquet", tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["2020-01-01", "2020-01-02"]


def test_an_output_whose_name_tells_another_format_is_told(
    runs: list[Run], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "s.txt"
    plain.write_text("a\n", encoding="utf-8")
    for given, name, told in ((source, "o.csv", True), (source, "o.jsonl", False), (plain, "o.jsonl", True)):
        assert decode(runs[0], given, tmp_path / name) == 0
        assert ("though its name says" in capsys.readouterr().err) == told


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("row", ['{{"id": {}, "source": "a"}}', '{{"source": "a", "more": {{"deep": [1.5, {}]}}}}'])
def test_a_number_that_is_not_finite_is_a_malformed_row(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str, row: str
) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"id": 0.5, "source": "a"}\n' + row.format(number) + "\n", encoding="utf-8")
    assert decode(runs[0], path, output) == 2
    assert "in.jsonl, line 2: malformed JSON: " in capsys.readouterr().err
    assert not output.exists()


def test_what_is_written_is_json_whatever_a_row_or_a_score_holds() -> None:
    held = {"id": float("nan"), "day": datetime.date(2020, 1, 2), "rows": [(1.5, float("-inf"))], "text": "\u4e00"}
    text = json_text(held)
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"id": None, "day": "2020-01-02", "rows": [[1.5, None]], "text": "\u4e00"}
    assert "\u4e00" in text


@pytest.fixture(scope="module")
def damaged(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights are finite and useless."""
    folder = tmp_path_factory.mktemp("damaged")
    run = s2s.load(tiny_folder)
    with torch.no_grad():
        for parameter in run.objective.parameters():
            parameter.fill_(1e38)
    run.save_pretrained(folder / "damaged")
    return folder / "damaged"


NAN = "the model's log-probabilities are NaN: its weights are damaged or its precision overflows"


@pytest.mark.parametrize("name", SEARCHES)
def test_weights_that_give_no_numbers_are_one_line_in_every_search(damaged: Path, name: str) -> None:
    run = s2s.load(damaged)
    with pytest.raises(UserError, match=NAN):
        run.generate(["a b"], name=name, max_length=4)
    if name in ("beam", "sample"):
        with pytest.raises(UserError, match=NAN):
            list(run.stream("a b", name=name, max_length=4))


def test_weights_that_give_no_numbers_are_one_line_of_the_commands(
    damaged: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode(s2s.load(damaged), source, tmp_path / "out.jsonl") == 2
    assert f"error: {NAN}" in capsys.readouterr().err
    with pytest.raises(UserError, match=NAN):
        diagnose(DiagnosisSettings(run=str(damaged), data="recipe", output=str(tmp_path / "report"), examples=4))
