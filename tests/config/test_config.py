"""Values in layers: unchanged text, dotted keys, deep and endless files; any fault is one line."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.recipe.recipe import Recipe

PLAIN = ["no", "off", "Yes", "1e3", "012", "0x1f", "1_000", "12:30", "1.50", "true", ".inf"]
KEYS = ["data.lang", "data.path", "run.folder", "vocabulary.name", "schedule.name", "run", "data", "mitigations", "x.y"]


def recipe(folder: Path, content: str) -> Recipe:
    file = folder / "own.yaml"
    file.write_text(content, encoding="utf-8")
    return Recipe.load(file)


def refusal(folder: Path, content: str) -> str:
    with pytest.raises(UserError) as caught:
        recipe(folder, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", PLAIN)
def test_a_key_for_text_holds_what_is_written(text: str, tmp_path: Path) -> None:
    lists = f"data: {{lang: {text}, packages: [a, {text}]}}" if text.isalpha() else f"data: {{lang: {text}}}"
    for found in (
        recipe(tmp_path, f"{lists}\nrun.folder: {text}\nvocabulary: {{name: '{text}'}}"),
        Recipe.load("toy_copy", [lists.replace(": ", "=", 1), f"run.folder={text}", f"vocabulary.name='{text}'"]),
    ):
        assert (found.data.lang, found.run.folder, found.vocabulary.name) == (text,) * 3
        assert not text.isalpha() or found.data.packages == ["a", text]
    with pytest.raises(UserError, match="pool: no "):
        Recipe.load("toy_copy", [f"mitigations=[{{name: random_replacement, pool: {text}}}]"])


def test_null_is_no_text() -> None:
    assert Recipe.load("toy_copy", ["vocabulary.name=null"]).vocabulary.name is None
    with pytest.raises(UserError, match=r"run\.folder: "):
        Recipe.load("toy_copy", ["run.folder=null"])


def test_dotted_keys_of_a_file_are_nested(tmp_path: Path) -> None:
    found = recipe(tmp_path, "schedule.name: cosine\nschedule: {warmup: 3}\nschedule.floor: 0.5")
    assert found.values()["schedule"] == {"name": "cosine", "warmup": 3, "floor": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 5000, "{file}: nested too deeply"),
        ("{a: " * 5000, "{file}: nested too deeply"),
        ("a: &a [*a]", "{file}: nested too deeply"),
        ("a: &a " + str([1] * 200) + "\nb: &b [" + "*a," * 200 + "]\nc: [" + "*b," * 200 + "]", "{file}: more than"),
        ("run: 3\nrun.seed: 4", "{file}: run: set twice"),
        ("run.seed: 3\nrun: {seed: 4}", "{file}: run.seed: set twice"),
        ("schedule: {name: null}", "{file}:1: schedule.name: no 'null'"),
        ("\nschedule.nam: linear", "{file}:2: unknown key 'schedule.nam'; did you mean 'schedule."),
        ("run.folder: ???", "{file}:1: run.folder: '???' is no value"),
        ("run: ???", "{file}:1: run: expected keys and values, not '???'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, content).startswith(message.format(file=tmp_path / "own.yaml"))


@pytest.mark.parametrize("key", ["run.steps", "mitigations", "data.packages"])
def test_the_command_line_is_not_nested_without_end(key: str) -> None:
    with pytest.raises(UserError, match=rf"^command line: {key}: "):
        Recipe.load("toy_copy", [key + "=" + "[" * 5000])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | JUNK.map(lambda v: repr(v).encode()))
def test_any_file_is_a_recipe_or_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("junk") / "own.yaml"
    file.write_bytes(content)
    one_line(file, [])


@settings(deadline=None, max_examples=60)
@given(key=st.sampled_from(KEYS) | st.text(max_size=5), value=st.text(max_size=20) | JUNK.map(repr))
@example(key="\x1e", value="\x1f")
@example(key="schedule.name", value="\r")
def test_any_argument_is_taken_or_one_line(key: str, value: str) -> None:
    one_line("toy_copy", [f"{key}={value}"])


def one_line(name: str | Path, overrides: list[str]) -> None:
    try:
        Recipe.load(name, overrides)
    except UserError as error:
        found = str(error)
    else:
        found = ""
    assert len(found.splitlines()) <= 1
