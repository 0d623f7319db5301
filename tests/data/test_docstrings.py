"""Laws of the docstring task, on a small package written for the purpose, and of the settings."""

import gzip
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.data import Dataset, DataSettings, Example, load
from s2s.data.docstrings import pair, split_of
from s2s.errors import UserError

BODY = "It gives the first of the values that were found in the table."
WORDS = st.text("abcdefghijklm", min_size=2, max_size=7)


def expected(number: int) -> Example:
    words = " ".join("abcdefghij"[int(digit)] * 2 for digit in str(number))
    return Example(f"{BODY} {number}", f"Return value number {words} here.")


def documented(number: int, indent: int = 4) -> str:
    source, target = expected(number)[:2]
    return textwrap.indent(f'"""{target}\n\n{source}\n"""\n', " " * indent)


def module_text(first: int, count: int = 3) -> str:
    return "".join(f"def f{number}():\n{documented(number)}" for number in range(first, first + count))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of 40 modules with 3 pairs each, on the path of Python, that must not be imported."""
    folder = tmp_path / "packages" / "sample"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    for number in range(40):
        (folder / ("inner" * (number % 2)) / f"module{number}.py").write_text(module_text(number * 3), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def settings(package: Path, *others: str, cache: str = "cache") -> DataSettings:
    return DataSettings(source="docstrings", packages=[*others, package.name], cache=str(package.parent / cache))


def examples_of(dataset: Dataset) -> list[Example]:
    return [*dataset.train, *dataset.dev, *dataset.test]


def cached(package: Path) -> Path:
    return next((package.parent / "cache").iterdir())


@given(title=st.lists(WORDS, min_size=3, max_size=20), body=st.lists(WORDS, min_size=8), cut=st.integers(1, 19))
def test_title_and_body_come_back_however_wrapped(title: list[str], body: list[str], cut: int) -> None:
    head = " ".join(title[:cut]) + "\n" * (cut < len(title)) + " ".join(title[cut:])
    example = Example(" ".join(body), " ".join(title))
    found = pair(head + "\n\n" + " ".join(body[:cut]) + "\n\n" + "\n".join(body[cut:]))
    assert found == (None if example.source.startswith(example.target) else example)


PAIRS = {
    f"Return one value\n  \n{BODY}": ("Return one value", BODY),
    f"Return one value.\n{BODY}": ("Return one value.", BODY),
    f"Return one value\nof it\n\n{BODY}": ("Return one value of it", BODY),
    f"Return one value\nArgs:\n  {BODY}": ("Return one value", f"Args: {BODY}"),
    f"Return one value\n:param x: {BODY}": ("Return one value", f":param x: {BODY}"),
    f"Return a :class:`~torch.nn.Module` of it.\n\n{BODY}": ("Return a torch.nn.Module of it.", BODY),
    f"Return ``None`` or  `one`.\n\nNotes\n-----\n{BODY}": ("Return None or one.", f"Notes {BODY}"),
    f"Return :func:`one value <x.y>`.\n\n{BODY}\n\n\tOf:\n  ===\n  it": ("Return one value.", f"{BODY} Of: it"),
}


@pytest.mark.parametrize(("docstring", "expected"), PAIRS.items())
def test_title_and_body_are_plain_text_on_one_line(docstring: str, expected: tuple[str, str]) -> None:
    assert pair(docstring) == Example(*expected[::-1])


NO_TITLES = ["Two words.", "word " * 21, "a\nb c d\ne f", "3 numbers are returned.", "Copyright of the authors."]
NO_TITLES += ["Deprecated since last version.", "get(key, default) gives the value", "Get the value -> int"]
NO_TITLES += ["Find it at https://x.org now", "name = first of them", "Return x + y * z / w", "Return the \x07 value"]
NO_TITLES += ["value (int, optional): The first value.", "Return one of the following:", "Return the \ud800 value"]
NO_BODIES = ["", "Seven words are not enough for it.", "RETURN the value. Then there are more words after that title."]
NO_BODIES += [">>> from package import many, names\n>>> print(many)\nand the output of all", "aa.bb.cc.dd.ee.ff.gg.hh"]
NO_BODIES += ["```python\nfrom package import many, names, of, things, to, show\n```", f"Written by him. {BODY}"]
NO_PAIRS = [(title, BODY) for title in NO_TITLES] + [("Return the value.", body) for body in NO_BODIES]


@pytest.mark.parametrize(("title", "body"), NO_PAIRS)
def test_what_is_no_summary_or_says_nothing_is_dropped(title: str, body: str) -> None:
    assert pair(f"{title}\n\n{body}") is None


def test_a_package_is_read_whole_without_importing_it_and_no_module_lies_in_two_splits(package: Path) -> None:
    dataset = load(settings(package))
    assert sorted(examples_of(dataset)) == sorted(map(expected, range(120)))
    for name, examples in zip(("train", "dev", "test"), dataset[:3], strict=True):
        numbers = {int(example.source.split()[-1]) // 3 for example in examples}
        assert {split_of(f"sample.{'inner.' * (number % 2)}module{number}") for number in numbers} == {name}
    splits = [split_of(f"package.module{number}") for number in range(20_000)]
    assert [round(splits.count(name) / 200) for name in ("train", "dev", "test")] == [90, 4, 6]


def test_definitions_are_found_at_any_depth_and_in_order(package: Path) -> None:
    nested = """{}class A:\n{}    async def f(self):\n{}        try: pass\n        except OSError:
            match 1:\n                case 1:\n                    def g():\n{}if A: pass\nelse:\n    def h():\n{}"""
    parts = (documented(1000 + number, indent) for number, indent in enumerate((0, 4, 8, 24, 8)))
    (package / "nested.py").write_text(nested.format(*parts), encoding="utf-8")
    found = [example for example in examples_of(load(settings(package))) if re.search(r"10\d\d", example.source)]
    assert found == list(map(expected, range(1000, 1005)))


def test_equal_bodies_and_frequent_titles_are_dropped(package: Path) -> None:
    (package / "aaa.py").write_text(module_text(0).replace("It gives", "IT GIVES"), encoding="utf-8")
    (package / "zzz.py").write_text(re.sub("number .* here", "of it", module_text(500, 30)), encoding="utf-8")
    examples = examples_of(load(settings(package)))
    assert len({example.source.casefold() for example in examples}) == len(examples) == 120 + 20
    assert [number for number in range(120) if expected(number) not in examples] == [0, 1, 2]
    assert [each.source for each in examples if "of it" in each.target] == [f"{BODY} {n}" for n in range(500, 520)]


def test_what_is_not_read_is_passed_over_or_reported(package: Path) -> None:
    for name in ("tests/a.py", "test/a.py", "site-packages/a.py", "inner/tests/a.py", "with-dash.py", "a.txt"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(module_text(500), encoding="utf-8")
    for name, content in (("a", b"def f(:\n"), ("b", b'"""\xff\xfe"""\n'), ("c", b"x = 1\0\n")):
        (package / f"{name}.py").write_bytes(content)
    (package / "escape.py").write_text(documented(600, 0).replace("600", "\\d") + "x = 1 is 1\n", encoding="utf-8")
    dataset = load(settings(package, "missing"))
    assert set(examples_of(dataset)) - set(map(expected, range(120))) == {Example(f"{BODY} \\d", expected(600).target)}
    lines = ["docstrings: sample 121", "not installed: missing", "not parsed: sample.a, sample.b, sample.c"]
    assert dataset.report[1:] == lines


@pytest.mark.slow
def test_neither_the_hash_seed_nor_the_order_of_packages_matters(package: Path) -> None:
    script = """import sys; from s2s.data import DataSettings, load
print(load(DataSettings(source="docstrings", packages=sys.argv[2:], cache=sys.argv[1])).fingerprint)"""
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", script, str(package.parent / "other"), "sample", "textwrap", "json"]
    found = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    assert found.strip() == load(settings(package, "json", "textwrap")).fingerprint


def test_the_cache_is_read_until_a_module_changes(package: Path) -> None:
    first = load(settings(package))
    assert load(settings(package)) == first
    content = gzip.decompress(cached(package).read_bytes()).replace(b"It gives", b"ANOTHER", 1)
    cached(package).write_bytes(gzip.compress(content))
    assert load(settings(package)).train[0].source.startswith("ANOTHER")
    (package / "module0.py").write_text(module_text(700), encoding="utf-8")
    assert expected(700) in examples_of(load(settings(package)))


NO_ROWS = [b"", b"[]\n{}\n", b'[]\n["other", "a", "b"]\n', b'[]\n["dev", "a"]\n', b"\xff", b"3\n"]
NO_CACHE = [b"", b"x", *(gzip.compress(rows, mtime=0) for rows in NO_ROWS), gzip.compress(b"[]\n", mtime=0)[:-3]]


@pytest.mark.parametrize("content", [*NO_CACHE, NO_CACHE[3][:12] + b"x" * 30])
def test_a_corrupt_cache_is_rebuilt(package: Path, content: bytes) -> None:
    first, written = load(settings(package)), cached(package).read_bytes()
    cached(package).write_bytes(content)
    assert load(settings(package)) == first
    assert cached(package).read_bytes() == written


def test_a_cache_that_cannot_be_written_is_only_reported(package: Path) -> None:
    dataset = load(settings(package, cache="sample/module0.py"))
    assert dataset.report[-1].startswith(f"cache: {package / 'module0.py'} cannot be written (")
    assert dataset.fingerprint == load(settings(package)).fingerprint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are forked start at once")
def test_processes_that_start_at_once_agree(package: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(load, [settings(package)] * 3) == [load(settings(package, cache="other"))] * 3
    assert list(cached(package).parent.iterdir()) == [cached(package)]


VALUES = {"max_source": 2, "max_target": 1, "size": 200, "source_field": " ", "target_field": "", "lang": ""}
WRONG: list[tuple[dict[str, Any], str]] = [({key: value}, f"data.{key}: ") for key, value in VALUES.items()]
WRONG += [({"on_error": "warn"}, "data.on_error: 'warn'"), ({"packages": ["os.path"]}, "data.packages: 'os.path'")]
WRONG += [({}, "data.source, data.path: exactly one"), ({"source": "copy", "path": "x"}, "data.source, data.path: ")]
WRONG += [({"source": "docstring"}, "data.source: 'docstring' is unknown; did you mean 'docstrings'?")]
WRONG += [({"source": "docstrings", "packages": names}, "data.packages: none") for names in ([], ["none", "nil"])]


@pytest.mark.parametrize(("keys", "reason"), WRONG)
def test_a_wrong_setting_is_named(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(reason)):
        load(DataSettings(**keys))
