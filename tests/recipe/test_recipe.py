"""Recipes: what wins over what, what reads back, and how a mistake is told; and what the package's files are called."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.config.recipe_files import SHIPPED
from s2s.errors import UserError
from s2s.optim.schedules import Cosine, Linear
from s2s.recipe.recipe import Recipe, differences
from s2s.recipe.run_settings import RunSettings
from s2s.train import main

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "s2s"
NUMBERS = ("steps", "tokens", "save_every", "evaluate_every")
FIRST_KEYS = "data, heads, mitigations, model, objective, optimizer, run, schedule, search, vocabulary"
layers = st.dictionaries(st.sampled_from(NUMBERS), st.integers(1, 99))
# OmegaConf gives ${...} and ??? a meaning of their own.
texts = st.text(st.characters(exclude_categories=["C"], exclude_characters="$?"))


def refusal(recipe: str | Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(UserError) as caught:
        Recipe.load(recipe, overrides)
    assert main([f"recipe={recipe}", *overrides]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {caught.value}\n")
    assert captured.err.count("\n") <= 3
    return str(caught.value)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / f"{name}.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_reads_back_as_it_is(file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(file.stem)
    again = Recipe.load(written(tmp_path, "again", recipe.to_yaml()))
    assert again == recipe == Recipe.load(file)
    assert again.to_yaml() == recipe.to_yaml()


def read_back(folder: Path, name: str, floor: float) -> None:
    recipe = Recipe.load("toy_copy")
    recipe = replace(recipe, run=replace(recipe.run, folder=name), schedule=Cosine(3, floor))
    assert Recipe.load(written(folder, "again", recipe.to_yaml())) == recipe


@settings(deadline=None, max_examples=15)
@given(name=texts.filter(str.strip), floor=st.floats(0, 1))
def test_any_value_reads_back_as_it_is(tmp_path_factory: pytest.TempPathFactory, name: str, floor: float) -> None:
    read_back(tmp_path_factory.mktemp("any"), name, floor)


@pytest.mark.parametrize("name", ["1e3", "+1e5", "no", "null", "007", "1:30", "2026-01-01", "~", "# a", "a: b"])
def test_a_text_that_looks_like_something_else_reads_back(name: str, tmp_path: Path) -> None:
    read_back(tmp_path, name, 1e-8)


@settings(deadline=None, max_examples=15)
@given(base=layers, recipe=layers, overrides=layers)
def test_later_layers_win(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, int], recipe: dict[str, int], overrides: dict[str, int]
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    written(folder, "below", f"run: {base}")
    file = written(folder, "above", f"base: below\nrun: {recipe}")
    loaded = Recipe.load(file, [f"run.{key}={value}" for key, value in overrides.items()])
    assert loaded.run == RunSettings(**{**base, **recipe, **overrides})


def test_another_row_of_a_table_starts_its_section_anew(tmp_path: Path) -> None:
    written(tmp_path, "below", "schedule: {name: linear, warmup: 50, floor: 0.5}")
    same = written(tmp_path, "same", "base: below\nschedule: {name: linear, warmup: 7}")
    silent = written(tmp_path, "silent", "base: below\nschedule: {warmup: 7}")
    other = written(tmp_path, "other", "base: below\nschedule: {name: cosine}")
    assert Recipe.load(same).schedule == Recipe.load(silent).schedule == Linear(warmup=7, floor=0.5)
    assert Recipe.load(other).schedule == Cosine()
    assert Recipe.load(same, ["schedule.name=cosine"]).schedule == Cosine()
    assert Recipe.load(other, ["schedule={name: linear, floor: 0.1}"]).schedule == Linear(floor=0.1)


def test_a_base_has_no_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "below", "base: toy_copy")
    above = written(tmp_path, "above", "run: {steps: 5}\nbase: below")
    message = refusal(above, [], capsys)
    assert message == f"{above}:2: base 'below' has a base of its own; one level only"
    broken = written(tmp_path, "broken", "run:\n  stpes: 3")
    message = refusal(written(tmp_path, "above", "base: broken"), [], capsys)
    assert message == f"{broken}:2: unknown key 'run.stpes'; did you mean 'run.steps'?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.stepz=3", "unknown key 'run.stepz'; did you mean 'run.steps'?"),
        ("recipe.run.steps=3", f"unknown key 'recipe'; valid: {FIRST_KEYS}"),
        ("schedule.name=lin", "schedule.name: no 'lin'; did you mean 'linear'?"),
        ("schedule.name=[linear]", "schedule.name: no "),
        ("schedule=linear", "schedule: expected keys and values"),
        ("model=3", "model: "),
        ("model.norm=prf", "model.norm: no 'prf'; did you mean 'pre'?"),
        ("model.dropout=2", "model.dropout: 2.0 is not in [0, 1)"),
        ("model.attention=dott", "model.attention: no variant 'dott'; did you mean 'dot'?"),
        ("run.steps=0", "run.steps: 0 is not at least 1"),
        ("run.steps=abc", "run.steps: 'abc' is not a whole number"),
        ("run.steps=[1", "run.steps: "),
        ("model.config.d_model=[1", "model.config.d_model: "),
        ("run.steps", "'run.steps' is not key=value"),
        ("run.clip=nan", "run.clip: "),
        ("run.folder=${nowhere}", "run.folder: "),
        ("mitigations=[{name: fgn}]", "mitigations[0].name: no 'fgn'; did you mean 'fgm'?"),
        ("mitigations={a: 1}", "mitigations: "),
        ("data.packages[0]=x", "data.packages: "),
        ("data.size=1", "data.size: 1 is not at least 201"),
    ],
)
def test_a_wrong_argument_is_told_with_its_key(override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("toy_copy", [override], capsys).startswith("command line: " + message)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("run:\n  seed: 3\n  stepz: 4\n", 3, "unknown key 'run.stepz'; did you mean 'run.steps'?"),
        ("run:\n  steps: 0\n", 2, "run.steps: 0 is not at least 1"),
        ("run: {steps: !!int abc}\n", 1, "not YAML: "),
        ("run:\n  folder: ${nowhere}\n", 2, "run.folder: "),
        ("# run\nrun: 3\n", 2, "run: "),
        ("model:\n  norm: prf\n", 2, "model.norm: no 'prf'; did you mean 'pre'?"),
        ("schedule:\n  name: lin\n", 2, "schedule.name: no 'lin'; did you mean 'linear'?"),
        ("\nschedule: linear\n", 2, "schedule: expected keys and values"),
        (
            "mitigations:\n- {name: fgm}\n- name: fgm\n  epsilom: 1\n",
            4,
            "unknown key 'mitigations[1].epsilom'; did you",
        ),
        ("heads: [1]\n", 1, "heads: "),
        ("run: {}\nRun: {}\n", 2, "unknown key 'Run'; did you mean 'run'?"),
        ("run:\n  steps: 3\n  steps: 4\n", 3, "not YAML: found duplicate key steps"),
        ("run:\n  steps: [1\n", 3, "not YAML: "),
        ("steps", 1, "not a mapping"),
        ("3\n", 1, "not a mapping"),
        ("- run\n", 1, "not a mapping"),
        (b"run:\x00", 1, "not YAML: "),
        (b"\xff\xfe", None, "'utf-8' codec can't decode"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(
    content: str | bytes, line: int | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "wrong", content)
    place = f"{file}:{line}: " if line else f"{file}: "
    assert refusal(file, [], capsys).startswith(place + message)


def test_an_unknown_recipe_is_told_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("title_gn", [], capsys).endswith("; did you mean 'title_gen'?")
    assert refusal(written(tmp_path, "above", "base: toy_cpy"), [], capsys).endswith("; did you mean 'toy_copy'?")
    assert refusal(tmp_path / "none.yaml", [], capsys) == f"recipe '{tmp_path / 'none.yaml'}': no such file"
    assert main(["run.steps=3"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: one recipe=NAME is needed, not 0\n")


def test_differences_name_the_keys() -> None:
    ours = Recipe.load("toy_copy", ["run.steps=7", "schedule.name=cosine", "data.packages=[rich]"])
    theirs = Recipe.load("toy_copy", ["run.steps=9"])
    keys = [line.partition(":")[0] for line in differences(ours, theirs)]
    assert keys == ["data.packages", "run.steps", "schedule.name", "schedule.warmup"]
    assert differences(ours, theirs)[1:3] == ["run.steps: 9 -> 7", "schedule.name: linear -> cosine"]
    assert differences(ours, replace(ours)) == []


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, encoding="utf-8"
    )


@pytest.mark.slow
def test_the_command_refuses_in_one_line() -> None:
    done = python("-m", "s2s.train", "recipe=toy_copy", "run.stepz=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: unknown key 'run.stepz'; did you mean 'run.steps'?\n"


# ``accelerate launch s2s/train.py`` puts the package's own folder first on the path of modules.
@pytest.mark.slow
def test_no_file_hides_another_module() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()} - {
        "__init__",
        "__main__",
    }
    assert not names & (set(sys.stdlib_module_names) | set(packages_distributions()))
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); import s2s.train\n"
        f"print([name for name in sys.modules if name in {sorted(names)!r}])"
    )
    assert python("-c", code).stdout == "[]\n", "an installed package took a file of s2s for a package of that name"


def modules() -> dict[str, Path]:
    files = [path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__"): ROOT / path.with_suffix(".py") for path in files}


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            whole = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in known else str(node.module) for name in whole if str(node.module) in known)


def test_imports_form_no_circle() -> None:
    known = modules()
    needs = {name: set(imported(file, known)) - {"s2s"} for name, file in known.items() if name != "s2s"}
    needs["s2s.recipe.recipe"].remove("s2s.recipe.build")  # Recipe.build delegates to it, from within the function
    assert needs["s2s.train"] >= {"s2s.runs.checkpoints", "s2s.recipe.recipe", "s2s.training.step"}
    assert "s2s.data.batches" in needs["s2s.training.step"]
    while ready := {name for name in needs if not needs[name] & needs.keys()}:
        needs = {name: below for name, below in needs.items() if name not in ready}
    assert not needs
