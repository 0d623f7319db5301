"""Score hypotheses against references with ROUGE, BLEU and chrF."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from s2s.data.lines import Row, field_text, place, read_rows
from s2s.errors import UserError, nearest
from s2s.metrics import Scores, score, show

USAGE = """\
usage: python scripts/evaluate.py hypotheses=FILE references=FILE [lang=CODE] [field=NAME] [json=FILE]

  hypotheses  the generated texts; - reads standard input
  references  the true texts, in the same order
  lang        language of the texts, for BLEU's tokenizer (default: en)
  field       the field that holds the text in a row of JSONL (default: target)
  json        also write the scores to this file

A file has a text per line (an empty line is an empty text), or a JSON object per line if its name ends in .jsonl;
either may be compressed (.gz). Standard input is taken as JSONL if its first line is a JSON object. In hypotheses,
rows as the decoder writes them are scored by their best text, other rows by their field.
"""


@dataclass
class Arguments:
    """The arguments of the command line."""

    hypotheses: str = MISSING
    references: str = MISSING
    lang: str = "en"
    field: str = "target"
    json: str | None = None


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """The typed arguments of ``key=value`` strings; raises ``UserError`` for unknown and missing ones."""
    quoted = [_quote(argument) for argument in arguments]
    merged = OmegaConf.merge(OmegaConf.structured(Arguments), OmegaConf.from_dotlist(quoted))
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError(f"missing {' and '.join(f'{name}=FILE' for name in missing)}; --help shows the usage")
        return cast(Arguments, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error


def _quote(argument: str) -> str:
    """A checked argument whose value stays a string; YAML would read Norwegian's ``lang=no`` as false."""
    key, equals, value = argument.partition("=")
    names = [field.name for field in fields(Arguments)]
    if not equals:
        raise UserError(f"expected key=value, found '{argument}'{nearest(key.lstrip('-'), names)}")
    if key not in names:
        raise UserError(f"unknown argument '{key}'{nearest(key, names)}")
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def read_texts(path: str, field: str, text_of: Callable[[Row, str, str], str]) -> list[str]:
    """The texts of a file, plain or JSONL; ``text_of(row, field, place)`` takes them out of the rows of the latter."""
    lines, rows = read_rows(path)
    if rows is None:
        return lines
    return [text_of(row, field, place(path, index)) for index, row in enumerate(rows)]


def hypothesis_text(row: Row, field: str, place: str) -> str:
    """The best hypothesis of a row that the decoder wrote; the ``field`` of any other row."""
    if "hypotheses" not in row:
        return field_text(row, field, place)
    match row["hypotheses"]:
        case [{"text": str(text)}, *_]:
            return text
    raise UserError(f"{place}: 'hypotheses' is not a list whose first item has a 'text'")


def evaluate(arguments: Arguments) -> None:
    """Read, score, print and, on request, write the scores."""
    if arguments.hypotheses == arguments.references == "-":
        raise UserError("only one of hypotheses and references can be standard input")
    hypotheses = read_texts(arguments.hypotheses, arguments.field, hypothesis_text)
    references = read_texts(arguments.references, arguments.field, field_text)
    scores = score(hypotheses, references, arguments.lang)
    show(scores, Console())
    if arguments.json is not None:
        _write_json(Path(arguments.json), arguments, scores, len(references))


def _write_json(path: Path, arguments: Arguments, scores: Scores, sentences: int) -> None:
    record = {**scores._asdict(), "sentences": sentences, "arguments": asdict(arguments)}
    try:
        path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def main(arguments: Sequence[str]) -> int:
    """Run the command line; 2 for an error that the user can mend."""
    if "--help" in arguments:
        print(USAGE, end="")
        return 0
    try:
        evaluate(parse_arguments(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
