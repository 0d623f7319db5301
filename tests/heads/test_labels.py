"""Laws of labels on their way from files to batches, and of sources given as tokens."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import IGNORED, collate, count, without_weight
from s2s.data import DataSettings, Example, load
from s2s.data.batches import tokenise
from s2s.data.sources import Labelling, characters, encode_sources
from s2s.errors import UserError
from s2s.vocabulary import sentence_pieces

few = settings(deadline=None, max_examples=15)
WORDS = st.lists(st.text("abcdeéü中国人", min_size=1, max_size=5), min_size=1, max_size=6)
VOCABULARY = sentence_pieces.train(
    ["abc de fgh", "some words of a text", "and some more words", "国人 in 中国"] * 9, 300
)


def write(path: Path, rows: list[object]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def loaded(path: Path, labels: list[str], **keys: object) -> list[Example]:
    dataset = load(DataSettings(path=str(path), source_field="tokens", target_field=None, **keys), labels)
    return sorted([*dataset.train, *dataset.dev])


def test_lists_of_tokens_and_labels_come_from_files(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b c"], "tags": ["O", "B"], "topic": 3}, {"tokens": "a b", "tags": [], "topic": None}]
    examples = loaded(write(tmp_path / "all.jsonl.gz", rows), ["tags", "topic"])
    assert examples == [
        Example("a b", "", (), (("tags", ()), ("topic", None))),
        Example("a b c", "", ("a", "b c"), (("tags", ("O", "B")), ("topic", "3"))),
    ]
    (tmp_path / "all.tsv").write_text("tokens\ttopic\na b\tx y\nc\t \n", encoding="utf-8")
    examples = loaded(tmp_path / "all.tsv", ["topic"])
    assert examples == [Example("a b", "", (), (("topic", "x y"),)), Example("c", "", (), (("topic", None),))]


WRONG = {
    "field 'tokens' is a list, but not of one or more strings": {"tokens": [], "tags": []},
    "field 'tags' is no label": {"tokens": ["a"], "tags": {"a": 1}},
    "no field 'tags'; did you mean 'tag'?": {"tokens": ["a"], "tag": ["O"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_label_is_told_with_its_line(message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl.gz", [{"tokens": ["a"], "tags": ["O"]}, WRONG[message]])
    with pytest.raises(UserError, match=f"all.jsonl.gz:2: {message.replace('?', '.')}"):
        loaded(path, ["tags"])


def test_built_in_sets_have_no_labels() -> None:
    for labels, target in (["tags"], "target"), ([], None):
        with pytest.raises(UserError, match=r"^data\.source: .copy. has sources and targets, no other fields"):
            load(DataSettings(source="copy", target_field=target), labels)


@few
@given(sentences=st.lists(WORDS, min_size=2, unique_by=lambda words: "".join(words)))
def test_segmented_text_comes_back_from_its_tags(sentences: list[list[str]], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("set") / "sentences.utf8"
    path.write_text("".join("  ".join(words) + "\n" for words in sentences), encoding="utf-8")
    dataset = load(DataSettings(path=str(path), source_field="text", target_field=None), ["bmes"])
    assert dataset.dev
    segments = []
    for example in [*dataset.train, *dataset.dev]:
        [(_, tags)] = example.fields
        assert isinstance(tags, tuple)
        assert len(tags) == len(characters(example.source))
        ends = [column + 1 for column, tag in enumerate(tags) if tag in "ES"]
        begins = [column for column, tag in enumerate(tags) if tag in "BS"]
        assert len(begins) == len(ends)
        segments.append([example.source[begin:end] for begin, end in zip(begins, ends, strict=True)])
    assert sorted(segments) == sorted(sentences)


@few
@given(rows=st.lists(WORDS, min_size=1, max_size=5), limit=st.integers(3, 12))
def test_tokens_keep_their_boundaries_and_what_is_cut_is_counted(rows: list[list[str]], limit: int) -> None:
    whole, silent = encode_sources(rows, VOCABULARY, 10_000)
    assert silent == []
    for row, source in zip(rows, whole, strict=True):
        bounds = [*source.starts, len(source.ids) - 1]
        parts = [source.ids[start:end] for start, end in pairwise(bounds)]
        assert [VOCABULARY.decode(part).strip() for part in parts] == row
    cut, report = encode_sources(rows, VOCABULARY, limit)
    assert all(len(source.ids) <= limit for source in cut)
    lost = sum(len(row) for row in rows) - sum(len(source.starts) for source in cut)
    assert any(f"{lost} of {sum(map(len, rows))} tokens" in line for line in report) == (lost > 0)
    assert bool(report) == any(len(source.ids) > limit for source in whole)


def test_a_token_without_pieces_is_the_unknown_one() -> None:
    assert VOCABULARY.encode_tokens([["", "a", " "]]) == [[[1], VOCABULARY.encode("a")[-1:], [1]]]


def test_batches_carry_labels_and_count_rows_that_have_any() -> None:
    heads = [[[4, 5, IGNORED], [], [1]], [[], [], [0]]]
    batch = collate([([2, 7, 3], None)] * 3, 0, 3, heads=heads)
    assert batch.target.shape == batch.labels.shape == (3, 0)
    assert [labels.tolist() for labels in batch.heads] == [
        [[4, 5, IGNORED], [IGNORED] * 3, [1, IGNORED, IGNORED]],
        [[IGNORED], [IGNORED], [0]],
    ]
    assert count(batch) == (0, 6, 2)
    assert count(without_weight(batch)) == (0, 0, 0)
    assert batch.map(lambda tensor: tensor[:1]).heads[0].equal(batch.heads[0][:1])
    assert batch.to(torch.device("cpu")).heads[1].equal(batch.heads[1])


def test_labellers_see_the_cut_example() -> None:
    examples = [Example("abc de fgh", "some words of it", (), (("topic", "x"),)), Example("a", "b")]
    seen = []

    def labeller(example: Example, source: object, target: list[int]) -> list[int]:
        seen.append((example, source, target))
        return [len(seen)]

    labelling = Labelling([labeller], lambda example: example.source.split())
    tokens = tokenise(examples, VOCABULARY, 5, 4, "dev", labelling)
    assert tokens.heads == ([[1], [2]],)
    assert [source.ids for _, source, _ in seen] == tokens.sources  # type: ignore[attr-defined]
    assert [target for _, _, target in seen] == tokens.targets
    assert any("tokens to be tagged lost" in line for line in tokens.report)
    assert tokens.batch([1, 0], VOCABULARY).heads[0].tolist() == [[2], [1]]
    plain = tokenise([Example("a", ""), Example("b", "")], VOCABULARY, 5, 4, "dev")
    assert not plain.has_targets
    assert plain.lengths().tolist() == [[len(ids), 0] for ids in plain.sources]
