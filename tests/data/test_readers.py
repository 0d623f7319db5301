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

from s2s.data import Dataset, DataSettings, Example, lines, load, parquet_files
from s2s.data.rows import Fields
from s2s.data.user_files import read
from s2s.errors import UserError
from s2s.vocabulary.spelling import is_blank

datasets = pytest.importorskip("datasets")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ipc = pytest.importorskip("pyarrow.ipc")

FIELDS = ("source", "target")


def is_seen(text: str) -> bool:
    return not is_blank(text)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(is_seen)
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
    data = load(DataSettings(dataset=parquet_files.StoredSet(name)))
    assert (data.train, data.dev) == (examples(ROWS[:20]), examples(ROWS[20:]))
    wrong = DataSettings(dataset=parquet_files.StoredSet(name, train="trian"))
    assert refusal(lambda: load(wrong)) == f"data.dataset: '{name}' has no split 'trian'; did you mean 'train'?"
    missing = DataSettings(dataset=parquet_files.StoredSet(str(tmp_path / "none")))
    assert refusal(lambda: load(missing)).startswith(f"data.dataset: '{tmp_path / 'none'}' cannot be loaded: ")


def test_a_missing_library_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.parquet", parquet_bytes(ROWS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refusal(lambda: loaded(path)) == f"{path} needs the package pyarrow: pip install -e '.[data]'"


HEADER = b"source,target\n"
GOOD = [f"s{number},t{number}\n".encode() for number in range(551)]


def stray(line: bytes, at: int = 50) -> bytes:
    return HEADER + b"".join([*GOOD[:at], line, *GOOD[at:]])


def numbered(rows: range) -> list[Example]:
    return [Example(f"s{number}", f"t{number}") for number in rows]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("line", [b'oops,"t51\n', b'"oops,t51\n', b'a, "b\n', b'a,"b ""c"\n'[:-2] + b"\n"])
def test_an_unclosed_quote_costs_its_line_only(line: bytes, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.csv{suffix}", stray(line))
    message = refusal(lambda: read(path, FIELDS, "stop"))
    assert message == f"{path}:52: a quote is opened here and never closed"
    kept, report = read(path, FIELDS, "skip")
    assert kept == numbered(range(551))
    assert report == [f"{path}: skipped 1 line (first: line 52: a quote is opened here and never closed)"]


def test_each_line_that_is_lost_is_counted_and_named(tmp_path: Path) -> None:
    lines = [*GOOD[:5], b'oops,"x\n', *GOOD[5:9], b'he,said "y"\n', *GOOD[9:12], b'a,"b" c\n', *GOOD[12:]]
    path = write(tmp_path / "t.csv", HEADER + b"".join(lines))
    assert refusal(lambda: read(path, FIELDS, "stop")).startswith(f"{path}:7: a quote is opened here, and on line 12")
    kept, report = read(path, FIELDS, "skip")
    assert kept == [*numbered(range(9)), Example("he", 'said "y"'), *numbered(range(9, 551))]
    assert report[0].startswith(f"{path}: skipped 2 lines (first: line 7: ")


def test_the_line_of_the_quote_is_named_not_of_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER + b'"a\nb","c\n' + b"".join(GOOD))
    assert refusal(lambda: read(path, FIELDS, "stop")).startswith(f"{path}:3: a quote is opened here and never closed")
    assert read(path, FIELDS, "skip")[0][-551:] == numbered(range(551))


def test_a_quote_that_closes_in_a_row_of_other_columns_costs_its_line_only(tmp_path: Path) -> None:
    lines = [*GOOD[:5], b'"oops,x\n', *GOOD[5:9], b'a",b,c\n', *GOOD[9:]]
    path = write(tmp_path / "t.csv", HEADER + b"".join(lines))
    message = refusal(lambda: read(path, FIELDS, "stop"))
    assert message == f"{path}:7: a quote is opened here, and on line 12: 3 columns where the header has 2"
    kept, report = read(path, FIELDS, "skip")
    assert kept == numbered(range(551))
    assert report[0].startswith(f"{path}: skipped 2 lines")


@pytest.mark.parametrize("count", [11, 500])
def test_a_quote_that_closes_far_below_is_told(count: int, tmp_path: Path) -> None:
    lines = [*GOOD[:10], b'oops,"x\n', *GOOD[10 : 10 + count - 1], b'y"\n', *GOOD[10 + count - 1 :]]
    path = write(tmp_path / "t.csv", HEADER + b"".join(lines))
    kept, report = read(path, FIELDS, "stop")
    assert len(kept) == 551 - count + 2
    assert report == [
        f"{path}: 1 cell holds more than 10 lines (first: line 12, {count + 1} lines); a stray quote joins rows so"
    ]


@pytest.mark.parametrize(
    ("lines", "cell"),
    [
        ([b'oops,"x\n', b's,y"\n'], 2),  # opened in the last column
        ([b'oops,"x\n', b"a,b\n", b's,y"\n'], 3),
        ([b'"oops,x\n', b"a,b\n", b'12",y\n'], 3),  # in the first
    ],
)
def test_a_quote_that_closes_a_few_rows_below_is_told(lines: list[bytes], cell: int, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER + b"".join([*GOOD[:10], *lines, *GOOD[10:]]))
    kept, report = read(path, FIELDS, "stop")
    assert len(kept) == 552
    assert report == [
        f"{path}: 1 cell holds what looks like rows (first: line 12, {cell} lines); a stray quote joins rows so"
    ]


def test_cells_of_a_few_lines_are_nothing_to_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER + b'"a\nb","c\r\nd, ""e"""\nf,g\n"h,\ni",j\n"k, l\nm",n\n')
    assert read(path, FIELDS, "stop") == (
        [Example("a\nb", 'c\nd, "e"'), Example("f", "g"), Example("h,\ni", "j"), Example("k, l\nm", "n")],
        [],
    )


@pytest.mark.parametrize("line", [b'"x y", "X Y"', b'   "x y","X Y"', b'"x y",   "X Y"', b"x y,X Y", b" x y , X Y "])
def test_a_blank_before_a_quote_is_no_text(line: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", b'"source", "target"\n' + line + b"\n")
    assert read(path, FIELDS, "stop") == ([Example("x y", "X Y")], [])


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.sampled_from(["a,b", '"a', 'a"', '"a,b"', '"a","b"', 'a,"b', '""', '"', ',"x""', "x,y,z", ""])),
    bytes_=st.booleans(),
)
def test_a_line_that_is_lost_loses_no_other(
    lines: list[str], bytes_: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows after a good record of one line without quotes do not depend on the lines before an unclosed quote."""
    tail = ["good1,row1", "good2,row2"]
    whole = ["source,target", *lines, '"never', *tail]
    path = write(
        tmp_path_factory.mktemp("csv") / "t.csv", "\n".join(whole).encode() + (b"\n\xff,x\n" if bytes_ else b"")
    )
    kept, _ = read(path, FIELDS, "skip")
    texts = [text for example in kept for text in example[:2]]
    assert any("good2" in text for text in texts)
    assert any("row2" in text for text in texts)


DOUBLED = {
    "csv": b"source,target,target\na,b,c\n",
    "tsv": b"source\ttarget\ttarget\na\tb\tc\n",
    "jsonl": b'{"source": "a", "target": "b", "target": "c"}\n',
    "json": b'[{"source": "a", "target": "b", "target": "c"}]',
    "ndjson": b'{"source": "a", "target": {"x": 1, "x": 2}}\n',
}


@pytest.mark.parametrize("kind", DOUBLED)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_names_that_stand_twice_are_refused(kind: str, on_error: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{kind}", DOUBLED[kind])
    message = refusal(lambda: read(path, FIELDS, on_error))
    assert f"more than one field '{'x' if kind == 'ndjson' else 'target'}'" in message
    assert message.startswith(f"{path}:")


def arrow_bytes(table: object, form: str = "file") -> bytes:
    file = io.BytesIO()
    with (ipc.new_file if form == "file" else ipc.new_stream)(file, table.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(table, max_chunksize=5)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_one_name_are_refused(kind: str, tmp_path: Path) -> None:
    table = arrow.Table.from_arrays([arrow.array(["a"])] * 3, names=["source", "target", "target"])
    file = io.BytesIO()
    parquet.write_table(table, file)
    path = write(tmp_path / f"t.{kind}", file.getvalue() if kind == "parquet" else arrow_bytes(table))
    assert refusal(lambda: read(path, FIELDS, "stop")) == f"{path}: more than one field 'target' among its columns"


JSON_DOCUMENTS = [
    json.dumps(ROWS, indent=1),
    json.dumps(ROWS),
    "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "\n".join(map(json.dumps, ROWS)),
    "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
]


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".txt"])
@pytest.mark.parametrize("document", range(len(JSON_DOCUMENTS)))
def test_json_documents_are_rows(document: int, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"train{suffix}", JSON_DOCUMENTS[document].encode())
    kept, report = read(path, FIELDS, "stop")
    assert kept == examples(ROWS)
    assert bool(report) == (suffix == ".txt")  # .txt says no format, so the one that the content shows is reported
    assert not report or f"{path}: read as " in report[0]


def test_an_item_of_a_json_array_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", b'[\n{"source": "a",\n "target": "b"},\n{"source": "c"},\n3]')
    assert refusal(lambda: read(path, FIELDS, "stop")).startswith(f"{path}:4: no field 'target'")
    assert read(path, FIELDS, "skip")[1][0].startswith(f"{path}: skipped 2 lines (first: line 4: ")
    for broken in (b'[{"source": "a", "target": "b"}', b'[{"source": "a"} 3]', b"[{]", b"[] x"):
        assert "malformed JSON" in refusal(lambda: read(write(path, broken), FIELDS, "skip"))  # noqa: B023


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("suffix", [".arrow", ".arrow.gz", ".feather", ".bin"])
def test_arrow_files_are_rows(form: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"train{suffix}", arrow_bytes(arrow.Table.from_pylist(ROWS), form))
    assert read(path, FIELDS, "stop")[0] == examples(ROWS)
    assert "broken" in refusal(lambda: read(write(path, b"ARROW1\0\0 and no more"), FIELDS, "stop"))


def test_rows_of_parquet_are_numbered_through_its_groups(tmp_path: Path) -> None:
    rows = [*ROWS, {"source": "x", "target": None}]
    path = write(tmp_path / "t.parquet", parquet_bytes(rows))  # type: ignore[arg-type]
    assert refusal(lambda: read(path, FIELDS, "stop")).startswith(f"{path}:25: field 'target' is null")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize("last", [True, False])
def test_all_line_ends_end_lines(ends: str, kind: str, last: bool, tmp_path: Path) -> None:
    rows = [{"source": f"a {number}", "target": "b"} for number in range(3)]
    lines = [json.dumps(row) for row in rows]
    if kind in ("csv", "tsv"):
        between = "," if kind == "csv" else "\t"
        lines = [between.join(FIELDS), *(between.join(row.values()) for row in rows)]
    path = write(tmp_path / f"t.{kind}", (ends.join(lines) + ends * last).encode())
    assert read(path, FIELDS, "stop") == (examples(rows), [])


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"source": "a"}\n'.encode("utf-16"))
    assert refusal(lambda: read(path, FIELDS, "stop")) == f"{path}:1: not UTF-8 but UTF-16; save it as UTF-8"


CONTENTS = {
    "JSON lines": jsonl_bytes(ROWS),
    "CSV": csv_bytes(ROWS),
    "TSV": ("source\ttarget\n" + "".join(f"{row['source']}\t{row['target']}\n" for row in ROWS)).encode(),
    "Parquet": parquet_bytes(ROWS),
}


@pytest.mark.parametrize("name", ["t.txt", "t", "t.rows.gz"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_where_the_name_tells_nothing_the_content_does(kind: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, CONTENTS[kind])
    kept, report = read(path, FIELDS, "stop")
    assert kept == examples(ROWS)
    assert report[0].startswith(f"{path}: read as {kind}, because ")


def test_a_packed_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(gzip.compress(jsonl_bytes(ROWS)))
    assert read(path, FIELDS, "stop")[0] == examples(ROWS)


@pytest.mark.parametrize(
    "first", ["{a} cat", '{"a": 1', "[1, 2]", "[a]", "a, b", "source", "the source, a target", "PAR1"]
)
def test_plain_lines_that_look_like_rows_stay_plain(first: str, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(f"{first}\nb c\n", encoding="utf-8")
    assert read_lines_or_rows(str(path)) == ([first, "b c"], None)


def read_lines_or_rows(path: str) -> object:
    return lines.read_rows(path, lines.Wanted(Fields(one_of=("source", "target"))))


@pytest.mark.parametrize("content", ['{"a": 1}\nplain\n', "[\nplain\n", "source,target\nplain\n"])
def test_what_looks_like_rows_and_is_none_is_refused_with_the_remedy(content: str, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text(content, encoding="utf-8")
    message = refusal(lambda: read_lines_or_rows(str(path)))
    assert message.startswith(str(path))
    assert message.endswith("; format=lines reads plain lines)")
    assert lines.read_lines(str(path)) == content.splitlines()


def test_a_carriage_return_within_a_line_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "t.txt", []
    path.write_bytes(b"a\rb\nc\r\nd")
    assert lines.read_rows(str(path), lines.Wanted(log=told.append)) == (["a\rb", "c", "d"], None)
    assert told == [f"{path}: 1 line holds a carriage return, which ends no line here (first: line 1)"]


@pytest.mark.parametrize("line", ['\t"x","y"', 'x,\t"y"', '"x", \t "y"', '\u3000"x",y'])
def test_a_tab_before_a_quote_is_refused_and_not_kept_as_text(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER + line.encode() + b"\na,b\n")
    assert refusal(lambda: read(path, FIELDS, "stop")).startswith(f"{path}:2: ")
    assert read(path, FIELDS, "skip")[0] == [Example("a", "b")]
    inside = write(tmp_path / "u.csv", HEADER + b'"a,\t""b""","c"\n')
    assert read(inside, FIELDS, "stop") == ([Example('a,\t"b"', "c")], [])


def test_quotes_of_a_table_with_tabs_stay_and_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", b'source\ttarget\n"a"\tb\nc "d"\te\n')
    kept, report = read(path, FIELDS, "stop")
    assert kept == [Example('"a"', "b"), Example('c "d"', "e")]
    assert report == [f"{path}: 1 row has values in quotes, which stay; only .csv has quotes"]
