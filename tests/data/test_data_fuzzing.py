"""Any data file is read, or refused in one line that names file and line; nothing is left half-written."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data import DataSettings, load
from s2s.errors import UserError
from s2s.train import main

pytest.importorskip("pyarrow")

KINDS = ["jsonl", "tsv", "csv", "parquet", "txt", "json", "arrow"]
NAMES = st.sampled_from(["source", "target", "sauce", "", "a.b"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(VALUES | st.fixed_dictionaries({"source": VALUES, "target": VALUES}), max_size=4)
LINES = st.lists(st.text(max_size=12) | st.sampled_from(["source\ttarget", "a,b", '"a', "x\ty"]), max_size=5)
BYTES = st.one_of(
    st.binary(max_size=80),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    LINES.map(lambda lines: "\n".join(["source,target", *lines]).encode("utf-8", "surrogatepass")),
    LINES.map(lambda lines: "\n".join(["source\ttarget", *lines]).encode("utf-8", "surrogatepass")),
    st.binary(max_size=40).map(lambda content: b'{"source": "a", "target": "b"}\n' + content),
    st.binary(max_size=40).map(lambda content: b"PAR1" + content + b"PAR1"),
)


@settings(deadline=None, max_examples=200)
@given(content=BYTES, kind=st.sampled_from(KINDS), zipped=st.sampled_from(["", ".gz", "not"]), skip=st.booleans())
def test_any_file_is_read_or_refused(
    content: bytes, kind: str, zipped: str, skip: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / f"train.{kind}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped == ".gz" else content)
    keys = {"source_field": "text", "target_field": "text"} if kind == "txt" else {}
    try:
        data = load(DataSettings(path=str(path), on_error="skip" if skip else "stop", cache=str(folder / "c"), **keys))
    except UserError as error:
        message = str(error)
    else:
        message = f"{path}: fine"
        assert all(row.source.strip() and row.target.strip() for row in [*data.train, *data.dev])
    assert message.startswith(f"{path}:")
    assert len(message.splitlines()) == 1
    assert [entry.name for entry in folder.iterdir()] == [path.name]


CASES = {
    "train.jsonl": [b'{"source": "a\xff"}', b"[" * 100_000, b'{"source": 1, "target": "b"}', b'{"source": "a"}', b""],
    "train.csv": [b"source\n1\n", b'source,target\n"a,b\n', b"\xff\xfe"],
    "train.parquet": [b"PAR1PAR1", b""],
    "train.jsonl.gz": [b"no gzip", gzip.compress(b'{"source": "a", "target": "b"}\n' * 50, mtime=0)[:-12]],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in CASES for content in CASES[name]])
def test_the_command_ends_with_one_line(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = [f"data={{source: null, path: {tmp_path}}}", f"run.folder={tmp_path / 'run'}"]
    assert main(["recipe=toy_copy", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / name}:")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left in ([name], sorted([".lock", name]))
