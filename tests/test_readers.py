"""Formats, pieces and lists of files, several references, saved and named sets: all give the same examples."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data import Dataset, DataSettings, Example, columnar, load
from s2s.data.files import read
from s2s.errors import UserError

datasets = pytest.importorskip("datasets")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FIELDS = ("source", "target")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(str.strip)
ROWS = [{"source": f"text {number}, 'ä' \"b\"", "target": f"title {number}"} for number in range(24)]


def csv_bytes(rows: list[dict[str, str]], line_end: str = "\r\n") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=["target", "other", "source"], restval="x", lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet_bytes(rows: list[dict[str, str]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), file, row_group_size=5)
    return file.getvalue()


def jsonl_bytes(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


KINDS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "csv": csv_bytes,
    "parquet": parquet_bytes,
    "jsonl": jsonl_bytes,
}


def examples(rows: list[dict[str, str]]) -> list[Example]:
    return [Example(row["source"].strip(), row["target"].strip()) for row in rows]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def loaded(path: Path, **keys: object) -> Dataset:
    return load(DataSettings(path=str(path), **keys))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None, max_examples=40)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), kind=st.sampled_from(sorted(KINDS)))
def test_any_text_comes_back(pairs: list[tuple[str, str]], kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [dict(zip(FIELDS, pair, strict=True)) for pair in pairs]
    path = write(tmp_path_factory.mktemp("set") / f"train.{kind}", KINDS[kind](rows))
    assert read(path, FIELDS, "stop") == (examples(rows), [])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_pieces_come_in_natural_order(kind: str, suffix: str, tmp_path: Path) -> None:
    for place, rows in {"train-2": ROWS[:8], "train-10": ROWS[8:16], "train-11": ROWS[16:], "dev": ROWS[:3]}.items():
        write(tmp_path / f"{place}.{kind}{suffix}", KINDS[kind](rows))
    data = loaded(tmp_path)
    assert data.train == examples(ROWS)
    assert data.dev == examples(ROWS[:3])
    assert data.fingerprint == load(DataSettings(root=str(tmp_path), **listed(f".{kind}{suffix}"))).fingerprint
    pattern = loaded(tmp_path / f"train-*.{kind}{suffix}")
    assert sorted([*pattern.train, *pattern.dev]) == sorted(examples(ROWS))


def listed(ending: str) -> dict[str, object]:
    return {"train_files": [f"train-2{ending}", f"train-1*{ending}"], "dev_files": [f"dev{ending}"]}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train-0.jsonl train.jsonl", "two files for one split: train-0.jsonl and train.jsonl"),
        ("train-0.jsonl train-1.csv", "two files for one split: train-0.jsonl and train-1.csv"),
        ("dev-0.jsonl", "no train file"),
    ],
)
def test_pieces_of_different_kinds_are_refused(names: str, message: str, tmp_path: Path) -> None:
    for name in names.split():
        write(tmp_path / name, jsonl_bytes(ROWS))
    assert message in refusal(lambda: loaded(tmp_path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_files": ["none-*.csv"]}, "data.train_files: no file fits"),
        ({"dev_files": ["a.jsonl"]}, "data.train_files: there are none"),
        ({"train_files": ["a.jsonl", "*.jsonl"]}, "a.jsonl is listed twice"),
        ({"train_files": ["a.xyz"]}, "unknown kind of file"),
        ({"path": "*.nothing"}, "data.path: no file fits"),
        ({}, "exactly one of the two or data.dataset.name must be given; none is given"),
        ({"path": "a.jsonl", "source": "copy"}, "must be given; source is 'copy' and path is 'a.jsonl'"),
    ],
)
def test_lists_that_name_nothing_are_refused(keys: dict[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl_bytes(ROWS))
    write(tmp_path / "a.xyz", b"")
    assert message in refusal(lambda: load(DataSettings(root=str(tmp_path), **keys)))


BAD = [
    ("csv", b"source,target\na,b\nc\n", ":3: 1 columns where the header has 2"),
    ("csv", b'source,target\n"a\nb",c\n"d\n', ":4: "),
    ("csv", b"source,target\na,\xff\n", ":2: not UTF-8: byte 0xff at position 3"),
    ("csv", b"source,target\n\na,b\n", ":2: blank line"),
    ("csv", b"sauce,target\na,b\n", ":1: no field 'source' in the header; did you mean 'sauce'?"),
    ("csv", b'"source\n', ":1: "),
    ("csv", b"\xff\n", ":1: not UTF-8"),
    ("csv", b"", ": empty"),
    ("csv", b"source,target\n", ": empty"),
    ("parquet", b"PAR1 and nothing more", ": broken Parquet: "),
    ("parquet", parquet_bytes([{"sauce": "a", "target": "b"}]), ": no field 'source' among its columns; did you mean"),
    ("parquet", parquet_bytes([{"source": "a", "target": None}]), ":1: field 'target' is null"),
    ("parquet", parquet_bytes([{"source": 3, "target": "b"}]), ":1: field 'source' is not a string but int"),
    ("parquet", parquet_bytes(ROWS)[:-90], ": broken Parquet: "),
    ("jsonl", b'{"source": "a", "target": []}\n', ":1: field 'target' is an empty list"),
    ("jsonl", b'{"source": "a", "target": ["b", " "]}\n', ":1: field 'target', item 2 is blank"),
    ("jsonl", b'{"source": "a", "target": ["b", 3]}\n', ":1: field 'target', item 2 is not a string but int"),
    ("jsonl", b'{"source": ["a", "\\ud800"], "target": "b"}\n', ":1: field 'source' holds half of a surrogate pair"),
    ("jsonl", b'{"source": ' + b"1" * 5000 + b"}\n", ":1: malformed JSON: a number of thousands of digits"),
    ("jsonl", b'{"source": "' + b"a" * (17 << 20) + b'"}\n', ":1: longer than 16 MiB"),
]


@pytest.mark.parametrize(("kind", "content", "message"), BAD)
def test_what_is_wrong_is_told_with_its_place(kind: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"train.{kind}", content)
    assert refusal(lambda: loaded(path)).startswith(f"{path}{message}")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_after_a_bad_line_the_next_is_read(kind: str, tmp_path: Path) -> None:
    bad = b"x" * (17 << 20) + b"\n\xff,a\n" + (b'"unclosed\n' if kind == "csv" else b"")
    content = KINDS[kind](ROWS[:2]) + bad
    kept, report = read(write(tmp_path / f"train.{kind}", content), FIELDS, "skip")
    assert kept == examples(ROWS[:2])
    assert f"skipped {3 if kind == 'csv' else 2} lines (first: line {4 if kind == 'csv' else 3}: " in report[0]
    more = KINDS[kind](ROWS[2:]) if kind == "jsonl" else b"".join(KINDS[kind](ROWS[2:]).splitlines(keepends=True)[1:])
    content = KINDS[kind](ROWS[:2]) + b"\xff,a,b\n" + more
    assert read(write(tmp_path / f"train.{kind}", content), FIELDS, "skip")[0] == examples(ROWS)


def test_fields_may_lie_within_others(tmp_path: Path) -> None:
    rows = [{"translation": {"en": row["source"], "de": row["target"]}} for row in ROWS]
    fields = {"source_field": "translation.en", "target_field": "translation.de"}
    for kind in ("jsonl", "parquet"):
        path = write(tmp_path / f"all.{kind}", KINDS[kind](rows))
        assert sorted(loaded(path, **fields).train)[0] in examples(ROWS)
    assert "no field 'translation.fr'" in refusal(lambda: loaded(path, **fields | {"target_field": "translation.fr"}))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_train_has_an_example_for_each_reference_and_dev_scores_against_all(kind: str, tmp_path: Path) -> None:
    rows = [{"source": "a", "target": ["b", "c"]}, {"source": "d", "target": ["e"]}, {"source": "f", "target": ["g"]}]
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.{kind}", KINDS[kind](rows))  # type: ignore[arg-type]
    data = loaded(tmp_path)
    assert [example[:2] for example in data.train] == [("a", "b"), ("a", "c"), ("d", "e"), ("f", "g")]
    assert all(not example.references for example in data.train)
    assert (data.dev[0].target, data.dev[0].references) == ("b", ("b", "c"))
    (tmp_path / f"dev.{kind}").unlink()
    held = loaded(tmp_path)
    assert len(held.dev) == 1
    assert {example.source for example in held.train} | {held.dev[0].source} == {"a", "d", "f"}


@pytest.mark.parametrize("splits", [True, False])
def test_saved_sets_are_read(splits: bool, tmp_path: Path) -> None:
    train = datasets.Dataset.from_list(ROWS[:20])
    whole = datasets.DatasetDict({"train": train, "validation": datasets.Dataset.from_list(ROWS[20:])})
    (whole if splits else train).save_to_disk(tmp_path / "saved")
    data = loaded(tmp_path / "saved")
    assert sorted([*data.train, *data.dev]) == sorted(examples(ROWS if splits else ROWS[:20]))
    assert not splits or data.dev == examples(ROWS[20:])
    assert "no field 'sauce' among its columns" in refusal(lambda: loaded(tmp_path / "saved", source_field="sauce"))


def test_named_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, rows in {"train": ROWS[:20], "validation": ROWS[20:]}.items():
        write(tmp_path / "set" / f"{split}-00000-of-00001.parquet", parquet_bytes(rows))
    name = str(tmp_path / "set")
    data = load(DataSettings(dataset=columnar.StoredSet(name)))
    assert (data.train, data.dev) == (examples(ROWS[:20]), examples(ROWS[20:]))
    wrong = DataSettings(dataset=columnar.StoredSet(name, train="trian"))
    assert refusal(lambda: load(wrong)) == f"data.dataset: '{name}' has no split 'trian'; did you mean 'train'?"
    missing = DataSettings(dataset=columnar.StoredSet(str(tmp_path / "none")))
    assert refusal(lambda: load(missing)).startswith(f"data.dataset: '{tmp_path / 'none'}' cannot be loaded: ")


def test_a_missing_library_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.parquet", parquet_bytes(ROWS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refusal(lambda: loaded(path)) == f"{path} needs the package pyarrow: pip install -e '.[data]'"
