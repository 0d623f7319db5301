"""Turn CSL's published files into a set of abstracts and titles: ``prepare_csl.py FILE_OR_FOLDER OUTPUT``.

Read are, plain or gzipped: CLGE's ``csl_title_train.json``, ``csl_title_dev.json`` and ``csl_title_test.json`` (a JSON
object a line with ``id``, ``title`` and ``abst``), and the whole set's ``csl_camera_readly.tsv`` or ``csl_*.tsv`` (no
header: title, abstract, keywords, discipline, category between tabs). A file whose name holds train, dev, val or test
is that split; of one that names none, each 20th row (by a hash of its abstract) becomes dev. OUTPUT gets
``train.jsonl``, ``dev.jsonl`` and ``test.jsonl`` with ``title`` and ``abstract``; rows without either are counted.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import _checkout  # noqa: F401
from preparing import SPLITS, check_splits, write_splits

from s2s.console.command_line import exit_code_of
from s2s.data.lines import read_lines
from s2s.errors import UserError

KINDS = re.compile(r".*\.(json|jsonl|tsv)(\.gz)?")
SPLIT = re.compile(r"(train|dev|val|test)")
DEV_SHARE = 20

Row = dict[str, object]


def prepare(folder: Path, output: Path) -> None:
    """Read all files, then write the splits."""
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    files = [file for file in files if KINDS.fullmatch(file.name) and file.is_file()]
    if not files:
        raise UserError(f"{folder}: no .json, .jsonl or .tsv file there")
    check_splits(output, files)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for file in files:
        named, left_out = SPLIT.search(file.name), 0
        for row in _rows(file):
            if row["title"] and row["abstract"]:
                splits[_split(named[1] if named else None, str(row["abstract"]))].append(row)
            else:
                left_out += 1
        if left_out:
            print(f"{file}: {left_out} rows without a title or an abstract left out")
    write_splits(output, splits)


def _split(named: str | None, abstract: str) -> str:
    if named is not None:
        return "dev" if named == "val" else named
    return "train" if int(hashlib.sha256(abstract.encode()).hexdigest()[:8], 16) % DEV_SHARE else "dev"


def _rows(file: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(str(file)), start=1):
        if line.strip():
            yield _tabbed(line, f"{file}:{number}") if ".tsv" in file.name else _object(line, f"{file}:{number}")


def _object(line: str, line_name: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{line_name}: malformed JSON ({str(error)[:80]})") from error
    if not isinstance(row, dict) or "title" not in row:
        raise UserError(f"{line_name}: no object with a title")
    abstract = row.get("abst", row.get("abstract", ""))
    if not isinstance(row["title"], str) or not isinstance(abstract, str):
        raise UserError(f"{line_name}: title and abstract are not both texts")
    return {"id": row.get("id"), "title": row["title"].strip(), "abstract": abstract.strip()}


def _tabbed(line: str, line_name: str) -> Row:
    values = [value.strip() for value in line.split("\t")]
    if len(values) != 5:
        raise UserError(f"{line_name}: {len(values)} columns; CSL has title, abstract, keywords, discipline, category")
    keywords = [word for word in values[2].split("_") if word]
    return {
        "title": values[0],
        "abstract": values[1],
        "keywords": keywords,
        "discipline": values[3],
        "category": values[4],
    }


def main(texts: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args(texts)
    return exit_code_of(lambda: prepare(given.place, given.output))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
