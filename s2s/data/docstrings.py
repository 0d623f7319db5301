"""A summary task made from installed packages: the title of a docstring is to be written from its body."""

import ast
import gzip
import hashlib
import importlib.util
import json
import os
import re
import sys
import sysconfig
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from s2s.data.rows import Example
from s2s.data.settings import DataSettings
from s2s.errors import UserError
from s2s.files.foreign import parse_json
from s2s.files.paths import cache_folder

VERSION = 1  # part of the name of the cache: to be raised whenever a change below changes the pairs
NO_DOCUMENTATION = {"__pycache__", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
TITLE_WORDS, PLAIN_SHARE, TITLE_REPEATS, BODY_WORDS = range(3, 21), 0.7, 20, 8

# A title is one or two lines. It ends with a full stop at a line's end, at an empty line, or where a section begins.
SECTION = r"(?:Arguments|Args|Attributes|Examples?|Keyword Args|Notes?|Parameters|Raises|Returns|Yields):?\n|:param"
SUMMARY = re.compile(rf"([^\n]+(?:\n[^\n]+)??)(?:(?<=\.)\n|\n\n|\n(?={SECTION}))(.*)", re.DOTALL)
ROLE = re.compile(r":[a-z:+-]+:`~?\.?([^`<]*?)\s*(?:<[^`>]*>)?`")
UNDERLINE = re.compile(r"^\s*([-=~^*#.+_])\1{2,}\s*$", re.MULTILINE)
CODE = re.compile(r"^[ \t]*>>>[^\n]*(?:\n[^\n]*\S[^\n]*)*|```.*?```", re.MULTILINE | re.DOTALL)
PLAIN_WORD = re.compile(r"[(\[\"']*[A-Za-z]+(?:[-'/][A-Za-z]+)*[)\].,;:!?\"']*")
NO_TITLE = re.compile(
    r"copyright|licen[sc]e|all rights|deprecat|\btodo\b"  # about the code, not what it does
    r"|https?:|->|<-|>>>|:=|::|\.\.\s|\"\"\"|=\w+,"  # markup, code, grammars
    r"|^[\w.]+\(|^[\w.]+ ?=|^\w+ \(.*\):|[:=]$",  # signatures, single arguments, introductions to a list
    re.IGNORECASE,
)
NO_BODY = re.compile(r":?(?:written by|authors?\b|copyright|licen[sc]e)", re.IGNORECASE)

Lists = dict[str, list[Example]]  # the examples of each split
Files = dict[str, list[tuple[str, Path]]]
"""Name and path of every module of every package; a package without any is not installed."""


def load(data: DataSettings) -> tuple[Lists, list[str]]:
    """Return pairs from the docstrings of ``data.packages`` and report lines; extracted pairs are kept in the cache.

    Source files are parsed, not imported. Each module is in one split only. Raises `UserError` if none of the packages
    is installed.
    """
    files = {package: sorted(_modules(package)) for package in sorted(set(data.packages))}
    if not any(files.values()):
        raise UserError(f"data.packages: none is installed: {', '.join(sorted(data.packages)) or 'the list is empty'}")
    path = cache_folder(data.cache) / f"docstrings-{_key(files)}.jsonl.gz"
    try:
        return _read_cache(path)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        splits, report = extract(files)
    return splits, report + _write_cache(path, splits, report)


def extract(files: Files) -> tuple[Lists, list[str]]:
    """Return the pairs of all ``files`` by split, ordered by module and line.

    Of pairs with equal bodies the first is kept, and of pairs with equal titles the first 20.
    """
    splits: Lists = {"train": [], "dev": [], "test": []}
    bodies, titles, counts, unread = set[str](), Counter[str](), Counter[str](), list[str]()
    # By the names of modules: of equal pairs the first is kept, and the order of files differs between machines.
    for module, path, package in sorted((*file, package) for package, listed in files.items() for file in listed):
        tree = _parse(path)
        unread += [module] * (tree is None)
        for example in filter(None, map(pair, _docstrings(tree) if tree else [])):
            if example.source.casefold() not in bodies and titles[example.target] < TITLE_REPEATS:
                bodies.add(example.source.casefold())
                titles[example.target] += 1
                counts[package] += 1
                splits[split_of(module)].append(example)
    return splits, _report(files, counts, unread)


def _report(files: Files, counts: Counter[str], unread: list[str]) -> list[str]:
    report = ["docstrings: " + ", ".join(f"{package} {count}" for package, count in counts.most_common())]
    if missing := [package for package, listed in files.items() if not listed]:
        report.append(f"not installed: {', '.join(missing)}")
    return report + [f"not parsed: {', '.join(unread)}"] * bool(unread)


def split_of(module: str) -> str:
    """Return the split of a module, by the SHA-256 of its dotted name: 90 % train, 4 % dev, 6 % test."""
    # By whole modules, whose docstrings resemble one another too much to be in train and test.
    percent = int(hashlib.sha256(module.encode()).hexdigest()[:8], 16) % 100
    return "train" if percent < 90 else "dev" if percent < 94 else "test"


def pair(docstring: str) -> Example | None:
    """Return body and title of a cleaned ``docstring``; None if the body does not say what the title says."""
    match = SUMMARY.match("\n".join(line.rstrip() for line in docstring.splitlines()))
    if match is None:
        return None
    title, body = _one_line(match[1]), _one_line(UNDERLINE.sub("", match[2]))
    fair = (
        _is_title(title) and _is_body(body, CODE.sub("", match[2])) and not body.casefold().startswith(title.casefold())
    )
    return Example(body, title) if fair else None


def _one_line(text: str) -> str:
    """Return plain text on one line, without the markup of Sphinx roles and of quoted code."""
    return " ".join(ROLE.sub(r"\1", text).replace("`", "").split())


def _is_title(title: str) -> bool:
    words = title.split()
    plain = sum(PLAIN_WORD.fullmatch(word) is not None for word in words)
    fits = len(words) in TITLE_WORDS and plain >= PLAIN_SHARE * len(words)
    return fits and title[0].isalpha() and title.isprintable() and NO_TITLE.search(title) is None


def _is_body(body: str, prose: str) -> bool:
    long_enough = len(body.split()) >= BODY_WORDS and len(re.findall(r"[A-Za-z]{2,}", prose)) >= BODY_WORDS
    return long_enough and body.isprintable() and NO_BODY.match(body) is None


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return None


def _docstrings(tree: ast.Module) -> list[str]:
    """Return all docstrings, cleaned, in the order of their lines."""
    texts: list[tuple[int, str]] = []  # not by ast.walk: it visits every expression too, which takes far longer
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            texts.append((getattr(node, "lineno", 0), ast.get_docstring(node) or ""))
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, name, [])
            waiting += children if isinstance(children, list) else []
    return [text for _, text in sorted(texts)]


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and path of every module of a top-level package; nothing if it is not installed."""
    if package == "stdlib":
        yield from _below(Path(sysconfig.get_paths()["stdlib"]), "")
        return
    specification = importlib.util.find_spec(package)
    for folder in (specification and specification.submodule_search_locations) or []:
        yield from _below(Path(folder), package)
    if specification and str(specification.origin).endswith(f"{package}.py"):
        yield package, Path(str(specification.origin))


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    # Only identifiers can be imported; the check also skips site-packages.
    for entry in folder.iterdir():
        name = f"{prefix}.{entry.stem}".removeprefix(".")
        if entry.suffix == ".py" and entry.stem.isidentifier() and entry.is_file():
            yield name.removesuffix(".__init__"), entry
        elif entry.name.isidentifier() and entry.name not in NO_DOCUMENTATION and entry.is_dir():
            yield from _below(entry, name)


def _key(files: Files) -> str:
    """Return the name of a cache: a digest of this code's version, Python's, and every file's name, size and time."""
    digest = hashlib.sha256(json.dumps([VERSION, sys.version, sorted(files)]).encode())
    for module, path in (file for package in sorted(files) for file in files[package]):
        digest.update(f"{module} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read_cache(path: Path) -> tuple[Lists, list[str]]:
    splits: Lists = {"train": [], "dev": [], "test": []}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        report = [str(line) for line in parse_json(file.readline())]
        for line in file:
            split, source, target = parse_json(line)
            splits[split].append(Example(source, target))
    return splits, report


def _write_cache(path: Path, splits: Lists, report: list[str]) -> list[str]:
    """Write the cache in one step, so that several processes can do it at once; return a line if that is impossible."""
    rows = [[split, *example[:2]] for split, examples in splits.items() for example in examples]
    content = "".join(json.dumps(row) + "\n" for row in [report, *rows])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            with open(f"{folder}/new", "wb") as file:
                file.write(gzip.compress(content.encode(), mtime=0))
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
    except OSError as error:
        return [f"cache: {path.parent} cannot be written ({error.strerror})"]
    return []
