"""The command ``s2s evaluate``: what it reads, what it writes and how it refuses."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s2s.commands import evaluate
from s2s.config import merge, read_arguments
from s2s.data.lines import field_text, hypothesis_text, read_texts
from s2s.errors import UserError
from s2s.metrics import Scores, published_score, score

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


# A line of plain text holds anything but line ends, and begins with no byte-order mark.
lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff")), max_size=5)


def write(path: Path, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def as_jsonl(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def decoded(text: str) -> dict[str, object]:
    beams = [{"text": text, "score": -1.0, "tokens": [3]}, {"text": "worse", "score": -2.0, "tokens": [4]}]
    return {"id": "1", "source": "s", "hypotheses": beams, "settings": {}}


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert evaluate.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def expected_scores(hypotheses: list[str], references: list[str], lang: str) -> Scores:
    scores = score(hypotheses, references, lang)
    if lang != "zh":
        return scores
    published = published_score(hypotheses, references)
    return Scores(scores.values | published.values, f"{scores.signature} + {published.signature}")


def plain_output(hypotheses: list[str], references: list[str], lang: str = "en") -> str:
    values, signature = expected_scores(hypotheses, references, lang)
    return "".join(f"{name}\t{value:.2f}\n" for name, value in values.items()) + f"signature\t{signature}\n"


@settings(deadline=None)
@given(texts=lines, name=st.sampled_from(["t.txt", "t.txt.gz"]), ending=st.sampled_from(["\n", "\r\n"]))
def test_plain_lines_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], name: str, ending: str
) -> None:
    first = next((text.strip() for text in texts if text.strip()), "")
    assume(first not in ("{", "["))  # with these a JSON document begins, as far as the content can tell
    path = write(tmp_path_factory.mktemp("plain") / name, "".join(text + ending for text in texts))
    assert read_texts(path, "target", field_text) == texts


@settings(deadline=None)
@given(texts=st.lists(st.text(), max_size=5), name=st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
def test_rows_are_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], name: str) -> None:
    folder = tmp_path_factory.mktemp("rows")
    plain = write(folder / name, as_jsonl([{"target": text} for text in texts]))
    assert read_texts(plain, "target", field_text) == texts
    assert read_texts(plain, "target", hypothesis_text) == texts
    best = write(folder / f"best-{name}", as_jsonl([decoded(text) for text in texts]))
    assert read_texts(best, "target", hypothesis_text) == texts


def test_white_space_and_empty_lines_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", b"\xef\xbb\xbf a \t\n\n\xe2\x80\xa8b\x0cc\r\n last")
    assert read_texts(path, "target", field_text) == [" a \t", "", "\u2028b\x0cc", " last"]


def test_scores_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, truths = ["今天天气很好", "短", ""], ["今天天气不好", "短题", "三"]
    hypotheses = write(tmp_path / "h.jsonl", as_jsonl([decoded(text) for text in texts]))
    references = write(tmp_path / "r.jsonl.gz", as_jsonl([{"title": text} for text in truths]))
    record = tmp_path / "scores.json"
    arguments = [f"hypotheses={hypotheses}", f"references={references}", "lang=zh", "field=title", f"json={record}"]
    assert evaluate.main(arguments) == 0
    assert capsys.readouterr().out == plain_output(texts, truths, "zh")
    written = json.loads(record.read_text(encoding="utf-8"))
    expected = expected_scores(texts, truths, "zh")
    assert (written["values"], written["signature"], written["sentences"]) == (expected.values, expected.signature, 3)
    assert written["arguments"]["references"] == references


@pytest.mark.slow
@pytest.mark.parametrize("jsonl", [False, True])
def test_the_command_reads_standard_input(tmp_path: Path, jsonl: bool) -> None:
    texts = ["{a} cat", "", "the mat"]
    references = write(tmp_path / "r.txt", "a cat\nb\na mat\n")
    piped = as_jsonl([decoded(text) for text in texts]) if jsonl else "".join(text + "\n" for text in texts)
    command = [sys.executable, str(SCRIPT), "hypotheses=-", f"references={references}"]
    done = subprocess.run(command, input=piped, capture_output=True, text=True, check=False, encoding="utf-8")
    said = (
        "standard input: read as JSON lines, because its first line is a JSON object; format=lines reads plain lines\n"
    )
    assert (done.returncode, done.stderr) == (0, said if jsonl else "")
    assert done.stdout == plain_output(texts, ["a cat", "b", "a mat"])


@pytest.mark.slow
def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    references = write(tmp_path / "r.txt", "a\n")
    command = [sys.executable, str(SCRIPT), "hypothesis=-", f"references={references}"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, encoding="utf-8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: unknown key 'hypothesis'; did you mean 'hypotheses'?\n"


def test_help_needs_no_other_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"\n{name}  " in usage for name in ("hypotheses", "references", "lang", "field", "json", "samples"))


# A blank name is refused, a ~ is the home folder, ${oc.env:NAME} a variable, ??? a missing value, as in every command.
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="~\ufeff$?\\")).filter(str.strip))
def test_arguments_stay_the_strings_they_are(value: str) -> None:
    words = [f"hypotheses={value}", "references=012", "lang=no", "field=1e3"]
    parsed = merge(evaluate.Settings, read_arguments(words))
    assert (parsed.hypotheses, parsed.references, parsed.lang, parsed.field) == (value, "012", "no", "1e3")
    assert parsed.json is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lang=en"], "missing hypotheses=FILE and references=FILE"),
        (["hypotheses=a"], "missing references=FILE"),
        (["referense=a"], "unknown key 'referense'; did you mean 'references'?"),
        (["hypotheses.x=a"], "hypotheses: {'x': 'a'} is not a text"),
        (["=a"], "'=a' is not key=value"),
        (["--lang"], "'--lang' is not key=value"),
        (["hypotheses=${nowhere}", "references=a"], "hypotheses: '${' begins ${oc.env:NAME}"),
        (["hypotheses=-", "references=-"], "only one of"),
        (["hypotheses=no/such", "references=a"], "no/such: No such file or directory"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(arguments, capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.txt", b"a\n\xff\n", "r.txt, line 2: not UTF-8: byte 0xff at position 1"),
        ("r.txt", b"a\nb\n", "1 hypotheses and 2 references"),
        ("r.jsonl", b'{"target": "a"}\n{"target": \n', "r.jsonl, line 2: malformed JSON: Expecting value at column 12"),
        ("r.jsonl", b"[" * 100_000, "r.jsonl, line 1: malformed JSON: nested too deeply"),
        ("r.jsonl", b"9" * 5000, "r.jsonl, line 1: malformed JSON: a number of thousands of digits"),
        ("r.jsonl", b"[1]\n", "r.jsonl, line 1: not an object but list"),
        ("r.jsonl", b'{"target": 3}\n', "r.jsonl, line 1: field 'target' is not a string"),
        ("r.jsonl", b'{"id": "1", "targets": "a"}', "no field 'target' among id, targets; did you mean 'targets'?"),
        ("r.jsonl", b'{"id": "1", "title": "a"}', "r.jsonl, line 1: no field 'target'; valid: id, title\n"),
        ("r.txt.gz", None, "r.txt.gz: Not a gzipped file"),
    ],
)
def test_wrong_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(b"plain" if content is None else content)
    hypotheses = write(tmp_path / "h.txt", "a\n")
    assert message in refusal([f"hypotheses={hypotheses}", f"references={path}"], capsys)


@pytest.mark.parametrize("spoil", [lambda data: data[:-12], lambda data: data[:12] + b"\xff" * 8 + data[20:]])
def test_damaged_compression_is_named(
    tmp_path: Path, spoil: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.txt.gz"
    path.write_bytes(spoil(gzip.compress(b"some text\n" * 50, mtime=0)))
    hypotheses = write(tmp_path / "h.txt", "a\n")
    assert "r.txt.gz: damaged gzip file" in refusal([f"hypotheses={hypotheses}", f"references={path}"], capsys)


@pytest.mark.parametrize("beams", [[{}], [{"text": 1}], "text", None])
def test_rows_without_a_hypothesis_are_named(beams: object) -> None:
    with pytest.raises(UserError, match="place: 'hypotheses' is not a list"):
        hypothesis_text({"hypotheses": beams, "target": "a"}, "target", "place")


def test_unwritable_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = write(tmp_path / "t.txt", "a\n")
    record = tmp_path / "no" / "scores.json"
    assert evaluate.main([f"hypotheses={texts}", f"references={texts}", f"json={record}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: json: {record}: No such file or directory; make ")
    assert message.count("\n") == 1


def scored(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert evaluate.main(arguments) == 0
    return capsys.readouterr()


HYPOTHESES = ["a cat", "the mat, and more", ""]
TRUTHS = ["a cat", "the mat", "a dog"]


@pytest.mark.parametrize("name", ["h.jsonl", "h.json", "h.txt", "h", "h.out.gz"])
def test_rows_of_the_decoder_are_scored_whatever_their_file_is_called(tmp_path: Path, name: str, capsys) -> None:
    hypotheses = write(tmp_path / name, as_jsonl([decoded(text) for text in HYPOTHESES]))
    references = write(tmp_path / "r.txt", "".join(text + "\n" for text in TRUTHS))
    out, err = scored([f"hypotheses={hypotheses}", f"references={references}"], capsys)
    assert out == plain_output(HYPOTHESES, TRUTHS)
    is_told = "read as JSON lines, because its first line is a JSON object" in err
    assert is_told == (name not in ("h.jsonl", "h.json"))
    assert err.count("\n") == is_told


@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.tsv", "r.txt"])
def test_tables_are_read_by_their_header(tmp_path: Path, name: str, capsys) -> None:
    hypotheses = write(tmp_path / "h.txt", "".join(text + "\n" for text in HYPOTHESES))
    between = "\t" if ".tsv" in name else ","
    table = f"id{between}target\n" + "".join(f"{at}{between}{text}\n" for at, text in enumerate(TRUTHS))
    references = write(tmp_path / name, table)
    out, err = scored([f"hypotheses={hypotheses}", f"references={references}"], capsys)
    assert out == plain_output(HYPOTHESES, TRUTHS)
    assert ("read as CSV" in err) == (name == "r.txt")
    message = refusal([f"hypotheses={hypotheses}", f"references={references}", "field=title"], capsys)
    assert "no field 'title'" in message or name == "r.txt"


def test_a_row_without_hypotheses_is_an_empty_text_and_counted(tmp_path: Path, capsys) -> None:
    rows = [*(decoded(text) for text in HYPOTHESES[:2]), {"id": 3, "source": "s", "hypotheses": [], "settings": {}}]
    hypotheses = write(tmp_path / "h.jsonl", as_jsonl(rows))
    references = write(tmp_path / "r.txt", "".join(text + "\n" for text in TRUTHS))
    out, err = scored([f"hypotheses={hypotheses}", f"references={references}"], capsys)
    assert out == plain_output(HYPOTHESES, TRUTHS)
    assert err == f"{hypotheses}: 1 of 3 rows have no hypothesis; each is taken as an empty text\n"


def test_lines_that_look_like_rows_are_lines_where_that_is_asked(tmp_path: Path, capsys) -> None:
    texts = ['{"target": "x"}', "b"]
    path = write(tmp_path / "t.txt", "".join(text + "\n" for text in texts))
    assert "line 2: malformed JSON" in refusal([f"hypotheses={path}", f"references={path}"], capsys)
    out, err = scored([f"hypotheses={path}", f"references={path}", "format=lines"], capsys)
    assert (out, err) == (plain_output(texts, texts), "")
    message = refusal([f"hypotheses={path}", f"references={path}", "format=line"], capsys)
    assert message == "error: command line: format: no 'line'; did you mean 'lines'?\n"
