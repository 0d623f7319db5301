"""The manual's shell lines and Python blocks run as they are printed, on a recipe of seconds in the place of theirs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from loops import fresh, vocabulary

from s2s.data import load
from s2s.recipe import Recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    *(f"{room}/README.md" for room in ("recipes", "scripts", "s2s", "tests")),
    ".github/CONTRIBUTING.md",
]
ELSEWHERE = {
    r"scripts/(quickstart|test)\b": "each is a whole job of its own, which is run before a release",
    r"s2s study\b": "each takes hours; tests/study has studies of seconds",
    r"pip install": "tests/console/test_command.py builds and installs the wheel",
    r"torchrun .*|.*embeddings=": "needs several processes, or an encoder",
    r"python scripts/check_gpu": "needs a GPU; tests/scripts/test_check_gpu.py runs it on the one in host memory",
    r"curl ": "tests/serve asks the server",
    r"(s2s|python -m s2s\.)\s*serve\b": "tests/serve starts the server",
}
"""Lines that are not run here, each kind with the reason."""
SMALL = (
    "data.size=400 data.max_source=12 data.max_target=12 model.layers=1 model.width=16 model.heads=2 "
    "vocabulary.size=300 run.tokens=128 run.save_every=2 run.evaluate_every=2 run.evaluate_examples=2"
)
"""What makes ``toy_copy`` a run of a second; what a line itself says comes after it."""


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def shell_lines() -> list[tuple[str, str]]:
    """Return every shell line of the manual with its page; lines that a backslash continues are one."""
    lines = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            joined = re.sub(r"\\\n\s*", "", block)
            lines += [(page, line.strip()) for line in joined.splitlines() if line.strip() and line.strip()[0] != "#"]
    return lines


def reason(line: str) -> str | None:
    """Return why a line is not run here, or None."""
    return next((why for pattern, why in ELSEWHERE.items() if re.match(pattern, line)), None)


RUN_HERE = [(page, line) for page, line in shell_lines() if reason(line) is None]


def shortened(line: str) -> str:
    """Return a line of the manual on a recipe of a second."""
    line = re.sub(r"\s+#.*$", "", line)
    if " --help" in line or "recipe=" not in line:
        return line
    steps = "" if "run.steps=" in line else " run.steps=2"
    name = re.search(r"recipe=([\w.]+)", line)
    assert name is not None
    folder = "" if "run.folder=" in line else f" run.folder=runs/{name[1].removesuffix('.yaml')}"
    return re.sub(r"recipe=[\w.]+", f"recipe=toy_copy {SMALL}{folder}", line, count=1) + steps


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a user whose ``s2s`` and ``python`` are this checkout's."""
    programs = home / "programs"
    programs.mkdir(exist_ok=True)
    for name, command in (("s2s", f'"{sys.executable}" -m s2s "$@"'), ("python", f'"{sys.executable}" "$@"')):
        (programs / name).write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def shell(line: str, home: Path) -> None:
    """Run a line in a user's folder; fail with what it printed."""
    done = subprocess.run(
        ["bash", "-c", shortened(line)], cwd=home, env=environment(home), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{shortened(line)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a checkout's top level, trained runs and files under the names that the manual uses."""
    home = tmp_path_factory.mktemp("manual")
    for name in ("s2s", "scripts", "recipes", "tests", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    for run in ("title_gen", "a", "a_0", "a_1", "b_0", "b_1", "other"):
        seed = run[-1] if run[-1].isdigit() else "0"
        shell(f"s2s train recipe={run} run.seed={seed} run.steps=2", home)
    texts = "".join(f"{letters}\n" for letters in ("a b c", "d e", "f g h", "a a"))
    for name in ("sources.txt", "gold.txt", "a.txt", "b.txt"):
        (home / name).write_text(texts, encoding="utf-8")
    # Of the very sources that the small recipe trains on: brio refuses a file without candidates for them.
    examples = load(Recipe.load("toy_copy", shlex.split(SMALL)).data).train
    rows = [json.dumps({"source": example.source, "target": example.target}) + "\n" for example in examples]
    (home / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    return home


@pytest.mark.parametrize(("page", "line"), RUN_HERE, ids=[line[:60] for _, line in RUN_HERE])
def test_a_shell_line_of_the_manual_runs(page: str, line: str, home: Path) -> None:
    assert page in PAGES
    shell(line, home)


def test_every_kind_of_line_that_is_not_run_here_is_still_in_the_manual() -> None:
    lines = [line for _, line in shell_lines()]
    assert [pattern for pattern in ELSEWHERE if not any(re.match(pattern, line) for line in lines)] == []


def test_the_python_of_the_manual_runs(home: Path) -> None:
    tokenizer = vocabulary().tokenizer
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as T5's
    tokenizer.save_pretrained(home / "google-t5" / "t5-small")
    fresh("t5").save_pretrained(home / "google-t5" / "t5-small")
    code = ["\n".join(blocks(page, "python")) for page in ("README.md", "s2s/README.md")]
    small = ", ".join(f'"{word}"' for word in (*shlex.split(SMALL), "run.steps=2", "run.folder=runs/python"))
    program = re.sub(
        r'Recipe\.load\("title_gen", overrides=\[.*?\]\)',
        f'Recipe.load("toy_copy", overrides=[{small}])',
        "\n".join(code),
    )
    assert "toy_copy" in program
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=home, env=environment(home), capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
