"""Decoded targets: train has the best hypotheses token for token, dev and test are gold, and faults are named."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import s2s
from s2s.batch import IGNORED
from s2s.commands import decode
from s2s.config.outside_names import foreign
from s2s.data import DataSettings, Example, load, ragged, user_files
from s2s.data.settings import Draw
from s2s.errors import UserError
from s2s.recipe.build import build_vocabulary, load_data, tokenise_data
from s2s.recipe.recipe import Recipe
from s2s.vocabulary.spelling import is_blank

TINY = ["model.width=16", "model.layers=1", "model.heads=2", "run.precision=fp32", "run.evaluate_examples=2"]


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def line(source: str, *texts: str) -> dict[str, object]:
    """A line as the decoder writes it."""
    hypotheses = [{"text": text, "score": -1.0 - rank, "tokens": [5]} for rank, text in enumerate(texts)]
    return {"id": 0, "source": source, "hypotheses": hypotheses, "settings": {}}


def pairs(prefix: str, count: int) -> list[dict[str, object]]:
    return [{"source": f"{prefix} {number}", "target": f"gold {number}"} for number in range(count)]


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("dev", 2), ("test", 2)):
        write(tmp_path / f"{split}.jsonl", pairs(split, count))
    return tmp_path


def reading(folder: Path, **keys: object) -> DataSettings:
    files = {f"{split}_files": [f"{split}.jsonl"] for split in ("train", "dev", "test")}
    return DataSettings(root=str(folder), **files, **keys)  # type: ignore[arg-type]


def given_targets(folder: Path, rows: Sequence[dict[str, object]], **keys: object) -> DataSettings:
    return reading(folder, targets=str(write(folder / "decoded.out.jsonl", rows)), **keys)


DECODED = [line(f"train {number}", f"best {number}", "worse") for number in range(6)]


@pytest.mark.parametrize("name", ["decoded.jsonl", "decoded.jsonl.gz"])
def test_train_has_the_best_hypotheses_and_the_others_are_gold(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    plain = load(reading(folder))
    data = reading(folder)
    data.targets = str(write(target / name, DECODED))
    taught = load(data)
    assert list(taught.train) == [Example(f"train {number}", f"best {number}") for number in range(6)]
    assert (taught.dev, taught.test, taught.gold) == (plain.dev, plain.test, plain.train)
    assert plain.gold is None
    assert taught.fingerprint != plain.fingerprint
    assert f"train: its targets are the best hypotheses of {data.targets}" in taught.report
    other = reading(folder)
    other.targets = str(write(target / "other.jsonl", [*DECODED[:5], line("train 5", "best 4")]))
    assert load(other).fingerprint not in (taught.fingerprint, plain.fingerprint)


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(2, 30), references=st.lists(st.integers(1, 3), min_size=30, max_size=30), seed=st.integers(0, 9)
)
def test_rows_that_are_held_out_have_lines_and_several_references_one_target(
    count: int, references: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = []
    for number in range(count):
        targets = [f"gold {number}.{one}" for one in range(references[number])]
        rows.append({"source": f"text {(number * (seed + 1)) % 7}", "target": targets})
    folder = tmp_path_factory.mktemp("set")
    path = write(folder / "all.jsonl", rows)
    plain = load(DataSettings(path=str(path)))
    lines = [line(str(row["source"]), f"best {number}") for number, row in enumerate(rows)]
    taught = load(DataSettings(path=str(path), targets=str(write(folder / "decoded.jsonl", lines))))
    held = {example.source for example in plain.dev}
    expected = [Example(str(row["source"]), f"best {n}") for n, row in enumerate(rows) if row["source"] not in held]
    assert list(taught.train) == expected
    assert taught.dev == plain.dev
    assert taught.gold == plain.train
    used = [row for row in lines if row["source"] not in held]
    alone = load(DataSettings(path=str(path), targets=str(write(folder / "used.jsonl", used))))
    assert list(alone.train) == expected


def test_of_a_drawn_part_the_lines_are_its_own_or_those_of_all(folder: Path) -> None:
    part = load(reading(folder, draw=Draw(train=3, test=2, seed=4)))
    own = [line(example.source, f"best {example.source}") for example in part.train]
    every = [line(f"train {number}", f"best train {number}") for number in range(6)]
    for rows in (own, every):
        taught = load(given_targets(folder, rows, draw=Draw(train=3, test=2, seed=4)))
        assert list(taught.train) == [Example(example.source, f"best {example.source}") for example in part.train]
        assert (taught.test, taught.gold) == (part.test, part.train)
    message = error_of(lambda: load(given_targets(folder, every[:4], draw=Draw(train=3))))
    assert message.endswith("decoded.out.jsonl has 4 lines, but train has 3 rows, and its files have 6")


def test_large_sets_from_the_cache_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = reading(folder)
    data.targets, data.cache = str(write(folder / "decoded.out.jsonl", DECODED)), str(folder / "cache")
    small = load(data)
    for module, name in ((user_files, "LARGE"), (ragged, "SPILL")):
        monkeypatch.setattr(module, name, 7)
    for _ in range(2):
        large = load(data)
        assert (large.train, large.dev, large.fingerprint) == (small.train, small.dev, small.fingerprint)
    assert any("read before" in note for note in large.report)


def test_built_in_sets_and_those_of_the_datasets_library_have_them_too(folder: Path) -> None:
    saved = folder / "saved"
    datasets = pytest.importorskip("datasets")
    parts = {split: datasets.Dataset.from_list(pairs(split, count)) for split, count in (("train", 6), ("dev", 2))}
    datasets.DatasetDict(parts).save_to_disk(str(saved))
    origins = {
        "saved": {"path": str(saved)},
        "docstrings": {"source": "docstrings", "packages": ["click"]},
        "synthetic": {"source": "synthetic", "size": 250},
    }
    for origin, keys in origins.items():
        plain = load(DataSettings(**keys))  # type: ignore[arg-type]
        rows = [line(example.source, f"best {number}") for number, example in enumerate(plain.train)]
        path = write(folder / f"{origin}.decoded.jsonl.gz", rows)
        taught = load(DataSettings(targets=str(path), **keys))  # type: ignore[arg-type]
        assert [example.source for example in taught.train] == [example.source for example in plain.train]
        assert [example.target for example in taught.train] == [f"best {number}" for number in range(len(plain.train))]
        assert (taught.dev, taught.gold) == (plain.dev, plain.train)


def test_labels_of_heads_stay_and_so_do_the_tokens_of_a_source(tmp_path: Path) -> None:
    rows = [{"source": ["a", str(number)], "target": "gold", "tags": ["X", "Y"]} for number in range(4)]
    path = write(tmp_path / "all.jsonl", rows)
    lines = [line(f"a {number}", f"best {number}") for number in range(4)]
    data = DataSettings(path=str(path), targets=str(write(tmp_path / "decoded.jsonl", lines)))
    for example in load(data, ["tags"]).train:
        assert example.target == f"best {example.tokens[1]}"
        assert example.fields == (("tags", ("X", "Y")),)


def test_another_source_is_refused_with_file_line_and_difference(folder: Path) -> None:
    rows = [*DECODED[:2], DECODED[3], DECODED[2], *DECODED[4:]]
    for on_error in ("stop", "skip"):
        message = error_of(lambda mode=on_error: load(given_targets(folder, rows, on_error=mode)))
        assert message == (
            f"data.targets: {folder}/decoded.out.jsonl:3: another source than that row of train: from character 7 on "
            "it has '3', train '2'"
        )


@pytest.mark.parametrize(("rows", "count"), [(DECODED[:4], 4), ([*DECODED, DECODED[0]], 7)])
def test_counts_must_agree(folder: Path, rows: list[dict[str, object]], count: int) -> None:
    message = error_of(lambda: load(given_targets(folder, rows)))
    assert message == f"data.targets: {folder}/decoded.out.jsonl has {count} lines, but train has 6 rows"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(line("train 1"), "no hypothesis"), (line("train 1", " \t"), "the first hypothesis is blank"),
     (line("train 1", "\ud800"), "the first hypothesis holds half of a surrogate pair"),
     ({"source": "train 1", "hypotheses": ["x"]}, "the first hypothesis has no text"),
     ({"source": "train 1", "hypotheses": "x"}, "field 'hypotheses' is not a list"),
     ({"source": "train 1"}, "no field 'hypotheses'")],
)  # fmt: skip
def test_a_row_without_a_hypothesis_stops_or_is_left_out(folder: Path, bad: dict[str, object], reason: str) -> None:
    rows = [DECODED[0], bad, *DECODED[2:]]
    message = error_of(lambda: load(given_targets(folder, rows)))
    assert message.startswith(f"data.targets: {folder}/decoded.out.jsonl:2: {reason}")
    skipped = load(given_targets(folder, rows, on_error="skip"))
    assert [example.source for example in skipped.train] == [f"train {number}" for number in (0, 2, 3, 4, 5)]
    [note] = [note for note in skipped.report if "left out" in note]
    assert note.startswith(f"{folder}/decoded.out.jsonl: left out 1 rows without a hypothesis (first: line 2: {reason}")
    empty = [line(f"train {number}") for number in range(6)]
    assert "no row of train has a hypothesis" in error_of(lambda: load(given_targets(folder, empty, on_error="skip")))


def test_missing_files_folders_names_and_sets_without_targets_are_refused(folder: Path) -> None:
    data = reading(folder)
    data.targets = str(folder / "none.jsonl")
    assert error_of(lambda: load(data)).startswith(f"data.targets: {folder}/none.jsonl: cannot be read: No such file")
    assert error_of(lambda: DataSettings(path="x", target_field=None, targets="y")).startswith(
        "data.targets: they repl"
    )
    data = DataSettings(source="copy", targets=str(folder / "none.jsonl"))
    assert error_of(lambda: load(foreign(data))).startswith("data.targets: the run's folder names '")


@pytest.mark.slow
def test_a_student_is_trained_on_what_a_teacher_decoded_token_for_token(tmp_path: Path) -> None:
    """The whole way: a run, its decoded train split, and a run on that, which has to be the same data when resumed."""
    teacher = s2s.fit(Recipe.load("toy_copy", [*TINY, "data.size=240", "run.steps=3", f"run.folder={tmp_path / 'a'}"]))
    examples = load_data(teacher.recipe).train
    source = write(tmp_path / "train.jsonl", [example._asdict() for example in examples])
    decoded = tmp_path / "decoded.jsonl.gz"
    assert decode.main([f"run={teacher.folder}", f"input={source}", f"output={decoded}", "search.max_length=6"]) == 0
    with gzip.open(decoded, "rt", encoding="utf-8") as file:
        texts = [json.loads(row)["hypotheses"][0]["text"] for row in file]

    def made(steps: int) -> Recipe:
        keys = [f"data.targets={decoded}", "data.on_error=skip", f"run.steps={steps}", f"run.folder={tmp_path / 'b'}"]
        return Recipe.load(teacher.folder / "recipe.yaml", keys)

    student = s2s.fit(made(2))
    dataset = load_data(student.recipe)
    vocabulary = build_vocabulary(student.recipe, dataset)
    assert vocabulary.digest() == teacher.vocabulary.digest() == student.vocabulary.digest()
    train, dev = tokenise_data(student.recipe, dataset, vocabulary, {})
    written = [text for text in texts if not is_blank(text)]
    wanted = [row[: student.recipe.data.max_target - 1] for row in vocabulary.encode_all(written)]
    assert len(wanted) > 4
    batch = train.batch(list(range(len(train.targets))), vocabulary)  # type: ignore[arg-type]
    labels = [[label for label in row if label != IGNORED] for row in batch.labels.tolist()]
    assert labels == [[*row, vocabulary.end] for row in wanted]
    gold = load_data(teacher.recipe)
    assert [vocabulary.decode(row) for row in dev.targets] == [example.target for example in gold.dev]
    assert s2s.fit(made(3)).step == 3
    decoded.write_bytes(gzip.compress(gzip.decompress(decoded.read_bytes()).replace(b'"text": "', b'"text": "a ')))
    assert "trained on the data" in error_of(lambda: s2s.fit(made(4)))
