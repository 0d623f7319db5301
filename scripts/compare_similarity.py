"""Rank hypotheses by word mover's and word rotator's distance and their bounds, next to chrF and ROUGE-L.

python scripts/compare_similarity.py hypotheses=FILE references=FILE embeddings=NAME [sentences=500] [json=FILE]

For each distance: Spearman's correlation of its ranks with those of chrF and of ROUGE-L over sentences, with 95 %
intervals over sentences, that with the exact distance which it bounds, and CPU milliseconds a pair. Distances are
between the vectors of ``embeddings``, a run's folder or an encoder. Correlations count smaller distances as better.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
import numpy as np
import torch
from benchmarks.timing import processor, write
from numpy.typing import NDArray
from rich.table import Table

from s2s.config import merge, read_arguments
from s2s.config.ranges import Count, PathText, settle
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console
from s2s.data.lines import hypothesis_text, read_texts
from s2s.errors import UserError
from s2s.metrics import rouge_l_by_sentence
from s2s.metrics.bootstrap import Numbers, percentile_interval
from s2s.metrics.sentence import sentence_metric
from s2s.metrics.transport.bags import Vectors
from s2s.metrics.transport.bounds import (
    relaxed_word_movers_distance,
    relaxed_word_rotators_distance,
    word_centroid_distance,
    word_rotators_bound,
)
from s2s.metrics.transport.exact import word_movers_distance, word_rotators_distance
from s2s.runs.token_vectors import token_vectors

Distance = Callable[[Vectors, Vectors], float]
DISTANCES: dict[str, tuple[Distance, str]] = {
    "wmd": (word_movers_distance, "wmd"),
    "wmd, relaxed": (relaxed_word_movers_distance, "wmd"),
    "wmd, centroids": (word_centroid_distance, "wmd"),
    "wrd": (word_rotators_distance, "wrd"),
    "wrd, relaxed": (relaxed_word_rotators_distance, "wrd"),
    "wrd, one line": (word_rotators_bound, "wrd"),
}
"""Each distance, and the exact one that it is or bounds from below."""
SAMPLES = 2000
USAGE = "usage: python scripts/compare_similarity.py hypotheses=FILE references=FILE embeddings=NAME [key=value ...]"


@dataclass
class Settings:
    """The script's arguments."""

    hypotheses: PathText = ""  # a file of texts, or what the decoder wrote; needed
    references: PathText = ""  # the true texts in the same order; needed
    embeddings: PathText = ""  # a run's folder or an encoder's name; needed
    sentences: Count = 500  # the first ones whose hypothesis and reference have tokens
    json: PathText | None = None  # a file for the rows

    def __post_init__(self) -> None:
        settle(self)
        for name in ("hypotheses", "references", "embeddings"):
            if not getattr(self, name):
                raise UserError(f"{name}: missing\n{USAGE}")


def ranks(values: Numbers) -> Numbers:
    """Return ranks [...], those of equal values averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    averages: Numbers = (ends - (counts - 1) / 2)[inverse]
    return averages


def spearman(first: Numbers, second: Numbers) -> float:
    """Return Spearman's rank correlation; NaN where one side is constant."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def correlation(first: Numbers, second: Numbers, draws: NDArray[np.int64]) -> dict[str, float]:
    """Return the correlation and its interval over sentences, drawn at the indices [samples, N]."""
    drawn = [spearman(first[chosen], second[chosen]) for chosen in draws]
    return percentile_interval(drawn, spearman(first, second))._asdict()


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Return a row for each distance."""
    hypotheses, references = (
        read_texts(name, "target", hypothesis_text, None, print) for name in (settings.hypotheses, settings.references)
    )
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} hypotheses and {len(references)} references: there must be one for each")
    embed = token_vectors(hypotheses, references, settings.embeddings)
    whole = zip(hypotheses, references, strict=True)
    pairs = [pair for pair in whole if all(len(embed(text)) for text in pair)][: settings.sentences]
    hypotheses, references = ([pair[side] for pair in pairs] for side in (0, 1))
    chrf_of = sentence_metric("chrf")
    chrf = np.array([chrf_of(*pair) for pair in pairs])
    rouge = rouge_l_by_sentence(hypotheses, references)
    draws = np.random.default_rng(0).integers(len(pairs), size=(SAMPLES, len(pairs)))
    vectors = [(embed(hypothesis), embed(reference)) for hypothesis, reference in pairs]
    values, seconds = {}, {}
    for name, (distance, _) in DISTANCES.items():
        distance(*vectors[0])  # the first call imports what computes it
        started = time.process_time()
        values[name] = np.array([distance(*pair) for pair in vectors])
        seconds[name] = time.process_time() - started
    return [
        {
            "name": name, "sentences": len(pairs), "milliseconds": 1000 * seconds[name] / len(pairs),
            "chrf": correlation(-values[name], chrf, draws), "rouge_l": correlation(-values[name], rouge, draws),
            "exact": spearman(values[name], values[exact]), "processor": processor(torch.device("cpu")), "threads": 1,
        }
        for name, (_, exact) in DISTANCES.items()
    ]  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table("distance", title=f"Spearman's correlation over {rows[0]['sentences']} sentences (95 % interval)")
    for head in ("with chrF", "with ROUGE-L", "with the exact distance", "CPU ms a pair"):
        table.add_column(head, justify="right")
    for row in rows:
        cells = [
            f"{row[name]['estimate']:.2f} ({row[name]['low']:.2f} .. {row[name]['high']:.2f})"
            for name in ("chrf", "rouge_l")
        ]
        table.add_row(row["name"], *cells, f"{row['exact']:.3f}", f"{row['milliseconds']:.3f}")
    plain_console(width=110).print(table)


def compare(arguments: Sequence[str]) -> None:
    """Read, measure, show, and write on request."""
    settings = merge(Settings, read_arguments(arguments))
    if settings.json is not None:
        check_output("json", settings.json, [settings.hypotheses, settings.references])
    torch.set_num_threads(1)
    rows = measure(settings)
    show(rows)
    if settings.json is not None:
        write(Path(settings.json), rows)


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is measured, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, compare)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
