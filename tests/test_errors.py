"""Messages name this project's own distribution; ``s2s`` on the package index is an unrelated project."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import s2s
from s2s.errors import DISTRIBUTION, UserError, optional_module, own_version

CHECKOUT = Path(s2s.__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ELSEWHERE = re.compile(r"pip install[^\n]*?['\"\s]s2s(?=['\"\[\s]|$)")


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
