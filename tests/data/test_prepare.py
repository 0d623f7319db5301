"""The published formats of CSL and Multi30k become sets that a recipe reads."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from s2s.data import DataSettings, load

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import prepare_csl
import prepare_multi30k

EN, DE = ["A man.", "Two dogs run.", "A woman, sitting."], ["Ein Mann.", "Zwei Hunde rennen.", "Eine Frau, sitzend."]


def parallel(folder: Path, stem: str, zipped: bool = False) -> None:
    for language, lines in {"en": EN, "de": DE}.items():
        content = "".join(line + "\n" for line in lines).encode()
        name = f"{stem}.{language}{'.gz' if zipped else ''}"
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)


def test_multi30k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parallel(tmp_path, "train", zipped=True)
    parallel(tmp_path, "val")
    parallel(tmp_path, "test_2016_flickr")
    assert prepare_multi30k.main([str(tmp_path), str(tmp_path / "set")]) == 0
    data = load(DataSettings(path=str(tmp_path / "set"), source_field="en", target_field="de"))
    for split in data[:3]:
        assert [example[:2] for example in split] == list(zip(EN, DE, strict=True))
    assert capsys.readouterr().out.count("3 rows") == 3


def test_multi30k_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_multi30k.main([str(tmp_path), str(tmp_path / "set")]) == 2
    parallel(tmp_path, "train")
    (tmp_path / "train.de").write_text("one line\n", encoding="utf-8")
    assert prepare_multi30k.main([str(tmp_path), str(tmp_path / "set")]) == 2
    (tmp_path / "train.de").write_text("a\n\nb\n", encoding="utf-8")
    assert prepare_multi30k.main([str(tmp_path), str(tmp_path / "set")]) == 2
    (tmp_path / "train.de").write_bytes(b"a\n\xff\nb\n")
    assert prepare_multi30k.main([str(tmp_path), str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line.partition("/train")[2] for line in error] == [
        "", ".de: 1 lines, but 3 in en", ".de:2: blank line", ".de: not UTF-8 (invalid start byte)",
    ]  # fmt: skip
    assert not (tmp_path / "set").exists()


def test_csl_titles_of_clge(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        rows = [{"id": number, "title": f"题目{number}", "abst": f"摘要{number}"} for number in range(3)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"csl_title_{split}.json").write_text(lines, encoding="utf-8")
    assert prepare_csl.main([str(tmp_path), str(tmp_path / "set")]) == 0
    data = load(DataSettings(path=str(tmp_path / "set"), source_field="abstract", target_field="title"))
    assert [example[:2] for example in data.dev] == [(f"摘要{number}", f"题目{number}") for number in range(3)]
    assert data.train == data.dev


def test_the_whole_csl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"题目{number}\t摘要{number}\t词_语\t兵器\t工学\n" for number in range(200)]
    (tmp_path / "csl_camera_readly.tsv").write_text("".join(rows) + "\t无题\tx\ty\tz\n", encoding="utf-8")
    assert prepare_csl.main([str(tmp_path / "csl_camera_readly.tsv"), str(tmp_path / "set")]) == 0
    assert "1 rows without a title or an abstract left out" in capsys.readouterr().out
    data = load(DataSettings(path=str(tmp_path / "set"), source_field="abstract", target_field="title"))
    assert len(data.train) + len(data.dev) == 200
    assert 1 <= len(data.dev) <= 25
    row = json.loads((tmp_path / "set" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["keywords"] == ["词", "语"]


@pytest.mark.parametrize("line", ["[1]", '{"abst": "x"}', '{"title": 3, "abst": "x"}', "{", "[" * 100_000])
def test_csl_that_is_broken_is_refused(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "csl_title_train.json"
    file.write_text(line, encoding="utf-8")
    assert prepare_csl.main([str(file), str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}:1: ")
    assert error.count("\n") == 1
    assert prepare_csl.main([str(tmp_path / "set"), str(tmp_path / "other")]) == 2
