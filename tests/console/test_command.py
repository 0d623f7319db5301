"""The command ``s2s``: one table of names, one convention of arguments, and the scripts of a checkout that share it."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import tiny_runs

import s2s
from s2s.__main__ import COMMANDS, main

CHECKOUT = Path(s2s.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    s2s.fit(tiny_runs.recipe(folder, "run.steps=1"))
    return folder


@pytest.mark.slow
def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    program = "import sys; from s2s.__main__ import main; code = main(['--help']); print(code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, encoding="utf-8")
    *listed, last = done.stdout.splitlines()
    assert last == "0 False"
    assert [line.split()[0] for line in listed[3:-2]] == list(COMMANDS)


@pytest.mark.slow
def test_training_is_imported_without_the_base_of_foreign_models() -> None:
    """It costs half a second, which only runs with a model of ``transformers`` have to spend."""
    program = "import sys, s2s.train; print('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_asks_for_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: s2s {name} ")
    assert main([name]) == 2
    assert capsys.readouterr().out.startswith(f"usage: s2s {name} ")
    assert main([name, "--help", "no_such_section"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: no section 'no_such_section'")
    assert main([name, "no_key"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: ")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("train", "decode", "study")])
def test_a_dry_run_of_what_has_none_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "run=somewhere", "--dry-run"]) == 2
    assert (
        capsys.readouterr().err
        == "error: command line: this command has no --dry-run; train, decode and study have one\n"
    )


def test_an_unknown_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decod"]) == 2
    assert capsys.readouterr().err == "error: no command 'decod'; did you mean 'decode'?\n"
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: s2s COMMAND")


def test_a_dry_run_of_decoding_reads_all_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("a b c\nd e\n", encoding="utf-8")
    arguments = ["decode", f"run={run}", f"input={source}", f"output={output}", "search.beams=3"]
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"input: {source}, 2 sources\n" in shown
    assert f"output: {output}, not written\n" in shown
    assert "beams 3" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]
    assert main([*arguments, "search.beams=0", "--dry-run"]) == 2
    assert main(arguments) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("name", ["average", "decode", "evaluate", "export", "predict"])
def test_the_script_of_a_checkout_is_the_command(name: str) -> None:
    text = (CHECKOUT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    module = import_module(COMMANDS[name][0])
    assert f"from {module.__name__} import main" in text
    assert len(text.splitlines()) < 15


@pytest.mark.slow
def test_the_package_runs_as_a_module_from_any_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a b c\n", encoding="utf-8")
    command = [sys.executable, "-m", "s2s", "decode", f"run={run}", "input=in.txt", "output=out.txt", "processes=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()) == 1
