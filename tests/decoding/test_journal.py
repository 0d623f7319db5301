"""A file of lines after a kill at any moment: every line once, in order, as if nothing had happened."""

import gzip
import itertools
import os
from hashlib import sha256
from pathlib import Path

import pytest

from s2s.data.cache import CacheEntry
from s2s.decoding import resumable_output as module
from s2s.decoding.resumable_output import Journal, Record
from s2s.errors import UserError

MAKER = {"run": ["a"], "search": {"beams": 2}}
PIECES = [["one", "two"], ["three"], ["", "fünf"]]


class Killed(BaseException):
    """What no code of ours catches."""


def digest(count: int) -> str:
    return sha256(str(count).encode()).hexdigest()


def write(path: Path) -> None:
    """Go on with the file, or begin it, as a decoder does."""
    journal = Journal(path)
    try:
        found = journal.unfinished() or Record(MAKER)
        done = found.lines
        assert not done or found.input == digest(done)
        journal.start(found)
        for piece in PIECES:
            if done >= len(piece):
                done -= len(piece)
                continue
            assert not done  # pieces are whole or not there
            journal.append(piece, digest(journal.record.lines + len(piece)))
        journal.finish()
    finally:
        journal.close()


def content(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


@pytest.mark.parametrize("name", ["out.txt", "out.jsonl.gz"])
@pytest.mark.parametrize("torn", [b"", b"half a li"])
def test_killed_at_any_step_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, torn: bytes) -> None:
    calls = itertools.count()
    last = -1

    def dying(function):
        def call(*arguments):
            if next(calls) == last:
                raise Killed
            return function(*arguments)

        return call

    monkeypatch.setattr(module, "write_atomically", dying(module.write_atomically))
    monkeypatch.setattr(module, "sync_folder", dying(module.sync_folder))
    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    write(tmp_path / name)
    undisturbed, kills = (tmp_path / name).read_bytes(), 0
    for last in range(100):
        calls = itertools.count()
        path = tmp_path / str(last) / name
        path.parent.mkdir()
        try:
            write(path)
        except Killed:
            kills += 1
            assert not path.exists() or path.read_bytes() == undisturbed
            calls = itertools.count(1000)
            if (partial := path.with_name(name + ".partial")).exists():
                partial.write_bytes(partial.read_bytes() + torn)
            write(path)
        assert path.read_bytes() == undisturbed
        assert content(path) == "one\ntwo\nthree\n\nfünf\n"
        assert [item.name for item in path.parent.iterdir()] == [name]
        if kills <= last:
            break  # it ends before that call
    assert kills >= 12


@pytest.mark.parametrize("damage", ["", "{}", '{"maker": {}, "lines": 3, "bytes": 999999, "input": ""}'])
def test_a_record_that_is_not_whole_is_no_record(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "out.txt"
    (tmp_path / "out.txt.partial").write_text("one\n", encoding="utf-8")
    (tmp_path / "out.txt.partial.json").write_text(damage, encoding="utf-8")
    journal = Journal(path)
    assert journal.unfinished() is None
    journal.start(Record(MAKER))
    journal.finish()
    journal.close()
    assert path.read_text(encoding="utf-8") == ""


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "out.txt")
    with pytest.raises(UserError, match=r"out.txt.partial: another process is writing it"):
        Journal(tmp_path / "out.txt")
    first.start(Record(MAKER))
    first.finish()
    first.close()
    Journal(tmp_path / "out.txt").close()


def test_an_empty_compressed_file_can_be_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.gz")
    journal.start(Record(MAKER))
    journal.finish()
    journal.close()
    assert content(tmp_path / "out.gz") == ""


DEEP = "[" * 100_000


def test_a_record_that_is_nested_too_deeply_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "out.txt.partial").write_text("one\n", encoding="utf-8")
    (tmp_path / "out.txt.partial.json").write_text(DEEP, encoding="utf-8")
    with pytest.raises(UserError, match="not an output that was left unfinished"):
        module.output_of(str(tmp_path / "out.txt"))


@pytest.mark.parametrize("text", [DEEP, "[]", '{"sizes": []}', '{"sizes": {"a": 1}}', ""])
def test_what_a_cache_notes_wrongly_counts_as_nothing(text: str, tmp_path: Path) -> None:
    place = CacheEntry(tmp_path, "key")
    place.folder.mkdir()
    (place.folder / "meta.json").write_text(text, encoding="utf-8")
    assert place.meta() is None
