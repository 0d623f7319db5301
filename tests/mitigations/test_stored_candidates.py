"""Stored candidates: what a file gives back, and what is said of files that do not fit."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import SEEDS, SIZES, few, rows_of
from sequences import END, MAX_LENGTH, candidates_strategy, source_of, training_context, write_decoded

import s2s
from s2s.batch import collate
from s2s.commands import decode
from s2s.data import load
from s2s.data.batches import tokenise
from s2s.errors import UserError
from s2s.mitigations.candidates import Candidate, read
from s2s.objective import Objective
from s2s.recipe.build import build_mitigations


@given(sizes=SIZES, seed=SEEDS, data=st.data())
@few
def test_a_file_gives_back_what_was_written(random_batch, tmp_path_factory, sizes, seed, data):
    batch, rows = random_batch(sizes, seed), [data.draw(candidates_strategy()) for _ in sizes]
    rows = [rows[next(r for r in range(row + 1) if source_of(batch, r) == source_of(batch, row))]
            for row in range(len(rows))]  # fmt: skip
    scores = [[-column / 8 for column in range(len(row))] for row in rows]
    sources = [source_of(batch, row) for row in range(len(sizes))]
    for limit in (MAX_LENGTH, None):  # null: the longest target of training
        path = write_decoded(tmp_path_factory.mktemp("stored") / "x", batch, rows, scores, max_length=limit)
        stored = read(path, training_context(sources))
        for most in (1, 5):
            expected = [
                list(zip(row, row_scores, strict=True))[:most] for row, row_scores in zip(rows, scores, strict=True)
            ]
            assert stored.find(batch, most) == expected


def test_sources_are_known_by_their_ids_cut_as_in_training(random_batch, tmp_path):
    batch = random_batch([(9, 2)])
    path = write_decoded(tmp_path / "x", batch, [[Candidate([4], True)]], [[-1.0]])
    cut = [*source_of(batch, 0)[:5], END]
    given = training_context([cut])._replace(max_source=6)
    short = collate([(cut, [])], 0, END)
    assert read(path, given).find(short, 3) == [[(Candidate([4], True), -1.0)]]
    with pytest.raises(UserError, match=rf"{path}: no candidates for the source with the ids"):
        read(path, given).find(batch, 3)


LINE = {
    "source": "a b",
    "hypotheses": [{"text": "a", "score": -1.0, "tokens": [4]}],
    "settings": {"max_length": 4, "length_penalty": 0.0},
}
NO_LINE = "not a line of decoded JSONL"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", NO_LINE),
        ("[]", NO_LINE),
        ("", NO_LINE),
        ({"source": 5}, NO_LINE),
        ({"hypotheses": None}, NO_LINE),
        ({"hypotheses": [{"text": "a", "score": -1.0}]}, f"{NO_LINE}.*tokens"),
        ({"hypotheses": [{"text": "a", "score": None, "tokens": [4]}]}, NO_LINE),
        ({"hypotheses": [{"text": "a", "score": -1.0, "tokens": ["a"]}]}, NO_LINE),
        ({"settings": {"length_penalty": 0.0}}, f"{NO_LINE}.*max_length"),
        ({"hypotheses": []}, "no hypotheses"),
        ({"hypotheses": [{"text": "a", "score": -1.0, "tokens": [23]}]}, "another vocabulary"),
        ({"hypotheses": [{"text": "a", "score": -1.0, "tokens": [-1]}]}, "another vocabulary"),
        ({"settings": {"max_length": 4, "length_penalty": 0.6}}, r"search\.length_penalty=0\.6"),
        (
            {"settings": {"max_length": 4, "length_penalty": 0.0, "translation_alpha": 0.6}},
            r"search\.translation_alpha=0",
        ),
        ({"settings": {"max_length": 4, "length_penalty": 0.0, "word_reward": -2.0}}, r"search\.word_reward=-2"),
        ({"settings": {"max_length": 4, "length_penalty": 0.0, "coverage_penalty": 1}}, r"search\.coverage_penalty=1"),
        ({"settings": {"max_length": 4, "length_penalty": 0.0, "utility": "chrf"}}, r"search\.utility=chrf"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, message):
    second = change if isinstance(change, str) else json.dumps(LINE | change)
    path = tmp_path / "decoded.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + second + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{path}:2: .*{message}"):
        read(str(path), training_context())


def test_missing_sources_and_files_are_said(random_batch, tmp_path):
    batch = random_batch([(5, 2), (4, 1), (6, 1)])
    sources = [source_of(batch, row) for row in range(3)]
    path = write_decoded(tmp_path / "x", rows_of(batch, [1]), [[Candidate([4], True)]], [[-1.0]])
    with pytest.raises(UserError, match="no candidates for 2 of 3 training sources"):
        read(path, training_context(sources))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    with pytest.raises(UserError, match="no candidates for 2 of 3 training sources"):
        read(str(tmp_path / "packed.jsonl.gz"), training_context(sources))
    with pytest.raises(UserError, match=r"^path: .*nowhere: cannot be read: No such file"):
        read(str(tmp_path / "nowhere"), training_context())
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(UserError, match=r"^path: .*packed:1: broken gzip"):
        read(str(tmp_path / "packed"), training_context())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tiny = ["data.size=203", "model.width=16", "model.layers=1", "run.steps=3", "run.evaluate_examples=1"]
    settings = [
        "run.precision=fp32",
        "search.n_best=4",
        "search.beams=4",
        f"run.folder={tmp_path_factory.mktemp('run')}",
    ]
    folder = s2s.fit(s2s.Recipe.load("toy_copy", [*tiny, *settings])).folder
    return s2s.load(folder, device="cpu")  # where the methods that read the candidates compute


def test_what_the_decoder_writes_is_what_methods_read_with_the_scores_of_the_run(run, tmp_path):
    """The run has learnt nothing, so that its hypotheses stop at the limit, which its recipe leaves to the default."""
    source = tmp_path / "train.jsonl"
    train = load(run.recipe.data).train
    source.write_text("".join(json.dumps({"source": example.source}) + "\n" for example in train), encoding="utf-8")
    decoded = tmp_path / "decoded.jsonl"
    assert decode.main([f"run={run.folder}", f"input={source}", f"output={decoded}"]) == 0
    row = json.loads(decoded.read_text(encoding="utf-8").splitlines()[0])
    assert row["settings"]["max_length"] == run.recipe.data.max_target
    assert len(row["hypotheses"][0]["tokens"]) == run.recipe.data.max_target
    method = f"{{name: dpo, path: {decoded}, metric: sequences:spelling}}"
    recipe = s2s.Recipe.load(run.folder / "recipe.yaml", [f"mitigations=[{method}]"])
    objective = Objective(run.model, recipe.objective, build_mitigations(recipe, run.vocabulary))
    tokens = tokenise(train, run.vocabulary, run.recipe.data.max_source, run.recipe.data.max_target, "train")
    batch = tokens.batch(range(len(train)), run.vocabulary)
    total = float(objective(batch).total.detach())
    ranked = objective.mitigations[0].method.ranked(batch, objective.mitigations[0].prepared)  # type: ignore[attr-defined]
    assert {len(row) for row in ranked} == {4}
    told_apart = sum(row[0].reward > row[-1].reward for row in ranked)
    assert told_apart > 0
    assert total == pytest.approx(math.log(2) * told_apart / len(ranked), abs=1e-5)
