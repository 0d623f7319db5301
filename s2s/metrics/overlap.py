"""Overlap of a set of texts with their references: ROUGE, BLEU and chrF, with a signature of how they were taken."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sacrebleu.metrics import BLEU, CHRF

from s2s.errors import UserError
from s2s.metrics.rouge import characters, rouge_l, rouge_n, words

_BLEU_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


class Scores(NamedTuple):
    """Scores of one set of texts.

    ``values`` are in 0..100, in the order in which they are shown; ``signature`` says how they were computed.
    """

    values: dict[str, float]
    signature: str


def score(hypotheses: Sequence[str], references: Sequence[str], lang: str = "en") -> Scores:
    """ROUGE-1, -2 and -L on words and on characters, BLEU and chrF of hypotheses, one reference each.

    ROUGE is the mean of the sentences' F1; BLEU and chrF are sacrebleu's scores of the corpus, with its defaults.
    ``lang`` (a code such as "zh" or "zh-TW") chooses BLEU's tokenizer and nothing else. sacrebleu's warning about
    texts that look tokenised is off (its ``force``): titles and lower-cased corpora set it off, and scores stay equal.
    Raises ``UserError`` for unpaired or no texts, and for a ``lang`` whose tokenizer is not installed.
    """
    _require_pairs(hypotheses, references)
    bleu, chrf = _bleu(lang), CHRF()
    hypothesis_list, reference_lists = list(hypotheses), [list(references)]
    values = {
        **_mean_rouge(hypotheses, references, words, ""),
        **_mean_rouge(hypotheses, references, characters, "_char"),
        # Rounding may leave sacrebleu's perfect score a hair above 100.
        "bleu": min(100.0, bleu.corpus_score(hypothesis_list, reference_lists).score),
        "chrf": min(100.0, chrf.corpus_score(hypothesis_list, reference_lists).score),
    }
    rouge = f"rouge|nrefs:1|case:lc|tok:words|char:nospace|stem:no|avg:sentence-f1|version:s2s-{version('s2s')}"
    return Scores(values, f"{rouge} + BLEU|{bleu.get_signature()} + chrF2|{chrf.get_signature()}")


def rouge_l_by_sentence(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L on words of each sentence, in 0..100, for a significance test; its mean is ``score``'s ``rouge_l``.

    Raises ``UserError`` for unpaired or no texts.
    """
    _require_pairs(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    return np.array([100 * rouge_l(words(hypothesis), words(reference)) for hypothesis, reference in pairs])


def show(scores: Scores, console: Console) -> None:
    """Print a table of the scores and their signature; tab-separated lines where the console is no terminal."""
    if not console.is_terminal:
        # Not through the console, which wraps lines and turns tabs into spaces.
        for name, value in scores.values.items():
            print(f"{name}\t{value:.2f}", file=console.file)
        print(f"signature\t{scores.signature}", file=console.file)
        return
    table = Table("metric")
    table.add_column("score", justify="right")
    for name, value in scores.values.items():
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    console.out(scores.signature, highlight=False)


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    counts = f"{len(hypotheses)} hypotheses and {len(references)} references"
    if len(hypotheses) != len(references):
        raise UserError(f"{counts}: there must be one reference for each hypothesis")
    if not hypotheses:
        raise UserError(f"{counts}: there is nothing to score")


def _bleu(lang: str) -> BLEU:
    primary = lang.replace("_", "-").split("-")[0].lower()
    try:
        return BLEU(tokenize=_BLEU_TOKENIZERS.get(primary, "13a"), force=True)
    except RuntimeError as error:
        # sacrebleu raises this, over several lines, where the package behind a tokenizer is missing.
        needed = f"pip install 'sacrebleu[{primary}]'"
        raise UserError(f"BLEU for lang={lang} needs a tokenizer that is not installed: {needed}") from error


def _mean_rouge(
    hypotheses: Sequence[str], references: Sequence[str], tokenize: Callable[[str], list[str]], suffix: str
) -> dict[str, float]:
    rows = [
        (rouge_n(hypothesis, reference, 1), rouge_n(hypothesis, reference, 2), rouge_l(hypothesis, reference))
        for hypothesis, reference in zip(map(tokenize, hypotheses), map(tokenize, references), strict=True)
    ]
    means = 100 * np.mean(rows, axis=0)
    return {f"rouge_{kind}{suffix}": float(mean) for kind, mean in zip("12l", means, strict=True)}
