"""Score hypotheses against references with ROUGE, BLEU and chrF, and compare the systems of several files.

A file has one text per line (an empty line is an empty text), or rows if its name ends in .jsonl, .json, .csv, .tsv,
.parquet or .arrow; each may be compressed (.gz). For other names and for standard input the first line decides: a JSON
object, or a header with the field, begins rows, and a message says so. In hypotheses, rows as the decoder writes them
are scored by their best text (by an empty one where there is none, which is counted), other rows by their field.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from s2s.config import merge, read_arguments
from s2s.config.ranges import Count, PathText, Seed, settle
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output
from s2s.console.terminal import is_closed, plain_console
from s2s.data.lines import Format, Row, files, hypothesis_text, read_references, read_texts, source_text
from s2s.data.rows import json_text
from s2s.errors import UserError
from s2s.files.atomic import write_atomically
from s2s.metrics import Scores, show
from s2s.metrics.bootstrap import LEAST, too_few
from s2s.metrics.generated import WORDS, repetition_statistics
from s2s.metrics.overlap import measured, published_statistics, score_statistics
from s2s.metrics.references import References
from s2s.metrics.systems import SAMPLES, Difference, System, differences, show_comparison, signature

USAGE = f"""\
usage: s2s evaluate hypotheses=FILE[,FILE ...] references=FILE[,FILE ...] [lang=CODE] [key=value ...]

With several files of hypotheses, the first is also compared with each of the others: differences and, from {LEAST}
texts on, 95 % intervals of a paired bootstrap, p-values of it and of randomisation. Files hold one text per line, or
rows (.jsonl, .json, .csv, .tsv, .parquet, .arrow), also compressed (.gz). In hypotheses, rows as the decoder writes
them are scored by their best text.
"""


@dataclass
class Settings:
    """The command's arguments."""

    hypotheses: PathText = ""  # files of generated texts, with commas between; -: standard input; needed
    references: PathText = ""  # the true texts in the same order; each further file has one more for every text; needed
    lang: str = "en"  # language of the texts, for BLEU's tokenizer
    # also the metrics of Su Jianlin's tables: set-based ROUGE-L of rouge 1.0.0, sentence BLEU with smoothing method 1,
    # on lower-cased characters; null: true for lang=zh
    published: bool | None = None
    sources: PathText | None = None  # the texts that were read: also repeated n-grams, lengths and share copied, in %
    # a run's folder or an encoder's name: also a hundred times word mover's distance, also with the mean of squares of
    # the article's code (wmd_article), and word rotator's distance (wrd) between token vectors
    embeddings: PathText | None = None
    vectors: Literal["plain", "centred", "whitened"] = "plain"  # centred and whitened: over the references
    field: str = "target"  # of a row, with its text; a list in references is several
    format: Format | None = None  # of files whose names do not say it; null: their first line
    json: PathText | None = None  # a file for the scores
    samples: Count = SAMPLES  # how often a comparison draws texts
    seed: Seed = 0  # of those draws

    def __post_init__(self) -> None:
        settle(self)
        missing = [f"{name}=FILE" for name in ("hypotheses", "references") if not getattr(self, name)]
        if missing:
            raise UserError(f"missing {' and '.join(missing)}; --help shows the usage")


def evaluate(arguments: Sequence[str]) -> None:
    """Read, score, print and, on request, write the scores."""
    settings = merge(Settings, read_arguments(arguments))
    names, reference_files = files(settings.hypotheses), files(settings.references)
    if [*names, *reference_files, settings.sources].count("-") > 1:
        raise UserError("only one of hypotheses, references and sources can be standard input")
    if settings.json is None and is_closed(sys.stdout):
        raise UserError("standard output is closed and json=FILE is not given, so that the scores would be lost")
    if settings.json is not None:
        check_output("json", settings.json, [*names, *reference_files, settings.sources, settings.embeddings])
    texts = [read_texts(name, settings.field, hypothesis_text, settings.format, note) for name in names]
    references = read_references(reference_files, settings.field, settings.format, note)
    sources = None
    if settings.sources is not None:
        sources = read_texts(settings.sources, "source", joined_text, settings.format, note)
    systems = [score(*named, references, sources, settings) for named in zip(names, texts, strict=True)]
    first, others = systems[0], systems[1:]
    compared = [differences(first.statistics, other.statistics, settings.samples, settings.seed) for other in others]
    test = signature(settings.samples, settings.seed)
    if settings.json is not None:
        values = record(settings, systems, compared, len(references), test)
        write_atomically(Path(settings.json), json_text(values, indent=2) + "\n")
    console = plain_console()
    if not others:
        show(first.scores, console)
    for other, rows in zip(others, compared, strict=True):
        show_comparison(first, other, rows, test, console)


def note(text: str) -> None:
    """Report on standard error how a file was read: standard output has the scores."""
    print(text, file=sys.stderr)


def joined_text(row: Row, field: str, position: str) -> str:
    """Return the text of a source, its tokens joined by blanks."""
    text = source_text(row, [field], position)
    return text if isinstance(text, str) else " ".join(text)


def score(name: str, texts: list[str], references: References, sources: list[str] | None, settings: Settings) -> System:
    """Return the scores of one file, with the statistics of each text that a comparison needs."""
    statistics, made_with = score_statistics(texts, references, settings.lang)
    chinese = settings.lang.lower().startswith("zh")
    if settings.published or (settings.published is None and chinese):
        published, how = published_statistics(texts, references)
        statistics, made_with = statistics | published, f"{made_with} + {how}"
    if sources is not None:
        repetition = repetition_statistics(texts, references, sources)
        statistics, made_with = statistics | repetition, f"{made_with} + {WORDS}"
    if settings.embeddings is not None:
        # Imported for this alone: the other scores need not wait for the model and all that it imports.
        vectors = import_module("s2s.runs.token_vectors")
        distances, how = vectors.distance_statistics(texts, references, settings.embeddings, settings.vectors)
        statistics, made_with = statistics | distances, f"{made_with} + {how}"
    return System(name, Scores(measured(statistics), made_with), statistics)


def record(
    settings: Settings, systems: Sequence[System], compared: Sequence[dict[str, Difference]], sentences: int, test: str
) -> dict[str, Any]:
    """Return the content of the file of scores; comparisons are of the first system with each of the others."""
    values = {**systems[0].scores._asdict(), "sentences": sentences, "arguments": asdict(settings)}
    if compared:
        values["systems"] = [{"hypotheses": system.name, "values": system.scores.values} for system in systems]
        values["comparisons"] = [
            {"first": systems[0].name, "second": other.name, "metric": name, **row._asdict()}
            for other, rows in zip(systems[1:], compared, strict=True)
            for name, row in rows.items()
        ]
        values["test"] = test
        if remark := too_few(sentences):
            values["note"] = remark
    return values


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is scored, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, evaluate)
