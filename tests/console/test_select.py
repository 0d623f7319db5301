"""The best step: of equal scores the later one, and never by a score that the dev split cannot give."""

import json
import math
from pathlib import Path

import pytest
import torch

from s2s import train
from s2s.errors import UserError
from s2s.heads.scoring import LABEL_MEASURES, SPAN_MEASURES, TAG_MEASURES, can_measure
from s2s.machine.precision import Precision
from s2s.recipe.recipe import Recipe
from s2s.recipe.run_settings import RunSettings
from s2s.runs.checkpoints import Best
from s2s.training.state import State

WORDS = ["the", "red", "sea"]


def judged(select: str, values: list[float], patience: int = 9) -> list[tuple[int, float, int]]:
    """Best step, best value and evaluations waited after each of the values."""
    objective = torch.nn.Linear(1, 1)
    run = RunSettings(select=select, patience=patience)
    state = State(run, objective, torch.optim.AdamW(objective.parameters()), Precision(), None)
    found = []
    for value in values:
        state.step += 1
        state.judge(value)
        found.append((*state.best, state.waited))
    return found


def test_of_equal_scores_the_later_step_is_best_and_patience_runs_on() -> None:
    assert judged("rouge_l", [0.0, 0.0, 0.0]) == [(1, 0.0, 0), (2, 0.0, 1), (3, 0.0, 2)]
    assert judged("loss", [2.0, 1.0, 1.0, 3.0]) == [(1, 2.0, 0), (2, 1.0, 0), (3, 1.0, 1), (3, 1.0, 2)]
    assert judged("tags.loss", [1.0, 2.0, 0.5]) == [(1, 1.0, 0), (1, 1.0, 1), (3, 0.5, 0)]
    assert judged("tags.accuracy", [50.0, 100.0, 100.0, 20.0])[-1] == (3, 100.0, 2)


@pytest.mark.parametrize("select", ["loss", "bleu", "tags.entity_f1"])
def test_a_score_that_is_no_number_is_refused_at_first_and_no_better_later(select: str) -> None:
    with pytest.raises(UserError, match=rf"^run\.select: the dev split gives no {select} \(step 1\)"):
        judged(select, [math.nan])
    assert judged(select, [1.0, math.nan])[-1] == (*Best(1, 1.0), 1)


def test_measures_of_labels_that_nobody_has_are_none() -> None:
    for measures, real, nothing in (
        (SPAN_MEASURES, [["O"], ["B-X"]], [["O", "O"], []]),
        (TAG_MEASURES, [[], ["N"]], [[], []]),
        (LABEL_MEASURES, [["a"], []], [[], []]),
    ):
        for name in measures:
            assert can_measure(name, real)
            assert not can_measure(name, nothing)
            assert not can_measure(name, [])


def write(folder: Path, dev: dict[str, list[str] | None]) -> list[str]:
    row = {"words": WORDS, "tags": ["O", "B-C", "B-P"], "topics": ["red"]}
    (folder / "data").mkdir()
    for split, value in (("train", row), ("dev", {"words": WORDS, "topics": None} | dev)):
        (folder / "data" / f"{split}.jsonl").write_text((json.dumps(value) + "\n") * 8, encoding="utf-8")
    (folder / "mine.yaml").write_text("{}", encoding="utf-8")
    return [
        f"data.path={folder / 'data'}",
        *("data.source_field=words", "data.target_field=null", "data.max_source=20", "vocabulary.size=300"),
        "model={layers: 1, width: 8, heads: 2}",
        "heads={tags: {name: crf, field: tags, scheme: bio}, topics: {name: zlpr, field: topics}}",
        *(f"run.folder={folder / 'run'}", "run.steps=2", "run.evaluate_every=1", "run.tokens=64"),
    ]


@pytest.mark.parametrize("select", ["topics.loss", "topics.micro_f1", "topics.precision_at_1"])
def test_a_head_without_labels_in_dev_is_refused_before_anything_is_written(select: str, tmp_path: Path) -> None:
    keys = write(tmp_path, {"tags": ["O", "B-C", "O"]})
    with pytest.raises(UserError, match=rf"^run\.select: no dev example has a label of the head 'topics'.*'{select}'"):
        train.fit(Recipe.load(tmp_path / "mine.yaml", [*keys, f"run.select={select}"]))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_head_without_labels_has_no_scores_in_the_log(tmp_path: Path) -> None:
    keys = write(tmp_path, {"tags": ["O", "O", "O"]})
    with pytest.raises(UserError, match=r"^run\.select: the dev split gives no tags\.entity_f1 \(step 1\)"):
        train.fit(Recipe.load(tmp_path / "mine.yaml", [*keys, "run.select=tags.entity_f1"]))
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (dev,) = [line["dev"] for line in map(json.loads, lines) if "dev" in line]
    assert dev.keys() == {"loss", "tags.loss", "tags.accuracy", "tags.macro_f1"}
    assert dev["loss"] == dev["tags.loss"]


def test_a_head_of_whose_labels_dev_has_none_is_refused_at_the_first_evaluation(tmp_path: Path) -> None:
    keys = write(tmp_path, {"tags": ["O", "B-C", "O"], "topics": []})
    with pytest.raises(UserError, match=r"^run\.select: the dev split gives no topics\.micro_f1 \(step 1\)"):
        train.fit(Recipe.load(tmp_path / "mine.yaml", [*keys, "run.select=topics.micro_f1"]))
