"""Names outside of a run's folder in its recipe: the keys that can hold them, their marks, and who may use them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from trained import trained

import s2s
from s2s.config.outside_names import Foreign, foreign_keys, unmarked
from s2s.errors import UserError
from s2s.recipe.recipe import Recipe
from s2s.search.methods import SEARCHES
from s2s.search.methods.keys import asked

INERT = {"prefix", "required", "forbidden", "stop", "precision"}
"""Keys of searches whose text is no name of code or of a file."""
REWARDED = "s2s_test_utility:score"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("foreign") / "run", "run.steps=2", "run.evaluate_every=2").folder


@pytest.fixture
def poison(folder: Path) -> Any:
    """Change a section of the run's recipe; the recipe is itself again afterwards."""
    path = folder / "recipe.yaml"
    before = path.read_text(encoding="utf-8")

    def change(section: str, values: object) -> Path:
        path.write_text(
            yaml.safe_dump(yaml.safe_load(before) | {section: values}, allow_unicode=True), encoding="utf-8"
        )
        return folder

    yield change
    path.write_text(before, encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported, and the file that it leaves when it is."""
    marker = tmp_path / "imported"
    text = f"open({str(marker)!r}, 'w').close()\ndef score(hypothesis, reference):\n    return 1.0\n"
    (tmp_path / "s2s_test_utility.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "s2s_test_utility", raising=False)
    return marker


def holds_text(hint: Any) -> bool:
    return hint is str or any(map(holds_text, get_args(hint)))


@pytest.mark.parametrize("name", SEARCHES)
def test_every_key_that_holds_text_is_declared(name: str) -> None:
    kind = SEARCHES[name]
    hints = get_type_hints(kind)
    texts = {item.name for item in dataclasses.fields(kind) if holds_text(hints[item.name])}
    settings = kind()
    assert settings.names_outside() == {}
    for key in texts - INERT:
        setattr(settings, key, "x:y")  # not by the class itself, which may refuse the key
    assert settings.names_outside() == dict.fromkeys(texts - INERT, "x:y")


def test_own_names_are_not_outside() -> None:
    assert SEARCHES["mbr"](utility="rouge_l").names_outside() == {}  # type: ignore[call-arg]
    both = SEARCHES["mbr"](utility="a:b", allowed="c")  # type: ignore[call-arg]
    assert both.names_outside() == {"utility": "a:b", "allowed": "c"}


UTILITIES: list[dict[str, object]] = [
    {"name": "mbr", "samples": 2, "utility": REWARDED},
    {"name": "mbr", "samples": 2, "utility": REWARDED, "prefix": "a"},
    {"name": "mbr_beam", "beams": 2, "utility": REWARDED},
]


@pytest.mark.slow
@pytest.mark.parametrize("search", UTILITIES)
def test_a_folder_runs_no_code(poison: Any, code: Path, search: dict[str, object]) -> None:
    run = s2s.load(poison("search", search))
    with pytest.raises(
        UserError, match=r"^search\.utility: .*'s2s_test_utility:score'.*search\.utility=module:function"
    ):
        run.generate(["a b c"])
    for settings in (run.recipe.search, dataclasses.replace(run.recipe.search, batch=1)):
        with pytest.raises(UserError, match=r"search\.utility"):
            run.search(["a b c"], settings, lambda _: None)
    assert len(run.generate(["a b c"], utility="chrf")) == 1
    assert len(run.generate(["a b c"], beams=2)) == 1
    assert not code.exists()
    assert len(run.generate(["a b c"], utility=REWARDED)) == 1  # who calls may
    assert code.exists()


def test_a_folder_opens_no_file(poison: Any, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a b\n", encoding="utf-8")
    run = s2s.load(poison("search", {"name": "beam", "beams": 2, "allowed": str(lines)}))
    for generate in (lambda: run.generate(["a b c"]), lambda: list(run.stream("a b c", beams=1, n_best=1))):
        with pytest.raises(UserError, match=r"^search\.allowed: .*lines\.txt.*search\.allowed=FILE"):
            generate()
    assert run.generate(["a b c"], allowed=str(lines))[0][0].text == "a b"


def test_what_a_caller_trains_with_stays_the_callers(tmp_path: Path, code: Path) -> None:
    keys = ["search.name=mbr", "search.samples=2", f"search.utility={REWARDED}", "run.steps=2", "run.evaluate_every=2"]
    run = trained(tmp_path / "run", *keys)
    assert code.exists()
    assert len(run.generate(["a b c"])) == 1
    assert foreign_keys(s2s.load(run.folder).recipe.search) == {"utility"}


REFERENCES = ["${oc.env:HOME}", "${data.path}", "a ${x} b", "\\${oc.env:HOME}", "${oc.decode:'[1]'}", "${a}${b}\\"]


@pytest.mark.parametrize("text", REFERENCES)
def test_references_are_text(poison: Any, text: str) -> None:
    run = s2s.load(
        poison("search", {"name": "beam", "beams": 1, "n_best": 1, "forbidden": ["c", text], "prefix": text})
    )
    assert run.recipe.search.prefix == text
    assert run.recipe.search.forbidden == ["c", text]
    assert asked(run.recipe.search, 2, None, {}).prefix == text
    assert asked(run.recipe.search, 2, None, {"prefix": text}).prefix == text


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("search", {"name": "beam", "beams": "${oc.env:HOME}"}),
        ("search", "${data}"),
        ("search", {"name": "${oc.env:HOME}"}),
        ("model", "${oc.env:HOME}"),
        ("search", {"name": "beam", "required": "${oc.env:HOME}"}),
        ("mitigations", "${search}"),
        ("heads", {"tags": "${search}"}),
        ("base", "title_gen"),
        ("base", "/etc/passwd"),
    ],
)
def test_what_is_no_text_is_one_line(poison: Any, section: str, values: object) -> None:
    with pytest.raises(UserError, match=section) as found:
        s2s.load(poison(section, values))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch marker']", "!!python/name:os.system", "!x y"])
def test_tags_make_nothing(folder: Path, poison: Any, tag: str) -> None:
    poison("search", {"name": "beam"})
    with (folder / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write(f"objective: {{label_smoothing: {tag}}}\n")
    with pytest.raises(UserError, match=r"recipe\.yaml") as found:
        s2s.load(folder)
    assert "\n" not in str(found.value)


def test_marks_are_not_written(poison: Any) -> None:
    run = s2s.load(poison("search", {"name": "mbr", "utility": "a:b", "samples": 2}))
    assert isinstance(run.recipe.search.utility, Foreign)  # type: ignore[attr-defined]
    assert "a:b" in run.recipe.to_yaml()
    assert json.loads(json.dumps(run.recipe.values()))["search"]["utility"] == "a:b"
    assert type(run.recipe.values()["search"]["utility"]) is str
    assert not foreign_keys(unmarked(run.recipe).search)
    assert unmarked(run.recipe) == run.recipe
    assert isinstance(unmarked(run.recipe), Recipe)
