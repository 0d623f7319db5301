"""Overlap of a set of texts with their references: ROUGE, BLEU and chrF, with a signature of how they were taken.

Every score is kept as statistics of single texts and a measure of their sum, so that tests of differences can draw
texts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sacrebleu.metrics import BLEU, CHRF

from s2s.errors import UserError, own_version
from s2s.metrics.published import published_bleu, published_rouge, spaced
from s2s.metrics.references import References, listed, number, streams
from s2s.metrics.rouge import rouge_l, rouge_n
from s2s.metrics.tokenisation import characters, composed, words

Numbers = NDArray[np.float64]
Tokens = TypeVar("Tokens")
# By the codes of two letters and of three; of scripts without blanks that sacrebleu has no tokenizer for, by character.
_BLEU_TOKENIZERS = {
    code: tokenizer
    for tokenizer, codes in {
        "zh": "zh zho chi cmn yue wuu nan hak lzh",
        "ja-mecab": "ja jpn",
        "ko-mecab": "ko kor",
        "char": "th tha lo lao km khm my mya bur bo bod tib dz dzo",
    }.items()
    for code in codes.split()
}


class Scores(NamedTuple):
    """Scores of one set of texts.

    ``values`` are in 0..100, in the order in which they are shown; ``signature`` says how they were computed.
    """

    values: dict[str, float]
    signature: str


class Statistics(NamedTuple):
    """A score's statistics, a row of sums [N, F] a text, and its measure, sums [..., F] to [...] in 0..100."""

    rows: Numbers
    measure: Callable[[Numbers], Numbers]


def score(hypotheses: Sequence[str], references: References, lang: str = "en") -> Scores:
    """ROUGE-1, -2 and -L on words and on characters, BLEU and chrF of hypotheses, with a reference each or several.

    ROUGE is the mean of the sentences' F1, each with the best of its references; BLEU and chrF are sacrebleu's scores
    of the corpus, with its defaults. All read the texts in NFC, so that one text in two encodings is one. ``lang`` (a
    code such as "zh" or "zh-TW") chooses BLEU's tokenizer and nothing else. sacrebleu's warning about texts that look
    tokenised is off (its ``force``): titles and lower-cased corpora set it off, and scores stay equal.
    Raises ``UserError`` for unpaired or no texts, and for a ``lang`` whose tokenizer is not installed.
    """
    statistics, signature = score_statistics(hypotheses, references, lang)
    return Scores(measured(statistics), signature)


def score_statistics(
    hypotheses: Sequence[str], references: References, lang: str = "en"
) -> tuple[dict[str, Statistics], str]:
    """The statistics behind ``score``, and its signature."""
    hypotheses = [composed(text) for text in hypotheses]
    lists = [[composed(text) for text in row] for row in listed(hypotheses, references)]
    statistics = {**_rouge(hypotheses, lists, words, ""), **_rouge(hypotheses, lists, characters, "_char")}
    signatures = [
        f"rouge|nrefs:{number(lists)}|case:lc|tok:words|norm:nfc|char:nospace|stem:no|avg:sentence-f1|version:s2s-{own_version()}"
    ]
    for name, label, metric in (("bleu", "BLEU", _bleu(lang)), ("chrf", "chrF2", CHRF())):
        statistics[name] = _of_corpus(metric, hypotheses, lists)
        signatures.append(f"{label}|{metric.get_signature()}|norm:nfc")
    return statistics, " + ".join(signatures)


def published_score(hypotheses: Sequence[str], references: References) -> Scores:
    """The four columns of Su Jianlin's tables, by the rules of ``s2s.metrics.published``: means over the texts.

    Of several references ROUGE takes the best and BLEU all at once. Raises ``UserError`` for unpaired or no texts.
    """
    statistics, signature = published_statistics(hypotheses, references)
    return Scores(measured(statistics), signature)


def published_statistics(hypotheses: Sequence[str], references: References) -> tuple[dict[str, Statistics], str]:
    """The statistics behind ``published_score``, and its signature."""
    lists = listed(hypotheses, references)
    rouge = _best(hypotheses, lists, spaced, published_rouge)
    bleu = [published_bleu(hypothesis, row) for hypothesis, row in zip(hypotheses, lists, strict=True)]
    values = {"l": rouge[:, 2], "1": rouge[:, 0], "2": rouge[:, 1]}
    statistics = {f"published_rouge_{kind}": _mean(each) for kind, each in values.items()}
    form, ours = f"nrefs:{number(lists)}|case:lc|tok:char", f"version:s2s-{own_version()}"
    signature = f"published rouge|{form}|like:rouge-1.0.0|l:unique-tokens|avg:sentence-f1|{ours}"
    bleu_signature = f"published BLEU|{form}|like:nltk-sentence_bleu|smooth:method1|avg:sentence|{ours}"
    return statistics | {"published_bleu": _mean(np.array(bleu))}, f"{signature} + {bleu_signature}"


def rouge_l_by_sentence(hypotheses: Sequence[str], references: References) -> Numbers:
    """ROUGE-L on words of each sentence, in 0..100, for a significance test; its mean is ``score``'s ``rouge_l``.

    Raises ``UserError`` for unpaired or no texts.
    """
    lists = listed(hypotheses, references)
    rows: Numbers = 100 * _best(hypotheses, lists, words, lambda ours, theirs: (rouge_l(ours, theirs),))[:, 0]
    return rows


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
    console.print(table, soft_wrap=False)
    console.out(scores.signature, highlight=False)


def _bleu(lang: str) -> BLEU:
    primary = lang.replace("_", "-").split("-")[0].lower()
    tokenizer = _BLEU_TOKENIZERS.get(primary, "13a")
    try:
        return BLEU(tokenize=tokenizer, force=True)
    except RuntimeError as error:
        # sacrebleu raises this, over several lines, where the package behind a tokenizer is missing.
        needed = f"pip install 'sacrebleu[{tokenizer.partition('-')[0]}]'"
        raise UserError(f"BLEU for lang={lang} needs a tokenizer that is not installed: {needed}") from error


def measured(statistics: dict[str, Statistics]) -> dict[str, float]:
    """The scores of all the texts."""
    return {name: float(measure(rows.sum(axis=0))) for name, (rows, measure) in statistics.items()}


def _mean(values: Numbers) -> Statistics:
    """The statistics of a mean over the texts, of values in [0, 1]."""
    return Statistics(np.stack([values, np.ones(len(values))], axis=-1), lambda sums: 100 * sums[..., 0] / sums[..., 1])


def _of_corpus(metric: BLEU | CHRF, hypotheses: Sequence[str], lists: Sequence[Sequence[str]]) -> Statistics:
    """Statistics of each text and the score of their sum, both sacrebleu's own."""
    # None is for no reference; its types do not know that.
    rows = metric._extract_corpus_statistics(list(hypotheses), streams(lists))  # type: ignore[arg-type]

    def measure(sums: Numbers) -> Numbers:
        flat = sums.reshape(-1, sums.shape[-1])
        # Rounding may leave sacrebleu's perfect score a hair above 100.
        scores = [min(100.0, metric._compute_score_from_stats(row.tolist()).score) for row in flat]
        return np.array(scores).reshape(sums.shape[:-1])

    return Statistics(np.array(rows, dtype=np.float64), measure)


def _rouge(
    hypotheses: Sequence[str], lists: Sequence[Sequence[str]], tokenize: Callable[[str], list[str]], suffix: str
) -> dict[str, Statistics]:
    def of_pair(ours: list[str], theirs: list[str]) -> tuple[float, float, float]:
        return rouge_n(ours, theirs, 1), rouge_n(ours, theirs, 2), rouge_l(ours, theirs)

    columns = _best(hypotheses, lists, tokenize, of_pair).T
    return {f"rouge_{kind}{suffix}": _mean(column) for kind, column in zip("12l", columns, strict=True)}


def _best(
    hypotheses: Sequence[str],
    lists: Sequence[Sequence[str]],
    tokenize: Callable[[str], Tokens],
    of_pair: Callable[[Tokens, Tokens], Sequence[float]],
) -> Numbers:
    """The scores [N, F] of the texts, each the best over the text's references."""
    rows = []
    for hypothesis, references in zip(hypotheses, lists, strict=True):
        ours = tokenize(hypothesis)
        rows.append(np.max([of_pair(ours, tokenize(reference)) for reference in references], axis=0))
    return np.array(rows, dtype=np.float64)
