"""Sets larger than memory: the same examples, ids and order from the cache as from memory, whole or not at all."""

import hashlib
import json
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import settings as slow
from hypothesis import strategies as st

from s2s.data import Dataset, DataSettings, Example, Examples, cache, fingerprint, load, ragged, tokenised, user_files
from s2s.data.cache import CacheEntry, ScratchFolder
from s2s.data.example_store import pack, unpack
from s2s.data.ragged import Ragged, RaggedWriter
from s2s.data.tokenised import TokenisedSplit, tokenise
from s2s.errors import UserError
from s2s.vocabulary import Vocabulary, sentence_pieces

ROWS = [Example(f"source {number % 90} " + "x" * (number % 7), f"target {number}") for number in range(300)]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set is a large one."""
    for module, name in ((user_files, "LARGE"), (tokenised, "MANY"), (ragged, "SPILL"), (tokenised, "CHUNK")):
        monkeypatch.setattr(module, name, 7)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return sentence_pieces.train([text for row in ROWS for text in row[:2]], 300)


def settings(folder: Path, **keys: object) -> DataSettings:
    return DataSettings(path=str(folder / "set.jsonl"), cache=str(folder / "cache"), **keys)


def written(folder: Path, rows: list[Example]) -> DataSettings:
    lines = "".join(json.dumps({"source": row.source, "target": row.target}) + "\n" for row in rows)
    (folder / "set.jsonl").write_text(lines, encoding="utf-8")
    return settings(folder)


def kept(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache").glob("*") if path.is_dir()]


def encoded(data: DataSettings, dataset: Dataset, vocabulary: Vocabulary) -> TokenisedSplit:
    place = CacheEntry(Path(str(data.cache)), dataset.fingerprint)
    return tokenise(dataset.train, vocabulary, 9, 6, "train", data_entry=place)


def test_small_sets_leave_nothing_behind(tmp_path: Path, vocabulary: Vocabulary) -> None:
    data = written(tmp_path, ROWS)
    encoded(data, load(data), vocabulary)
    assert not (tmp_path / "cache").exists()


def test_the_cache_holds_what_memory_does(
    tmp_path: Path, vocabulary: Vocabulary, request: pytest.FixtureRequest
) -> None:
    data = written(tmp_path, ROWS)
    plain = load(data)
    ids = encoded(data, plain, vocabulary)
    request.getfixturevalue("little")
    first = load(data)
    of_first = encoded(data, first, vocabulary)
    (tmp_path / "set.jsonl").chmod(0o644)
    again = load(data)
    of_again = encoded(data, again, vocabulary)
    assert len(kept(tmp_path)) == 2 + (first.report == again.report)
    for other, its in ((first, of_first), (again, of_again)):
        assert other[:4] == plain[:4]
        assert its.report == ids.report
        assert (list(its.sources), list(its.targets)) == (list(ids.sources), list(ids.targets))
        assert (its.lengths() == ids.lengths()).all()
        batch, same = (each.batch(numpy.array([5, 0, 280]), vocabulary, 1, 2) for each in (its, ids))
        assert all((mine == theirs).all() for mine, theirs in zip(batch[:5], same[:5], strict=True))
    assert ids.lengths().dtype == numpy.int32


@pytest.mark.usefixtures("little")
def test_the_second_time_no_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary
) -> None:
    data = written(tmp_path, ROWS)
    dataset = load(data)
    ids = encoded(data, dataset, vocabulary)
    monkeypatch.setattr(user_files, "read_rows", None)
    monkeypatch.setattr(tokenised, "encode_rows", None)
    again = load(data)
    assert again[:4] == dataset[:4]
    assert again.report[1].startswith("read before, kept in ")
    assert list(encoded(data, again, vocabulary).sources) == list(ids.sources)


@pytest.mark.usefixtures("little")
def test_other_files_settings_and_vocabularies_are_read_anew(tmp_path: Path, vocabulary: Vocabulary) -> None:
    data = written(tmp_path, ROWS)
    first = load(data)
    changed = load(written(tmp_path, [*ROWS[:-1], ROWS[-1]._replace(target="target 29x")]))
    assert changed.fingerprint != first.fingerprint
    swapped = load(settings(tmp_path, source_field="target", target_field="source"))
    assert swapped.fingerprint not in (first.fingerprint, changed.fingerprint)
    other = sentence_pieces.train(["something else about targets and sources"], 301)
    ids = [encoded(data, first, each) for each in (vocabulary, other, vocabulary)]
    assert list(ids[0].sources) == list(ids[2].sources)
    assert other.encode(ROWS[0].target)[:5] != vocabulary.encode(ROWS[0].target)[:5]
    assert ids[1].targets[:1] == [other.encode(first.train[0].target)[:5]]


@pytest.mark.usefixtures("little")
def test_an_interrupted_reading_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(tmp_path, ROWS)
    (tmp_path / "set.jsonl").write_bytes((tmp_path / "set.jsonl").read_bytes() + b"broken\n")
    with pytest.raises(UserError, match=r":301: malformed JSON"):
        load(data)
    assert kept(tmp_path) == []
    left = tmp_path / "cache" / f"{cache.PARTIAL}killed"
    left.mkdir()
    monkeypatch.setattr(cache, "STALE_SECONDS", -1)
    load(written(tmp_path, ROWS))
    assert not left.exists()
    (half,) = kept(tmp_path)
    first = load(data)
    for file in ("meta.json", "train.uint8", "train.offsets.int64"):
        content = (half / file).read_bytes()
        (half / file).write_bytes(content[:-8])  # as after a disk's error
        again = load(data)
        assert again[:4] == first[:4]
        assert not any(line.startswith("read before") for line in again.report)
        assert (half / file).read_bytes() == content


@pytest.mark.usefixtures("little")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    data = written(tmp_path, ROWS)
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^data\.cache: {tmp_path / 'cache'} cannot be written"):
        load(data)


@slow(deadline=None, max_examples=50)
@given(rows=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6), max_size=12), spill=st.integers(1, 60))
def test_ragged_rows_come_back(rows: list[list[int]], spill: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    before, ragged.SPILL = ragged.SPILL, spill
    try:
        with ScratchFolder(tmp_path_factory.mktemp("home")) as scratch:
            writer = RaggedWriter(scratch, "rows", "int32")
            writer.extend(rows)
            found = writer.finish()
    finally:
        ragged.SPILL = before
    assert isinstance(found, Ragged)
    assert found == rows
    assert found[1:] == rows[1:]
    assert not rows or found[-1] == rows[-1]
    with pytest.raises(IndexError):
        found[len(rows)]


@slow(deadline=None, max_examples=50)
@given(
    texts=st.tuples(TEXT, TEXT),
    tokens=st.lists(TEXT).map(tuple),
    fields=st.lists(st.tuples(TEXT, st.none() | TEXT | st.lists(TEXT).map(tuple))).map(tuple),
    references=st.lists(TEXT).map(tuple),
)
def test_an_example_is_packed_whole(texts, tokens, fields, references) -> None:  # type: ignore[no-untyped-def]
    example = Example(*texts, tokens, fields, references)
    assert unpack(pack(example)) == example
    assert list(Examples.of([example, example])) == [example, example]


def test_the_fingerprint_is_that_of_the_lines() -> None:
    rows = [
        *ROWS[:3],
        Example("a", "b", ("a",), (("f", None), ("g", ("h", "i")))),
        Example("ä", "c", (), (("f", "x"),)),
    ]
    lines = [json.dumps([split, *(row[:4] if row.fields else row[:2])]) for split in ("train", "dev") for row in rows]
    whole = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    assert fingerprint({"train": Examples.of(rows), "dev": Examples.of(rows)}) == whole[:12]


def test_a_large_vocabulary_is_learned_from_a_sample(tmp_path: Path) -> None:
    from s2s.data.dataset import texts
    from s2s.recipe.recipe import Recipe

    dataset = load(written(tmp_path, ROWS))
    found = list(islice(texts(dataset, 3), 10))
    rows = [dataset.train[index * len(dataset.train) // 3] for index in range(3)]
    assert found == [text for row in rows for text in row[:2]]
    assert list(texts(dataset, None)) == list(texts(dataset, 10**9)) == [t for row in dataset.train for t in row[:2]]
    with pytest.raises(UserError, match=r"vocabulary\.sample: 0 is not at least 1"):
        Recipe.load("toy_copy", ["vocabulary.sample=0"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux limits the memory of a process")
def test_parts_that_are_larger_than_memory_are_read_one_after_the_other(tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(400)]

    def row(length: int) -> str:
        return json.dumps({"source": " ".join(draw.choices(words, k=length)), "target": draw.choice(words)}) + "\n"

    (tmp_path / "small.jsonl").write_text("".join(row(30) for _ in range(200)), encoding="utf-8")
    for part in range(3):
        lines = "".join(row(350) for _ in range(2000))
        (tmp_path / f"part-{part}.jsonl").write_text(lines, encoding="utf-8")
    size = sum(path.stat().st_size for path in tmp_path.glob("part-*"))
    assert size > 10 << 20
    worker = Path(__file__).parents[1] / "helpers" / "limited_memory_worker.py"
    done = subprocess.run(
        [sys.executable, str(worker), str(tmp_path), "5"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    examples, tokens = map(int, done.stdout.split())
    assert 5700 <= examples < 6000  # the rest is held out
    assert tokens > examples // 10
