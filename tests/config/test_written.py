"""Values are read by their keys' types, whatever YAML would make of them, and what is saved is what was meant."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import s2s
from s2s.data.settings import root_folder
from s2s.errors import UserError
from s2s.files.paths import at_home, cache_folder
from s2s.model import pretrained
from s2s.recipe.recipe import Recipe
from s2s.train import main

TEXTS = [
    *(
        "exp #3",
        "a: b",
        "*.jsonl",
        "[a]/x",
        "{a}",
        "no",
        "1e3",
        "0100",
        "1:30",
        "- a",
        "-",
        "it's",
        '"a" b',
        "%x",
        "@x",
    ),
    *(
        "&a",
        "!a",
        "| a",
        "> a",
        "a\nb",
        " a ",
        "é日本",
        "`",
        "a$b",
        "$5 {x}",
        ".nan",
        "2026-01-01",
        "???x",
        "\t",
        "a\\b",
    ),
]


def folder_of(text: str) -> str:
    return Recipe.load("toy_copy", [f"run.folder=x{text}"]).run.folder


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_stands_there(text: str) -> None:
    assert Recipe.load("toy_copy", [f"search.prefix={text}"]).search.prefix == text
    assert folder_of(text) == f"x{text}"


def test_two_folders_that_differ_behind_a_hash_are_two() -> None:
    assert folder_of("exp #3") != folder_of("exp #4")


@pytest.mark.slow
@given(text=st.text(max_size=30))
@example(text="'")
@example(text="''")
@example(text="${x}")
@example(text="\\${x}")
@example(text="\x85")
@example(text="\ud800")
@settings(deadline=None, max_examples=100)
def test_a_text_is_saved_as_it_was_meant(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = Recipe.load("toy_copy")
    recipe = replace(recipe, search=replace(recipe.search, prefix=text, required=[text]))
    file = tmp_path_factory.mktemp("saved") / "recipe.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8", errors="surrogatepass", newline="\n")
    assert Recipe.read(file).search.prefix == text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("'a b'", "a b"), ('"a\\nb"', "a\nb"), ("'null'", "null"), ("'???'", "???"), ("\\${x}", "${x}")),
        *(("${oc.env:S2S_TEST}/b", "a/b"), ("${oc.env:S2S_NONE,c d}", "c d"), ("'${oc.env:S2S_TEST}'", "a")),
    ],
)
def test_quotes_and_variables(given: str, meant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S2S_TEST", "a")
    assert Recipe.load("toy_copy", [f"search.prefix={given}"]).search.prefix == meant
    (tmp_path / "own.yaml").write_text(f"base: toy_copy\nsearch:\n  prefix: {given}\n", encoding="utf-8")
    assert Recipe.load(tmp_path / "own.yaml").search.prefix == meant


@pytest.mark.parametrize("text", ["${x}", "a${run.seed}", "${oc.env:S2S_NONE}", "${oc.create:[1]}", "null", "???"])
def test_what_would_have_meant_something_else_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^command line: search\.prefix: "):
        Recipe.load("toy_copy", [f"search.prefix={text}"])
    (tmp_path / "own.yaml").write_text(f"search:\n  prefix: {text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.yaml:2: search\.prefix: "):
        Recipe.load(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("0100", 100), ("1_000", 1000), ("1e3", 1000), ("1.5E2", 150), (" 7 ", 7), ("+3", 3), ("2.0", 2)],
)
def test_whole_numbers_are_decimal(given: str, meant: int, tmp_path: Path) -> None:
    assert Recipe.load("toy_copy", [f"run.steps={given}"]).run.steps == meant
    (tmp_path / "own.yaml").write_text(f"run: {{steps: {given}}}\n", encoding="utf-8")
    assert Recipe.load(tmp_path / "own.yaml").run.steps == meant


@pytest.mark.parametrize(("given", "meant"), [("1e-3", 1e-3), ("1E-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("1", 1.0)])
def test_numbers_are_decimal(given: str, meant: float, tmp_path: Path) -> None:
    assert Recipe.load("toy_copy", [f"run.clip={given}"]).run.clip == meant
    (tmp_path / "own.yaml").write_text(f"run: {{clip: {given}}}\n", encoding="utf-8")
    assert Recipe.load(tmp_path / "own.yaml").run.clip == meant


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "run.steps=1:30",
            "run.steps=0x10",
            "run.steps=1.5",
            "run.steps=１０",
            "run.steps=1e999999999",
            "run.steps=true",
        ),
        *("run.clip=0x10", "run.clip=1:30", "run.clip=true", "run.clip=", "run.steps=1__0", f"run.steps={'9' * 5000}"),
        *(
            "run.compile=yes",
            "run.compile=on",
            "run.compile=1",
            "search.token_scores=null",
            "run.trackers=a",
            "run={seed: 1",
        ),
        *("search.required=[Title: x]", "search.required=[a, [b]]", "search.required=[null]", "search.required={a: b}"),
        *("heads=[a]", "heads={a: 3}", "heads={1a: {name: crf, field: x}}", "mitigations.0.rate=1", "run.folder.x=1"),
        *(
            "mitigations=[3]",
            "mitigations=[{rate: 1}]",
            "mitigations={0: 3}",
            "optimizer=[a]",
            "model.attention=[[dot]]",
        ),
    ],
)
def test_what_a_type_does_not_hold_is_one_line_with_its_key(argument: str) -> None:
    with pytest.raises(UserError, match=rf"^command line: {argument.partition('=')[0].split('.')[0]}") as caught:
        Recipe.load("toy_copy", [argument])
    assert "\n" not in str(caught.value)
    assert not {"AnyNode", "ListConfig", "DictConfig", "NodeType"} & set(str(caught.value).split())


def test_a_mapping_in_a_list_of_texts_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("search:\n  required:\n  - a\n  - Title: x\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.yaml:4: search\.required\[1\]: \{'Title': 'x'\} is not a text"):
        Recipe.load(tmp_path / "own.yaml")


SIGNS = ["*er*", "@a", "&x", "&x y", "*x", "%a", "!a", "`a`", "|a", ">a"]


@pytest.mark.parametrize("text", SIGNS)
def test_signs_of_yaml_are_text_in_a_list_on_the_command_line(text: str) -> None:
    assert Recipe.load("toy_copy", [f"search.forbidden=[{text}, b]"]).search.forbidden == [text, "b"]
    with pytest.raises(UserError, match="is not a list"):
        Recipe.load("toy_copy", [f"search.forbidden={text}"])


YAMLS_OWN_WORDS = ("token", "alias", "expected", "stream", "<", "scanning", "mapping values")


@pytest.mark.parametrize(
    "text", ["[#]", "[a #b]", "[- a]", "[a", "{a", '["a]', '["a" b]', "[a]b", "[a\tb]", "[a, , b]"]
)
def test_what_is_no_list_says_what_to_quote(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"search:\n  forbidden: {text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^command line: search\.forbidden: .*(quote|blanks)") as argument:
        Recipe.load("toy_copy", [f"search.forbidden={text}"])
    with pytest.raises(UserError, match=r"own\.yaml:\d: not YAML: .*(quote|blanks)") as file:
        Recipe.load(tmp_path / "own.yaml")
    assert not [word for word in YAMLS_OWN_WORDS for told in (argument, file) if word in str(told.value)]


@pytest.mark.parametrize("text", ["*x", "*.jsonl", "@x", "%x", "`x", "|x", ">x"])
def test_a_sign_of_yaml_in_a_file_is_told(text: str, tmp_path: Path) -> None:
    for value in (f"run:\n  folder: {text}\n", f"search:\n  forbidden: [{text}]\n", f"run: {{folder: {text}}}"):
        (tmp_path / "own.yaml").write_text(value, encoding="utf-8")
        with pytest.raises(
            UserError, match=r"own\.yaml:\d: not YAML: '.*' begins with '.', a sign of YAML; write"
        ) as told:
            Recipe.load(tmp_path / "own.yaml")
        assert repr(text) in str(told.value)


@pytest.mark.parametrize("value", ["a\\ud800b", "a\\0b"])
@pytest.mark.parametrize("key", ["run.folder", "data.path", "data.train_files", "model.pretrained", "search.allowed"])
def test_what_names_no_file_is_refused(key: str, value: str, tmp_path: Path) -> None:
    text = f'["{value}"]' if key.endswith("files") else f'"{value}"'
    (tmp_path / "own.yaml").write_text(f"base: toy_copy\n{key}: {text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"own\.yaml:2: {key}(\[0\])?: 'a.*b' holds .*, which no name of a file can"):
        Recipe.load(tmp_path / "own.yaml")


@pytest.mark.parametrize("overrides", [[], ["run.seed=3"], ["heads.a.weight=0.5"]])
def test_a_field_called_no_stays_so(overrides: list[str], tmp_path: Path) -> None:
    rows = "heads: {a: {name: crf, field: no}, off: {name: zlpr, field: on}}\n"
    (tmp_path / "own.yaml").write_text(f"base: toy_copy\n{rows}run: {{select: loss}}\n", encoding="utf-8")
    heads = Recipe.load(tmp_path / "own.yaml", overrides).heads
    assert {name: head.field for name, head in heads.items()} == {"a": "no", "off": "on"}


def test_the_order_of_arguments_loses_none() -> None:
    given = ["search.beams=2", "search.strength=0.25", "search.name=diverse", "search.n_best=3"]
    for order in (given, given[::-1], [*given[:2], "search={name: diverse, n_best: 3}"]):
        found = Recipe.load("toy_copy", order).values()["search"]
        assert [found[key] for key in ("name", "beams", "strength", "n_best")] == ["diverse", 2, 0.25, 3]
    with pytest.raises(UserError, match=r"unknown key 'search\.stop'"):
        Recipe.load("toy_copy", ["search.stop=never", "search.name=diverse"])


def test_no_run_begins_that_could_not_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(Recipe.load("toy_copy"), mitigations=[])
    recipe.search.prefix = 5  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^recipe: search\.prefix: what is saved would be read back with other"):
        s2s.fit(replace(recipe, run=replace(recipe.run, folder=str(tmp_path / "run"))))
    assert not (tmp_path / "run").exists()
    assert main(["recipe=toy_copy", f"run.folder={tmp_path}/${{x}}"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: run.folder: '${' begins ${oc.env:NAME}")


def test_home_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(tmp_path)
    monkeypatch.setenv("HOME", home)
    keys = ["data.path", "data.root", "data.cache", "data.dataset.name", "vocabulary.name", "model.pretrained"]
    for key in [*keys, "run.folder", "search.allowed"]:
        value: object = Recipe.load("toy_copy", [f"{key}=~/a"])
        for name in key.split("."):
            value = getattr(value, name)
        assert value == f"{home}/a", key
    assert Recipe.load("toy_copy", ["data.train_files=[~/a, b~]"]).data.train_files == [f"{home}/a", "b~"]
    monkeypatch.setenv("S2S_DATA", "~/data")
    monkeypatch.setenv("S2S_CACHE", "~/cache")
    monkeypatch.setenv("S2S_MODELS", "~/models")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.json").touch()
    assert root_folder(Recipe.load("toy_copy").data) == tmp_path / "data"
    assert cache_folder() == tmp_path / "cache"
    assert pretrained.find("m") == f"{home}/models/m"
    (tmp_path / "own.yaml").write_text("base: toy_copy\n", encoding="utf-8")
    assert Recipe.load("~/own.yaml") == Recipe.load("~/own") == Recipe.load("toy_copy")
    with pytest.raises(UserError, match=f"run '{home}/none'"):
        s2s.load("~/none")


def test_without_a_home_a_path_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError(path)

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match="~/x: this user has no home"):
        at_home("~/x")
    assert at_home("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


def test_a_base_is_found_beside_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder, steps in ((inner, 3), (outer, 4)):
        (folder / "deep").mkdir(parents=True)
        (folder / "below.yaml").write_text(f"run.steps: {steps}\n", encoding="utf-8")
        (folder / "deep" / "other.yml").write_text("run.steps: 5\n", encoding="utf-8")
    monkeypatch.chdir(outer)
    cases = {"below.yaml": 3, "./below.yaml": 3, "below": 3, "deep/other": 5, "deep/other.yml": 5, "../outer/below": 4}
    for base, steps in (cases | {str(outer / "below.yaml"): 4}).items():
        (inner / "own.yaml").write_text(f"base: {base}\n", encoding="utf-8")
        for name in ("../inner/own.yaml", inner / "own.yaml", "../inner/own"):
            assert Recipe.load(name).run.steps == steps, (base, name)
    monkeypatch.chdir(inner)
    (inner / "own.yaml").write_text("base: toy_copy\nrun.seed: 7\n", encoding="utf-8")
    for name in ("own.yaml", "./own.yaml", "./own", "own"):
        assert Recipe.load(name).run.seed == 7
    (inner / "own.yaml").write_text("base: none.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.yaml:1: base: recipe 'none\.yaml': no such file next to the recipe in"):
        Recipe.load("own.yaml")
