"""Runs of heads alone through the commands: trained, resumed, predicted from; and what recipes of heads refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

import s2s
from s2s import train
from s2s.commands import predict
from s2s.data.rows import Example
from s2s.errors import UserError
from s2s.heads.evaluation import head_sums
from s2s.heads.scoring import SUMMED
from s2s.recipe.build import load_data
from s2s.recipe.recipe import Recipe

WORDS = {"red": "B-C", "green": "B-C", "deep": "O", "sea": "B-P", "shore": "I-P", "the": "O"}
SENTENCES = [[a, b, c] for a in WORDS for b in WORDS for c in WORDS if len({a, b, c}) == 3]


def write(folder: Path) -> Path:
    rows = [
        {"words": words, "tags": [WORDS[word] for word in words], "topics": [word for word in words if "e" in word]}
        for words in SENTENCES
    ]
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::5]), encoding="utf-8")
    return folder


def overrides(folder: Path, **keys: str) -> list[str]:
    given = {
        "data": f"{{path: {folder / 'data'}, source_field: words, target_field: null, max_source: 20}}",
        "vocabulary.size": "300",
        "model": "{layers: 1, width: 32, heads: 2, dropout: 0.0}",
        "heads": "{tags: {name: crf, field: tags, scheme: bio}, topics: {name: zlpr, field: topics}}",
        "optimizer.rate": "3e-3",
        "schedule.warmup": "5",
        "run": f"{{folder: {folder / 'run'}, steps: 60, tokens: 256, evaluate_every: 60, select: tags.entity_f1}}",
    } | keys
    return [f"{key}={value}" for key, value in given.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    write(folder / "data")
    (folder / "mine.yaml").write_text("{}", encoding="utf-8")
    s2s.fit(Recipe.load(folder / "mine.yaml", overrides(folder)))
    return folder


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("red sea", "^sources: a list of sources is needed, not str"),
        (["red", None], r"^sources\[1\]: a text is needed, not None"),
        (["\ud800"], r"^sources\[0\]: the text holds half of a surrogate pair"),
        ([["red", 5]], r"^sources\[0\]\[1\]: a text is needed, not int"),
        ([["\ud800"]], r"^sources\[0\]\[0\]: the text holds half of a surrogate pair"),
    ],
)
def test_sources_that_are_no_texts_are_one_line(folder: Path, sources: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        s2s.load(folder / "run").predict(sources)


def test_a_run_without_targets_learns_is_scored_and_loads(folder: Path) -> None:
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps, [dev] = [line for line in log if "loss" in line], [line["dev"] for line in log if "dev" in line]
    assert steps[0]["loss"] == pytest.approx(steps[0]["tags.loss"] + steps[0]["topics.loss"], rel=1e-5)
    assert steps[0]["target_tokens"] == 0
    assert dev["loss"] == pytest.approx(dev["tags.loss"] + dev["topics.loss"], rel=1e-5)
    assert dev["tags.entity_f1"] > 95
    assert dev["topics.micro_f1"] > 90
    assert {"tags.accuracy", "tags.macro_f1", "topics.macro_f1", "topics.precision_at_1"} <= dev.keys()
    run = s2s.load(folder / "run")
    predictions = run.predict([["the", "red", "sea"], "red sea shore", []])
    assert predictions[0].tokens == ["the", "red", "sea"]
    assert predictions[0].heads["tags"].labels == ["O", "B-C", "B-P"]
    assert predictions[1].heads["tags"].labels == ["B-C", "B-P", "I-P"]
    assert predictions[2].heads["tags"].labels == []
    alone = run.predict(["red sea shore"])[0].heads["topics"]
    assert alone.labels == predictions[1].heads["topics"].labels
    assert alone.scores == pytest.approx(predictions[1].heads["topics"].scores, abs=1e-5)
    with pytest.raises(UserError, match="trained without targets and generates nothing"):
        run.generate(["red"])
    assert train.main(["recipe=" + str(folder / "mine.yaml"), *overrides(folder)]) == 0  # finished: says so


def test_sums_of_each_source_add_up_to_the_scores_of_the_log(folder: Path) -> None:
    run = s2s.load(folder / "run")
    assert run.objective.heads is not None
    examples = list(load_data(Recipe.load(folder / "mine.yaml", overrides(folder))).dev)
    sums = head_sums(run.model, run.objective.heads, run.vocabulary, run.recipe.data, examples, 7)
    lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (dev,) = [line["dev"] for line in map(json.loads, lines) if "dev" in line]
    assert sums.keys() == {name for name in dev if not name.endswith("loss") and not name.endswith("macro_f1")}
    for name, rows in sums.items():
        assert len(rows) == len(examples)
        assert float(SUMMED[name.partition(".")[2]].of_total(rows.sum(axis=0))) == pytest.approx(dev[name]), name
    # In the order of the examples: those of one alone are its row. A tag that a cut loses is wrong.
    long = Example("", "", ("red",) * 30, (("tags", ("B-C",) * 30), ("topics", None)))
    alone = head_sums(run.model, run.objective.heads, run.vocabulary, run.recipe.data, [examples[3], long], 7)
    assert alone["tags.accuracy"][0].tolist() == sums["tags.accuracy"][3].tolist()
    right, tokens = alone["tags.accuracy"][1].tolist()
    assert right < tokens == 30
    # Without labels an example counts nowhere.
    assert not alone["topics.micro_f1"][1].any()


def test_lines_and_rows_come_back_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "a", "words": ["the", "red", "sea"]}, {"source": "the deep red sea shore"}, {"words": ["the"] * 30}]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "in.txt").write_text("the red sea\n\nthe shore\n", encoding="utf-8")
    base = [f"run={folder / 'run'}", f"output={folder / 'out'}"]
    assert predict.main([f"input={folder / 'in.jsonl'}", *base]) == 0
    first, second, third = (json.loads(line) for line in (folder / "out").read_text(encoding="utf-8").splitlines())
    assert (first["id"], second["id"]) == ("a", 1)
    assert first["tags"] == ["O", "B-C", "B-P"]
    assert first["tags_spans"] == [
        {"type": "C", "start": 1, "end": 2, "text": "red"},
        {"type": "P", "start": 2, "end": 3, "text": "sea"},
    ]
    assert sorted(first["topics"]) == ["red", "sea", "the"]
    assert len(first["topics_scores"]) == 3
    assert len(second["tags"]) == 5
    assert third["tags"][-1] is None
    assert len(third["tags"]) == 30
    assert predict.main([f"input={folder / 'in.txt'}", *base, "head=tags"]) == 0
    lines = (folder / "out").read_text(encoding="utf-8").split("\n")
    assert lines[:2] == ["O B-C B-P", ""]
    assert len(lines) == 4
    capsys.readouterr()
    assert predict.main([f"input={folder / 'in.txt'}", *base]) == 2
    assert "head: the run has several (tags, topics)" in capsys.readouterr().err
    assert predict.main([f"input={folder / 'in.txt'}", *base, "head=tag"]) == 2
    assert "head: no 'tag'; did you mean 'tags'?" in capsys.readouterr().err


def refusal(folder: Path, **keys: str) -> str:
    with pytest.raises(UserError) as caught:
        Recipe.load(folder / "mine.yaml", overrides(folder, **keys)).build()
    return str(caught.value)


WRONG = {
    "heads.tags.name=crff": "heads.tags.name: no 'crff'; did you mean 'crf'?",
    "heads.tags.scheem=bio": "unknown key 'heads.tags.scheem'; did you mean 'heads.tags.scheme'?",
    "heads.tags.scheme=bioo": "heads.tags.scheme: no 'bioo'; did you mean 'bio'?",
    "heads.tags.weight=-1": "heads.tags.weight: -1.0 is not at least 0",
    "heads.tags.field=null": "heads.tags.field: either a field of the data or labels: copy_tags is needed",
    "heads.tags.labels=copy_tags": "heads.tags.field: either a field",
    "heads.tags.field=tgas": "no field 'tgas'; did you mean 'tags'?",
    "heads.tags=3": "heads.tags: expected keys and values",
    "heads=[1]": "heads: expected rows under names",
    "heads.source={name: bce, field: topics}": "heads.source: 'source' is a field of what predict.py writes",
    "heads={}": "data.target_field: it is null, so there is nothing to generate",
    "heads={a: {name: zlpr, labels: target_words}}": "heads.a.labels: they are of the target",
    "mitigations=[{name: fgm}]": "mitigations: they are of generation",
    "run.select=rouge_l": "run.select: no score 'rouge_l'; ",
    "run.select=tags.micro_f1": "run.select: no score 'tags.micro_f1'; did you mean",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_makes_no_sense_is_refused(folder: Path, override: str) -> None:
    key, _, value = override.partition("=")
    removed = {} if key != "heads" or value != "{}" else {"heads": "{tags: null}"}
    assert WRONG[override] in refusal(folder, **({key: value} | removed))


def test_another_name_keeps_the_keys_that_both_have(folder: Path) -> None:
    base = overrides(folder)
    other = ["heads.tags.name=memm", "heads.topics.name=bce"]
    recipe_of_file = Recipe.load(folder / "mine.yaml", [*base, "heads.tags.boundaries=true", "heads.tags.weight=0.5"])
    (folder / "own.yaml").write_text(recipe_of_file.to_yaml(), encoding="utf-8")
    recipe = Recipe.load(folder / "own.yaml", other)
    with pytest.raises(UserError, match=r"unknown key 'heads\.tags\.boundaries'"):  # no argument is lost on the way
        Recipe.load(folder / "mine.yaml", [*base, "heads.tags.boundaries=true", *other])
    assert recipe.values()["heads"]["tags"]["name"] == "memm"
    assert (recipe.heads["tags"].weight, recipe.heads["tags"].field) == (0.5, "tags")
    assert recipe.values()["heads"]["topics"]["name"] == "bce"
    (folder / "saved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(folder / "saved.yaml") == recipe
    assert list(Recipe.load(folder / "mine.yaml", [*base, "heads.topics=null"]).heads) == ["tags"]


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.json", "in.txt"])
def test_every_format_of_training_is_predicted_from(folder: Path, name: str, capsys) -> None:
    rows = [{"id": "a", "words": "the red sea"}, {"id": "b", "words": "sea shore"}]
    between = {"in.csv": ",", "in.tsv": "\t"}.get(name)
    lines = ["id,words", "a,the red sea", 'b, "sea shore"']
    content = json.dumps(rows) if between is None else "\n".join(lines).replace(", ", ",").replace(",", between)
    (folder / name).write_text(
        content.replace('"sea shore"', "sea shore") if between == "\t" else content, encoding="utf-8"
    )
    assert predict.main([f"run={folder / 'run'}", f"input={folder / name}", f"output={folder / 'rows'}"]) == 0
    rows_written = [json.loads(line) for line in (folder / "rows").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], len(row["tags"])) for row in rows_written] == [("a", 3), ("b", 2)]
    assert ("read as a JSON document" in capsys.readouterr().err) == (name == "in.txt")
