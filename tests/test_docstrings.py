"""Laws of the built-in sets, on small packages written for the purpose, and of the settings and the fingerprint."""

import gzip
import json
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

from s2s.data import Data, Dataset, Example, fingerprint, load
from s2s.data.docstrings import pair, split_of
from s2s.errors import UserError

BODY = "It gives the first of the values that were found in the table."
WORDS = st.text("abcdefghijklm", min_size=2, max_size=7)


def expected(number: int) -> Example:
    words = " ".join("abcdefghij"[int(digit)] * 2 for digit in str(number))
    return Example(f"{BODY} {number}", f"Return value number {words} here.")


def documented(number: int, indent: int = 4) -> str:
    source, target = expected(number)
    return textwrap.indent(f'"""{target}\n\n{source}\n"""\n', " " * indent)


def module_text(numbers: range) -> str:
    return "".join(f"def f{number}():\n{documented(number)}" for number in numbers)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of 40 modules with 3 pairs each, on the path of Python, that must not be imported."""
    folder = tmp_path / "packages" / "sample"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for number in range(40):
        text = module_text(range(number * 3, number * 3 + 3))
        (folder / ("inner" if number % 2 else "") / f"module{number}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def settings(package: Path, *others: str, cache: str = "cache") -> Data:
    folder = package.parent / cache
    return Data(source="docstrings", packages=[*others, package.name], cache=str(folder))


def examples_of(dataset: Dataset) -> list[Example]:
    return [*dataset.train, *dataset.dev, *dataset.test]


def cached(package: Path) -> Path:
    (path,) = (package.parent / "cache").iterdir()
    return path


@given(title=st.lists(WORDS, min_size=3, max_size=20), body=st.lists(WORDS, min_size=8), cut=st.integers(1, 19))
def test_title_and_body_come_back_however_wrapped(title: list[str], body: list[str], cut: int) -> None:
    head = "\n".join(filter(None, (" ".join(title[:cut]), " ".join(title[cut:]))))
    tail = " ".join(body[:cut]) + "\n\n" + "\n".join(body[cut:])
    example = Example(" ".join(body), " ".join(title))
    assert pair(f"{head}\n\n{tail}") == (None if example.source.startswith(example.target) else example)


@pytest.mark.parametrize("gap", ["\n\n", "\n  \n", ".\n", "\nArgs:\n", "\n:param x: it\n", "\nwith another line\n\n"])
def test_what_ends_a_title(gap: str) -> None:
    example = pair(f"Return the first value{gap}{BODY}")
    assert example is not None
    assert example.target.rstrip(".") == "Return the first value" + " with another line" * ("line" in gap)
    assert example.source.endswith(BODY)


MARKUP = {
    "Return a :class:`~torch.nn.Module` of it.": "Return a torch.nn.Module of it.",
    "Return ``None`` or the `first`  value.": "Return None or the first value.",
    "Return the :func:`second value <x.y>`\nfound.": "Return the second value found.",
}


@pytest.mark.parametrize("title", MARKUP)
def test_markup_leaves_plain_text_on_one_line(title: str) -> None:
    body = f"Notes\n-----\n{BODY}\n\n\tExamples\n  ========\n  none at all"
    assert pair(f"{title}\n\n{body}") == Example(f"Notes {BODY} Examples none at all", MARKUP[title])


NO_TITLES = ["Two words.", "word " * 21, "a\nb c d\ne f", "3 numbers are returned.", "Copyright of the authors."]
NO_TITLES += ["Deprecated since last version.", "get(key, default) gives the value", "Get the value -> int"]
NO_TITLES += [
    "Find it at https://x.org now",
    ".. note:: this is it",
    ">>> print the value",
    "name = first second third",
]
NO_TITLES += ["value (int, optional): The first value.", "Return one of the following:", "Return x + y * z / w"]


@pytest.mark.parametrize("title", [*NO_TITLES, "Return the \x07 first value", "Return the \ud800 first value"])
def test_titles_that_are_no_summary_are_dropped(title: str) -> None:
    assert pair(f"Return the value.\n\n{BODY}") is not None
    assert pair(f"{title}\n\n{BODY}") is None


NO_BODIES = ["", "Seven words are not enough for it.", "RETURN the value. Then there are more words after that title."]
NO_BODIES += [">>> from package import many, names, of, things\n>>> print(many, names)\nand the output of it"]
NO_BODIES += ["```python\nfrom package import many, names, of, things, to, show\n```"]
NO_BODIES += ["Written by A. N. Author for the second version of this package."]


@pytest.mark.parametrize("body", NO_BODIES)
def test_bodies_that_say_nothing_are_dropped(body: str) -> None:
    assert pair(f"Return the value.\n\n{body}") is None


def test_a_package_is_read_whole_without_importing_it_and_no_module_lies_in_two_splits(package: Path) -> None:
    dataset = load(settings(package))
    assert sorted(examples_of(dataset)) == sorted(map(expected, range(120)))
    assert "docstrings: sample 120" in dataset.report
    for name, examples in zip(("train", "dev", "test"), dataset[:3], strict=True):
        numbers = {int(example.source.split()[-1]) // 3 for example in examples}
        assert {split_of(f"sample.{'inner.' * (number % 2)}module{number}") for number in numbers} == {name}


def test_split_sizes_are_as_promised() -> None:
    splits = [split_of(f"package.module{number}") for number in range(20_000)]
    assert [round(splits.count(name) / 200) for name in ("train", "dev", "test")] == [90, 4, 6]


NESTED = """{}class A:
{}    async def f(self):
{}        try:
            pass
        except OSError:
            match 1:
                case 1:
                    def g():
{}if A:
    pass
else:
    def h():
{}"""


def test_definitions_are_found_at_any_depth_and_in_order(package: Path) -> None:
    parts = [documented(1000 + number, indent) for number, indent in enumerate((0, 4, 8, 24, 8))]
    (package / "nested.py").write_text(NESTED.format(*parts))
    examples = examples_of(load(settings(package)))
    assert [example for example in examples if len(example.source) == len(BODY) + 5] == [
        expected(1000 + n) for n in range(5)
    ]


def test_equal_bodies_and_frequent_titles_are_dropped(package: Path) -> None:
    (package / "aaa.py").write_text(module_text(range(3)).replace("It gives", "IT GIVES"))
    (package / "zzz.py").write_text(re.sub("number .* here", "of it", module_text(range(500, 530))))
    examples = examples_of(load(settings(package)))
    assert len({example.source.casefold() for example in examples}) == len(examples) == 120 + 20
    assert sum("IT GIVES" in example.source for example in examples) == 3
    assert [source for source, target in examples if "of it" in target] == [f"{BODY} {n}" for n in range(500, 520)]


def test_tests_and_what_cannot_be_imported_are_passed_over(package: Path) -> None:
    before = load(settings(package, cache="other"))
    for name in ("tests/a.py", "test/a.py", "site-packages/a.py", "inner/tests/a.py", "with-dash.py", "a.txt"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(module_text(range(500, 503)))
    assert load(settings(package)) == before


def test_what_does_not_parse_or_is_not_installed_is_reported(package: Path) -> None:
    (package / "wrong.py").write_text("def f(:\n")
    (package / "bytes.py").write_bytes(b'"""\xff\xfe"""\n')
    (package / "zero.py").write_bytes(b"x = 1\0\n")
    (package / "escape.py").write_text(documented(500, 0).replace("table", "\\d") + "x = 1 is 1\n")
    dataset = load(settings(package, "missing_one", "missing_two"))
    assert "not parsed: sample.bytes, sample.wrong, sample.zero" in dataset.report
    assert "not installed: missing_one, missing_two" in dataset.report
    assert any("\\d" in example.source for example in examples_of(dataset))


@pytest.mark.parametrize("packages", [["missing_one", "missing_two"], []])
def test_no_package_at_all_is_an_error(packages: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.packages: none is installed: (missing_one, missing_two|the list is)"):
        load(Data(source="docstrings", packages=packages))


SCRIPT = """import sys; from s2s.data import Data, load
print(load(Data(source="docstrings", packages=sys.argv[2:], cache=sys.argv[1])).fingerprint)"""


def test_neither_the_hash_seed_nor_the_order_of_packages_matters(package: Path) -> None:
    found = set()
    for seed, names in (("0", ["sample", "json", "textwrap"]), ("1", ["textwrap", "sample", "json"])):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(package.parent)}
        command = [sys.executable, "-c", SCRIPT, str(package.parent / seed), *names]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 1


def test_the_cache_gives_the_same_and_is_really_read(package: Path) -> None:
    first = load(settings(package))
    assert load(settings(package)) == first
    rows = [json.loads(line) for line in gzip.open(cached(package))]
    rows[1][1] = "another body"
    cached(package).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert load(settings(package)).train[0].source == "another body"


NO_CACHE = [gzip.compress(content) for content in (b"", b"[]\n{}\n", b'[]\n["other", "a", "b"]\n', b"\xff", b"3\n")]


@pytest.mark.parametrize("content", [b"", b"garbage", *NO_CACHE, NO_CACHE[1][:-3], NO_CACHE[1][:12] + b"x" * 30])
def test_a_corrupt_cache_is_rebuilt(package: Path, content: bytes) -> None:
    first, written = load(settings(package)), cached(package).read_bytes()
    cached(package).write_bytes(content)
    assert load(settings(package)) == first
    assert cached(package).read_bytes() == written


def test_a_changed_package_is_read_anew(package: Path) -> None:
    first = load(settings(package))
    (package / "module1.py").write_text(module_text(range(700, 703)))
    assert expected(700) in examples_of(load(settings(package)))
    assert load(settings(package)).fingerprint != first.fingerprint


def test_a_cache_that_cannot_be_written_is_only_reported(package: Path) -> None:
    (package.parent / "file").touch()
    dataset = load(settings(package, cache="file"))
    assert dataset.report[-1].startswith(f"cache: {package.parent / 'file'} cannot be written (")
    assert dataset.fingerprint == load(settings(package)).fingerprint


def test_processes_that_start_at_once_agree(package: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        first, *others = pool.map(load, [settings(package)] * 3)
    assert all(other == first for other in others)
    assert cached(package).suffix == ".gz"


@given(size=st.integers(201, 3000))
def test_the_copy_task_copies_and_its_splits_are_distinct(size: int) -> None:
    data = load(Data(source="copy", size=size))
    assert [len(split) for split in data[:3]] == [size - 200, 100, 100]
    assert len(set(examples_of(data))) == size
    assert all(source == target and re.fullmatch("[a-j]( [a-j]){2,9}", source) for source, target in examples_of(data))
    assert data == load(Data(source="copy", size=size))


@given(texts=st.lists(st.text(), min_size=4, max_size=4), other=st.text(), cut=st.integers(0, 2))
def test_the_fingerprint_tells_texts_order_and_splits_apart(texts: list[str], other: str, cut: int) -> None:
    examples = [Example(*texts[:2]), Example(*texts[2:])]
    lists = [examples, examples[::-1], [examples[0], Example(texts[2], other)], [Example(other, texts[1]), examples[1]]]
    sets = [(tuple(rows[:part]), tuple(rows[part:])) for rows in lists for part in (cut, 1)]
    found = {fingerprint({"train": list(train), "dev": list(dev)}) for train, dev in sets}
    assert len(found) == len(set(sets))
    assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in found)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(Data(), "neither is given"), (Data(source="copy", path="x"), "exactly one"), (Data(source="cop"), "mean 'copy'")],
)
def test_exactly_one_origin_is_needed(data: Data, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(data)


WRONG = {"max_source": 2, "max_target": 1, "size": 200, "source_field": " ", "target_field": "", "lang": ""}


@pytest.mark.parametrize(("key", "value"), [*WRONG.items(), ("on_error", "warn"), ("packages", ["numpy", "os.path"])])
def test_a_value_out_of_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}: "):
        Data(**{key: value})
