"""Messages name this project's own distribution; ``s2s`` on the package index is an unrelated project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import s2s
from s2s.errors import DISTRIBUTION, UserError, optional_module, own_version

CHECKOUT = Path(s2s.__file__).resolve().parents[1]
SETTINGS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = SETTINGS["project"], SETTINGS["tool"]["setuptools"]
ELSEWHERE = re.compile(r"pip install[^\n#`]*?['\"\t ]s2s(?=['\"\[\s]|$)")


def texts() -> list[Path]:
    """Every file whose text a user may read."""
    folders = [CHECKOUT / name for name in ("s2s", "scripts", "recipes", "tests", ".github")]
    inside = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    read = [path for path in inside if path.suffix in {".py", ".md", ".yaml", ".yml", ".html", ".js", ""}]
    return [*read, *CHECKOUT.glob("*.md"), *CHECKOUT.glob("*.toml"), *CHECKOUT.glob("*.cff")]


@pytest.mark.parametrize("line", ["pip install s2s", "pip install -U 's2s[plots]'", 'pip install "s2s"'])
def test_the_pattern_finds_the_other_project(line: str) -> None:
    assert ELSEWHERE.search(line)


@pytest.mark.parametrize("line", ["pip install 's2s-exposure[plots]'", "pip install -e '.[plots]'", "pip install ."])
def test_the_pattern_passes_this_project(line: str) -> None:
    assert not ELSEWHERE.search(line)


def test_nothing_tells_to_install_the_other_project() -> None:
    own = Path(__file__).resolve()
    wrong = [path for path in texts() if path != own and ELSEWHERE.search(path.read_text("utf-8", errors="replace"))]
    assert wrong == []


def test_the_project_has_the_distributions_name() -> None:
    assert (PROJECT["name"], PROJECT["version"]) == (DISTRIBUTION, own_version())


def test_a_missing_module_names_its_package_and_the_checkout() -> None:
    with pytest.raises(UserError, match=r"^the report needs the package no_such: pip install -e '\.\[diagnose\]'$"):
        optional_module("no_such.inner", "diagnose", "the report")


@pytest.mark.parametrize("beside", [None, '[project]\nname = "another"\nversion = "9"\n'])
def test_an_installed_package_names_the_distribution(tmp_path: Path, beside: str | None) -> None:
    """Without its checkout, a stranger's pyproject.toml in the folder above included."""
    (tmp_path / "s2s").mkdir()
    shutil.copy(CHECKOUT / "s2s" / "errors.py", tmp_path / "s2s")
    (tmp_path / "s2s" / "__init__.py").touch()
    if beside is not None:
        (tmp_path / "pyproject.toml").write_text(beside, encoding="utf-8")
    program = "from s2s.errors import install_command; print(install_command('plots'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.stdout == f"pip install '{DISTRIBUTION}[plots]'\n", done.stderr


def test_every_named_extra_exists() -> None:
    named = re.compile(r"(?:install_command\(|optional_module\([^,]+,\s*)['\"](\w+)['\"]")
    sources = [*(CHECKOUT / "s2s").rglob("*.py"), *(CHECKOUT / "scripts").glob("*.py")]
    extras = {extra for path in sources for extra in named.findall(path.read_text("utf-8"))}
    assert extras
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_every_room_is_packed() -> None:
    rooms = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "s2s").rglob("__init__.py")}
    assert {*SETUPTOOLS["packages"]} == {".".join(room.parts) for room in rooms} | {"s2s.shipped_recipes"}


def test_a_wheel_has_the_recipes_and_every_file_that_is_no_module(tmp_path: Path) -> None:
    """Built without network, from a copy, so that nothing is left in the checkout."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than the build needs")
    for name in ("s2s", "recipes"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tmp_path)
    results = tmp_path / "recipes" / "studies" / "results" / "oracle"
    results.mkdir(parents=True, exist_ok=True)
    (results / "page.html").write_text("<svg>", encoding="utf-8")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", "wheel"]
    command = [sys.executable, "-m", "pip", "wheel", ".", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (CHECKOUT / "s2s").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".md")]
    assert packed >= {path.relative_to(CHECKOUT).as_posix() for path in files}
    assert packed >= {f"s2s/shipped_recipes/{path.name}" for path in (CHECKOUT / "recipes").glob("*.yaml")}
    assert packed >= {
        f"s2s/shipped_recipes/studies/{path.name}" for path in (CHECKOUT / "recipes/studies").glob("*.yaml")
    }
    assert not [name for name in packed if "/results/" in name]
    assert not [name for name in packed if not name.startswith(("s2s/", "s2s_exposure-"))]
    unpacked = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(unpacked)
    program = "from s2s.config.recipe_files import recipe_layers; print(recipe_layers('toy_copy')[-1].origin)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "wheel",
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.strip() == str(unpacked / "s2s" / "shipped_recipes" / "toy_copy.yaml"), done.stderr
