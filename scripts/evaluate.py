"""Score hypotheses against references with ROUGE, BLEU and chrF, and compare the systems of several files."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import _checkout  # noqa: F401

from s2s.config import Layer, merge
from s2s.config.ranges import Count, PathText, Seed, settle
from s2s.console import exit_codes
from s2s.console.outputs import check_output
from s2s.console.terminal import is_closed, plain_console
from s2s.data.lines import Format, Row, files, hypothesis_text, read_references, read_texts, source_text
from s2s.data.rows import json_text
from s2s.errors import UserError, nearest
from s2s.files.atomic import write_atomically
from s2s.metrics import Scores, show
from s2s.metrics.generated import WORDS, repetition_statistics
from s2s.metrics.overlap import measured, published_statistics, score_statistics
from s2s.metrics.references import References
from s2s.metrics.significance import LEAST, too_few
from s2s.metrics.systems import SAMPLES, Difference, System, differences, show_comparison, signature

USAGE = f"""\
usage: python scripts/evaluate.py hypotheses=FILE[,FILE ...] references=FILE[,FILE ...] [lang=CODE] [published=true]
                                  [sources=FILE] [embeddings=RUN_OR_ENCODER] [vectors=plain|centred|whitened]
                                  [field=NAME] [format=NAME] [json=FILE] [samples=NUMBER] [seed=NUMBER]

  hypotheses  the generated texts; - reads standard input. With several files, the first is also compared with each of
              the others: differences and, from {LEAST} texts on, 95 % intervals of a paired bootstrap, p-values of it
              and of randomisation
  references  the true texts, in the same order; of several files, each has one reference more for every text
  lang        language of the texts, for BLEU's tokenizer (default: en)
  published   also show the metrics of Su Jianlin's tables: set-based ROUGE-L of rouge 1.0.0, sentence BLEU with
              smoothing method 1, on lower-cased characters (default: true for lang=zh, else false)
  sources     the texts that were read: also show repeated n-grams, lengths and how much was copied, in percent
  embeddings  a run's folder or an encoder's name: also show a hundred times word mover's distance, also with the mean
              of squares of the article's code (wmd_article), and word rotator's distance (wrd) between token vectors
  vectors     of the embeddings: plain (the default), centred or whitened over the references
  field       the field that holds the text in a row (default: target); a list in references is several
  format      of files whose names do not tell it: lines, jsonl, json, csv, tsv, parquet or arrow
  json        also write the scores to this file
  samples     how often texts are drawn for a comparison (default: 10000)
  seed        of those draws (default: 0)

A file has a text per line (an empty line is an empty text), or rows if its name ends in .jsonl, .json, .csv, .tsv,
.parquet or .arrow; each may be compressed (.gz). Of another name, or of standard input, the first line decides: a JSON
object, or a header with the field, begins rows; that is told. In hypotheses, rows as the decoder writes them are scored
by their best text (by an empty one where there is none, which is counted), other rows by their field.
"""


@dataclass
class Arguments:
    """The arguments of the command line."""

    hypotheses: PathText = ""
    references: PathText = ""
    lang: str = "en"
    published: bool | None = None
    sources: PathText | None = None
    embeddings: PathText | None = None
    vectors: str = "plain"
    field: str = "target"
    format: str | None = None
    json: PathText | None = None
    samples: Count = SAMPLES
    seed: Seed = 0

    def __post_init__(self) -> None:
        settle(self)


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """The typed arguments of ``key=value`` strings; raises ``UserError`` for unknown and missing ones."""
    given = dict(_pair(argument) for argument in arguments)
    found: Arguments = merge(Arguments, [Layer("command line", given, dict.fromkeys(given, 0))])
    missing = [name for name in ("hypotheses", "references") if name not in given]
    if missing:
        raise UserError(f"missing {' and '.join(f'{name}=FILE' for name in missing)}; --help shows the usage")
    return found


def _pair(argument: str) -> tuple[str, str]:
    """Return a checked argument's key and value, which stays the text it is."""
    key, equals, value = argument.partition("=")
    names = [field.name for field in fields(Arguments)]
    if not equals:
        raise UserError(f"expected key=value, found '{argument}'{nearest(key.lstrip('-'), names)}")
    if key not in names:
        raise UserError(f"unknown argument '{key}'{nearest(key, names)}")
    return key, value


def evaluate(arguments: Arguments) -> None:
    """Read, score, print and, on request, write the scores."""
    names, reference_files = files(arguments.hypotheses), files(arguments.references)
    if [*names, *reference_files, arguments.sources].count("-") > 1:
        raise UserError("only one of hypotheses, references and sources can be standard input")
    if arguments.json is None and is_closed(sys.stdout):
        raise UserError("standard output is closed and json=FILE is not given, so that the scores would be lost")
    if arguments.json is not None:
        check_output("json", arguments.json, [*names, *reference_files, arguments.sources, arguments.embeddings])
    if arguments.format is not None and arguments.format not in get_args(Format):
        raise UserError(f"format: no '{arguments.format}'{nearest(arguments.format, get_args(Format))}")
    texts = [read_texts(name, arguments.field, hypothesis_text, arguments.format, log) for name in names]
    references = read_references(reference_files, arguments.field, arguments.format, log)
    systems = [_system(name, each, references, arguments) for name, each in zip(names, texts, strict=True)]
    first, others = systems[0], systems[1:]
    found = [differences(first.statistics, other.statistics, arguments.samples, arguments.seed) for other in others]
    how = signature(arguments.samples, arguments.seed)
    if arguments.json is not None:
        record = _record(arguments, systems, found, len(references), how)
        write_atomically(Path(arguments.json), json_text(record, indent=2) + "\n")
    console = plain_console()
    if not others:
        show(first.scores, console)
    for other, compared in zip(others, found, strict=True):
        show_comparison(first, other, compared, how, console)


def log(text: str) -> None:
    """Print how a file was read on standard error, apart from the scores."""
    print(text, file=sys.stderr)


def joined_text(row: Row, field: str, place: str) -> str:
    """The text of a source, its tokens joined by blanks."""
    text = source_text(row, [field], place)
    return text if isinstance(text, str) else " ".join(text)


def _system(name: str, texts: list[str], references: References, arguments: Arguments) -> System:
    statistics, signature = score_statistics(texts, references, arguments.lang)
    chinese = arguments.lang.lower().startswith("zh")
    if arguments.published or (arguments.published is None and chinese):
        published, how = published_statistics(texts, references)
        statistics, signature = statistics | published, f"{signature} + {how}"
    if arguments.sources is not None:
        sources = read_texts(arguments.sources, "source", joined_text, arguments.format, log)
        statistics, signature = statistics | repetition_statistics(texts, references, sources), f"{signature} + {WORDS}"
    if arguments.embeddings is not None:
        from s2s.runs.token_vectors import distance_statistics  # only now: other scores should not wait for torch

        distances, how = distance_statistics(texts, references, arguments.embeddings, arguments.vectors)
        statistics, signature = statistics | distances, f"{signature} + {how}"
    return System(name, Scores(measured(statistics), signature), statistics)


def _record(
    arguments: Arguments, systems: Sequence[System], found: Sequence[dict[str, Difference]], sentences: int, how: str
) -> dict[str, Any]:
    """What the file of scores holds; comparisons are of the first system with each of the others."""
    record = {**systems[0].scores._asdict(), "sentences": sentences, "arguments": asdict(arguments)}
    if found:
        record["systems"] = [{"hypotheses": system.name, "values": system.scores.values} for system in systems]
        record["comparisons"] = [
            {"first": systems[0].name, "second": other.name, "metric": name, **row._asdict()}
            for other, compared in zip(systems[1:], found, strict=True)
            for name, row in compared.items()
        ]
        record["test"] = how
        if note := too_few(sentences):
            record["note"] = note
    return record


def main(arguments: Sequence[str]) -> int:
    """Run the command line; 2 for an error that the user can mend."""
    if "--help" in arguments:
        print(USAGE, end="")
        return 0
    return exit_codes.run(lambda: evaluate(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
