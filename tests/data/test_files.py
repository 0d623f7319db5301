"""Laws of examples from files, what is written comes back and bad lines are named, and of sets as a whole."""

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st

import s2s
from s2s.data import DataSettings, Example, Examples, fingerprint, load
from s2s.data.dataset import TRAINED, is_same
from s2s.data.user_files import hold_out, read
from s2s.errors import UserError
from s2s.vocabulary.spelling import is_blank

FIELDS = ("source", "target")
GOOD, HEADER, TAB_GOOD = b'{"source": "a b", "target": "c"}\n', b"source\ttarget\n", b"a b\tc\n"


def is_seen(text: str) -> bool:
    return not is_blank(text)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1).filter(is_seen)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(is_seen)
Pairs = list[tuple[str, str]]
Folders = pytest.TempPathFactory


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_jsonl(path: Path, examples: list[Example]) -> Path:
    return write(path, "".join(json.dumps(example._asdict()) + "\n" for example in examples).encode())


def numbered(prefix: str, count: int) -> list[Example]:
    return [Example(f"{prefix} {index}", f"target {index}") for index in range(count)]


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1), suffix=st.sampled_from(["", ".gz"]), escaped=st.booleans())
def test_json_lines_come_back(pairs: Pairs, suffix: str, escaped: bool, tmp_path_factory: Folders) -> None:
    lines = [json.dumps({"other": 1, **Example(*pair)._asdict()}, ensure_ascii=escaped) for pair in pairs]
    path = write(tmp_path_factory.mktemp("set") / f"train.tsv.jsonl{suffix}", "\n".join(lines).encode())
    assert read(path, FIELDS, "stop") == ([Example(source.strip(), target.strip()) for source, target in pairs], [])


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(CELLS, CELLS), min_size=1), suffix=st.sampled_from(["", ".gz"]))
def test_columns_come_back(pairs: Pairs, suffix: str, tmp_path_factory: Folders) -> None:
    lines = ["target\tother\tsource", *(f"{target}\tx\t{source}" for source, target in pairs)]
    path = write(tmp_path_factory.mktemp("set") / f"train.jsonl.tsv{suffix}", "\n".join(lines).encode())
    assert read(path, FIELDS, "stop") == ([Example(source.strip(), target.strip()) for source, target in pairs], [])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("name", "content"), [("a.jsonl", GOOD * 2), ("a.tsv", HEADER + TAB_GOOD)])
def test_line_ends_do_not_matter(tmp_path: Path, name: str, content: bytes, mark: bytes, newline: bytes) -> None:
    path = write(tmp_path / name, mark + content.replace(b"\n", newline))
    assert set(read(path, FIELDS, "stop")[0]) == {Example("a b", "c")}


BAD_JSON = {
    b'{"source": "a", "target": }': "malformed JSON: Expecting value at column 27",
    b"": "blank line",
    b"[" * 100_000: "nested too deeply",
    b'["a", "b"]': "not an object but list",
    b'{"source": "a", "targets": "b"}': "no field 'target'; did you mean 'targets'?",
    b'{"source": "a", "xyz": "b"}': "no field 'target'; valid: source, xyz",
    b"{}": "no field 'source'; the object is empty",
    b'{"source": 3, "target": "b"}': "field 'source' is not a string but int",
    b'{"source": "a", "target": " \\n "}': "field 'target' is blank",
    b'{"source": "a", "target": "\\u200b"}': "field 'target' is blank",
    b'{"source": "a", "target": "\\ufeff\\u0000"}': "field 'target' is blank",
    b'{"source": "\\u2060", "target": "a"}': "field 'source' is blank",
    b'{"source": "a", "target": "\\ud800"}': "field 'target' holds half of a surrogate pair",
    b'{"source": "a\xff", "target": "b"}': "not UTF-8: byte 0xff at position 14",
}
BAD_COLUMNS = {
    b"a\tb\tc": "3 columns where the header has 2",
    b"a": "1 columns where the header has 2",
    b"a\t ": "field 'target' is blank",
    b"\xe4\tb": "not UTF-8: byte 0xe4 at position 1",
}
BAD = [(name, *item) for name, table in (("jsonl", BAD_JSON), ("tsv", BAD_COLUMNS)) for item in table.items()]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("kind", "bad", "reason"), BAD)
def test_a_bad_line_stops_or_is_counted(tmp_path: Path, kind: str, bad: bytes, reason: str, suffix: str) -> None:
    header, good = (HEADER, TAB_GOOD) if kind == "tsv" else (b"", GOOD)
    path = write(tmp_path / f"t.{kind}{suffix}", header + good + bad + b"\n" + good + (bad + b"\n") * 2)
    place = f"line {3 if header else 2}"
    message = error_of(lambda: read(path, FIELDS, "stop"))
    assert message.startswith(f"{path}:{place[5:]}: ")
    assert reason in message
    examples, report = read(path, FIELDS, "skip")
    assert examples == [Example("a b", "c")] * 2
    assert report == [f"{path}: skipped 3 lines (first: {message.replace(f'{path}:', 'line ')})"]


BROKEN_FILES = [
    ("t.jsonl", b"", ": empty"),
    ("t.tsv", b"", ": empty"),
    ("t.tsv", HEADER, ": empty"),
    ("t.jsonl", b"x\ny\n", ": no usable line (first: line 1: malformed JSON"),
    ("t.tsv", b"source\ttargets\na\tb\n", ":1: no field 'target' in the header; did you mean 'targets'?"),
    ("t.tsv", b"source\ttarget\ttarget\n", ":1: more than one field 'target' in the header"),
    ("t.tsv", b"\na\tb\n", ":1: blank line"),
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "content", "reason"), BROKEN_FILES)
def test_skipping_has_its_limits(tmp_path: Path, name: str, content: bytes, reason: str, suffix: str) -> None:
    path = write(tmp_path / (name + suffix), content)
    assert error_of(lambda: read(path, FIELDS, "skip")).startswith(f"{path}{reason}")


@pytest.mark.parametrize(("start", "end"), [(0, -9), (1, None), (0, 20)])
def test_a_broken_gzip_is_an_error_even_when_skipping(tmp_path: Path, start: int, end: int | None) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 1000)[start:end])
    assert re.match(rf"{path}:\d+: broken gzip: \w", error_of(lambda: read(path, FIELDS, "skip")))


@pytest.mark.parametrize("dev", ["dev", "val", "valid", "validation"])
def test_a_folder_gives_its_three_files(tmp_path: Path, dev: str) -> None:
    sizes = {"train": 5, dev: 3, "test": 2}
    for stem, count in sizes.items():
        write_jsonl(tmp_path / f"{stem}.jsonl", numbered("text", count))
    (tmp_path / "notes.jsonl").write_text("not a split", encoding="utf-8")
    data = load(DataSettings(path=tmp_path.name, root=str(tmp_path.parent)))
    assert data[:3] == tuple(numbered("text", count) for count in sizes.values())
    overlap = [f"{split}: {count} sources also occur in train" for split, count in (("dev", 3), ("test", 2))]
    assert data.report == ["examples: train 5, dev 3, test 2", *overlap]


FOLDERS = {
    "train.jsonl train.tsv": (".", "two files for one split: train.jsonl and train.tsv"),
    "dev.tsv val.tsv.gz": (".", "two files for one split: dev.tsv and val.tsv.gz"),
    "dev.jsonl train.xml mytrain.tsv": (".", "no train file"),
    "a.xyz": ("a.xyz", "unknown kind of file"),
    "train.tsv/x": (".", "cannot be read: Is a directory"),
    "newz/train.tsv": ("news", "/news is missing (root: {root}); did you mean 'newz'?"),
    "x/train.tsv": ("none/news", "so is its folder (root: {root})"),
    "": ("news", "/news is missing (root: {root}); its folder is empty"),
}


@pytest.mark.parametrize("names", FOLDERS)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("S2S_DATA", str(tmp_path))
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    message = error_of(lambda: load(DataSettings(path=FOLDERS[names][0])))
    assert FOLDERS[names][1].format(root=tmp_path) in message
    assert str(tmp_path) in message


@settings(deadline=None)
@given(sources=st.lists(st.integers(0, 60), min_size=1, max_size=120), seed=st.integers(0, 9))
def test_what_is_held_out_shares_no_source_and_does_not_depend_on_order(sources: list[int], seed: int) -> None:
    examples = [Example(str(number), str(index)) for index, number in enumerate(sources)]
    train, dev = map(list, hold_out(Examples.of(examples)))
    assert sorted(train + dev) == sorted(examples)
    kept, held = ({example.source for example in part} for part in (train, dev))
    assert not kept & held
    assert len(held) == min(max(1, round(len(kept | held) / 20)), len(kept | held) - 1)
    shuffled = random.Random(seed).sample(examples, len(examples))
    assert [sorted(part) for part in hold_out(Examples.of(shuffled))] == [sorted(train), sorted(dev)]


def test_at_most_a_thousand_are_held_out(tmp_path: Path) -> None:
    data = load(DataSettings(path=str(write_jsonl(tmp_path / "one.jsonl.gz", numbered("text", 21_000)))))
    lines = ["examples: train 20000, dev 1000, test 0", "no dev file: held out 1000 train examples as dev"]
    assert data.report == lines
    assert hold_out(Examples.of(numbered("text", 20)))[1] == [Example("text 19", "target 19")]


@settings(deadline=None)
@given(size=st.integers(201, 1000))
def test_the_copy_task_copies_and_its_splits_are_distinct(size: int) -> None:
    data = load(DataSettings(source="copy", size=size))
    examples = [example for split in data[:3] for example in split]
    assert [len(split) for split in data[:3]] == [size - 200, 100, 100]
    assert len(set(examples)) == size
    assert all(each.source == each.target and re.fullmatch("[a-j]( [a-j]){2,9}", each.source) for each in examples)


@settings(deadline=None)
@given(texts=st.lists(st.text(), min_size=4, max_size=4), other=st.text(), cut=st.integers(0, 2))
def test_the_fingerprint_tells_texts_order_and_splits_apart(texts: list[str], other: str, cut: int) -> None:
    a, b = Example(*texts[:2]), Example(*texts[2:])
    lists = [[a, b], [b, a], [a, b._replace(target=other)], [a._replace(source=other), b]]
    sets = {(tuple(rows[:part]), tuple(rows[part:])) for rows in lists for part in (cut, 1)}
    found = {fingerprint({"train": Examples.of(train), "dev": Examples.of(dev)}) for train, dev in sets}
    assert len(found) == len(sets)
    assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in found)


TESTS = {
    "test.jsonl": '{"source": "a"}\n',
    "test.csv": "text\na\n",
    "test.tsv": "",
    "test.jsonl.gz": "no gzip",
    "test.parquet": "no parquet",
}


@pytest.mark.parametrize("name", TESTS)
def test_a_test_split_that_cannot_be_used_does_not_stop_training(tmp_path: Path, name: str) -> None:
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.jsonl", numbered(split, 5))
    (tmp_path / name).write_text(TESTS[name], encoding="utf-8")
    data = DataSettings(path=str(tmp_path))
    assert error_of(lambda: load(data)).startswith(str(tmp_path / name))
    found = load(data, splits=TRAINED)
    assert found[:3] == (numbered("train", 5), numbered("dev", 5), [])
    (tmp_path / "test.xz.jsonl").touch()
    (tmp_path / name).unlink()
    write_jsonl(tmp_path / "test.jsonl", numbered("test", 2))
    assert load(data).fingerprint == found.fingerprint
    listed = {"train_files": ["train.jsonl"], "dev_files": ["dev.jsonl"], "test_files": ["none*.jsonl"]}
    assert load(DataSettings(path=str(tmp_path), **listed), splits=TRAINED).fingerprint == found.fingerprint


def test_whole_paths_of_files_need_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S2S_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", numbered("a", 40))
    found = load(DataSettings(train_files=[str(tmp_path / "a.jsonl")]), splits=TRAINED)
    assert len(found.train) + len(found.dev) == 40
    missing = error_of(lambda: load(DataSettings(train_files=["a.jsonl"])))
    assert missing == "data.train_files: no file fits data/a.jsonl"


def test_two_files_for_the_test_split_matter_to_who_reads_it(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "test.jsonl.gz"):
        write_jsonl(tmp_path / name, numbered("a", 3))
    data = DataSettings(path=str(tmp_path))
    assert "two files for one split" in error_of(lambda: load(data))
    assert len(load(data, splits=TRAINED).test) == 0


def test_the_fingerprint_of_a_run_made_before_is_known(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", numbered(split, 3))
    data = DataSettings(path=str(tmp_path))
    whole, trained = load(data), load(data, splits=TRAINED)
    recorded = fingerprint({"train": whole.train, "dev": whole.dev, "test": whole.test})
    assert recorded != trained.fingerprint
    assert is_same(recorded, trained, data)
    assert is_same(trained.fingerprint, whole, data)
    (tmp_path / "test.jsonl").write_text("{}", encoding="utf-8")
    assert is_same(trained.fingerprint, load(data, splits=TRAINED), data)
    assert not is_same(recorded, trained, data)
    write_jsonl(tmp_path / "dev.jsonl", numbered("other", 3))
    assert not is_same(trained.fingerprint, load(data, splits=TRAINED), data)


def test_training_ends_with_a_test_file_without_targets(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "dev"):
        write_jsonl(folder / f"{split}.jsonl", [Example(f"a b {at}", "a b") for at in range(12)])
    (folder / "test.jsonl").write_text('{"source": "a"}\n', encoding="utf-8")
    keys = [f"data={{source: null, path: {folder}}}", "vocabulary.size=300", "run.steps=1"]
    recipe = tiny_runs.recipe(tmp_path / "run", *keys)
    s2s.fit(recipe)
    (folder / "test.jsonl").write_text('{"source": "a", "target": "b"}\n', encoding="utf-8")
    s2s.fit(recipe)  # finished, on the same data
