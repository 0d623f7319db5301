"""Turn Multi30k's parallel text files into a set for training: ``prepare_multi30k.py FOLDER OUTPUT [--target fr]``.

FOLDER holds ``train.en``, ``train.de`` and so on, plain or gzipped, as published (a line a caption; the test files may
be called ``test_2016_flickr.en`` and the like, of which ``--test`` chooses one). OUTPUT gets ``train.jsonl``,
``dev.jsonl`` and ``test.jsonl`` with a field for each language; a recipe names them in source_field and target_field.
"""

import argparse
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import _checkout  # noqa: F401
from preparing import check_splits, write_splits

from s2s.console.command_line import exit_code_of
from s2s.errors import UserError

NAMES = {"train": ("train",), "dev": ("val", "dev", "valid"), "test": ("test",)}


def prepare(folder: Path, output: Path, languages: Sequence[str], test: str) -> None:
    """Read the files of all splits, then write them."""
    check_splits(output, [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else [])
    splits = {}
    for split, names in (NAMES | {"test": (test,)}).items():
        name = next((name for name in names if _file(folder, name, languages[0])), None)
        if name is not None:
            splits[split] = [dict(zip(languages, row, strict=True)) for row in _parallel(folder, name, languages)]
        elif split == "train":
            raise UserError(f"{folder}: no train.{languages[0]} (or with .gz) there")
    write_splits(output, splits)


def _file(folder: Path, name: str, language: str) -> Path | None:
    for path in (folder / f"{name}.{language}", folder / f"{name}.{language}.gz"):
        if path.is_file():
            return path
    return None


def _parallel(folder: Path, name: str, languages: Sequence[str]) -> list[tuple[str, ...]]:
    columns = []
    for language in languages:
        path = _file(folder, name, language)
        if path is None:
            raise UserError(f"{folder}: there is {name}.{languages[0]}, but no {name}.{language}")
        columns.append(_lines(path))
        if len(columns[-1]) != len(columns[0]):
            raise UserError(f"{path}: {len(columns[-1])} lines, but {len(columns[0])} in {languages[0]}")
    return list(zip(*columns, strict=True))


def _lines(path: Path) -> list[str]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = [line.decode("utf-8").strip() for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from error
    except EOFError as error:
        raise UserError(f"{path}: broken gzip") from error
    if "" in lines:
        raise UserError(f"{path}:{lines.index('') + 1}: blank line")
    return lines


def main(texts: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", default="en", help="language of the sources (default en)")
    parser.add_argument("--target", default="de", help="language of the targets (default de)")
    parser.add_argument("--test", default="test_2016_flickr", help="name of the test files (default test_2016_flickr)")
    given = parser.parse_args(texts)
    return exit_code_of(lambda: prepare(given.folder, given.output, [given.source, given.target], given.test))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
