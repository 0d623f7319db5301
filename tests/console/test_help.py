"""``--help`` lists every key of a recipe and of each row of its tables, from the settings themselves."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

from s2s import train
from s2s.config.help import Key, comments, describe, keys
from s2s.console.command_line import exit_code_of
from s2s.errors import UserError
from s2s.recipe.recipe import LISTS, TABLES, Recipe


@dataclass
class Base:
    first: int = 3  # how many
    # said on
    # two lines
    second: Literal["a", "b"] | None = None


@dataclass
class Own(Base):
    first: int = 4
    third: list[str] = field(default_factory=lambda: ["x", "y"])  # names
    fourth: bool = True
    inner: Base = field(default_factory=Base)


def settings() -> Iterator[type]:
    """Every class whose fields are keys of a recipe."""
    for kind in get_type_hints(Recipe).values():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield kind
    for table in (*TABLES.values(), *LISTS.values()):
        yield from table.values()


def test_a_key_has_the_type_and_default_of_its_field_and_the_comment_beside_or_above_it() -> None:
    assert keys(Own) == [
        Key("first", "whole number", "4", "how many"),
        Key("second", "a | b or null", "null", "said on two lines"),
        Key("third", "list of text", "[x, y]", "names"),
        Key("fourth", "true or false", "true", ""),
    ]


@pytest.mark.parametrize("kind", list(settings()), ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning(kind: Any) -> None:
    assert [item.name for item in fields(kind) if not comments(kind).get(item.name)] == []
    listed = keys(kind)
    assert all(text.startswith(f"  {key.name} ") for key, text in zip(listed, describe(listed), strict=True))


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{item.name}" in text for item in fields(Recipe))
    for table in (*TABLES.values(), *LISTS.values()):
        assert all(f"\n  {name}: " in text for name in table)
    missing = [key.name for kind in settings() for key in keys(kind) if f"  {key.name} " not in text]
    assert missing == []
    assert max(map(len, text.splitlines())) <= 120


def test_help_of_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help", "schedule"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("schedule: {name: ROW, ...} (linear)\n  all rows:\n    warmup  whole number (0): steps")
    assert "model" not in text
    assert train.main(["--help", "scheduel"]) == 2
    assert capsys.readouterr().err == "error: command line: no section 'scheduel'; did you mean 'schedule'?\n"


@pytest.mark.slow
def test_decode_describes_its_keys() -> None:
    script = Path(__file__).parents[2] / "scripts" / "decode.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    for key in ("run ", "input ", "output ", "checkpoint ", "beams ", "no_repeat_ngram "):
        assert any(f"\n{indent}{key}" in done.stdout for indent in ("", "    "))


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("it is wrong"), 2, "error: it is wrong\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.txt"),
            2,
            "error: [Errno 2] No such file or directory: 'x.txt'\n",
        ),
        (KeyboardInterrupt(), 130, "gone\n"),
    ],
)
def test_a_command_tells_what_a_user_can_mend(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert exit_code_of(work, "gone") == code
    assert capsys.readouterr().err == told
    assert exit_code_of(lambda: 5) == 0
