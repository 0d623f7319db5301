"""Overlap of a set of texts with their references: ROUGE, BLEU and chrF, with a signature of how they were computed.

Every score is kept as statistics of each text and a measure of their sum, so that significance tests can resample
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
from s2s.metrics.sequences import rouge_l, rouge_n
from s2s.metrics.table import better
from s2s.metrics.tokenisation import characters, composed, words

Numbers = NDArray[np.float64]
Tokens = TypeVar("Tokens")
# By language codes of two and three letters. Scripts without blanks for which sacrebleu has no tokenizer are scored by
# character: its default would count a whole Thai sentence as one word.
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
    """The statistics of a score, sums [N, F] of N texts, and its measure: sums [..., F] to [...] in 0..100."""

    rows: Numbers
    measure: Callable[[Numbers], Numbers]


def score(hypotheses: Sequence[str], references: References, lang: str = "en") -> Scores:
    """Return ROUGE-1, -2 and -L of words and of characters, BLEU and chrF, with one or several references for a text.

    ROUGE is the mean F1 of the texts, each against its best reference; BLEU and chrF are sacrebleu's corpus scores with
    its defaults. Texts are compared in NFC, so that two encodings of one text are equal. ``lang`` (a code such as "zh"
    or "zh-TW") only chooses BLEU's tokenizer.
    Raises ``UserError`` for unpaired or no texts, and for a ``lang`` whose tokenizer is not installed.
    """
    statistics, signature = score_statistics(hypotheses, references, lang)
    return Scores(measured(statistics), signature)


def score_statistics(
    hypotheses: Sequence[str], references: References, lang: str = "en"
) -> tuple[dict[str, Statistics], str]:
    """Return the statistics of ``score``, and its signature."""
    hypotheses = [composed(text) for text in hypotheses]
    lists = [[composed(text) for text in row] for row in listed(hypotheses, references)]
    statistics = {**_rouge(hypotheses, lists, words, ""), **_rouge(hypotheses, lists, characters, "_char")}
    form = f"nrefs:{number(lists)}|case:lc|tok:words|norm:nfc|char:nospace|stem:no|avg:sentence-f1"
    signatures = [f"rouge|{form}|version:s2s-{own_version()}"]
    for name, label, metric in (("bleu", "BLEU", _bleu(lang)), ("chrf", "chrF2", CHRF())):
        statistics[name] = _of_corpus(metric, hypotheses, lists)
        signatures.append(f"{label}|{metric.get_signature()}|norm:nfc")
    return statistics, " + ".join(signatures)


def published_score(hypotheses: Sequence[str], references: References) -> Scores:
    """Return the four columns of Su Jianlin's tables by the rules of ``s2s.metrics.published``, as means over texts.

    Of several references ROUGE takes the best one, and BLEU all at once. Raises ``UserError`` for unpaired or no texts.
    """
    statistics, signature = published_statistics(hypotheses, references)
    return Scores(measured(statistics), signature)


def published_statistics(hypotheses: Sequence[str], references: References) -> tuple[dict[str, Statistics], str]:
    """Return the statistics of ``published_score``, and its signature."""
    lists = listed(hypotheses, references)
    rouge = _best(hypotheses, lists, spaced, published_rouge)
    bleu = [published_bleu(hypothesis, row) for hypothesis, row in zip(hypotheses, lists, strict=True)]
    columns = {"rouge_l": rouge[:, 2], "rouge_1": rouge[:, 0], "rouge_2": rouge[:, 1], "bleu": np.array(bleu)}
    form, version = f"nrefs:{number(lists)}|case:lc|tok:char", f"version:s2s-{own_version()}"
    signature = f"published rouge|{form}|like:rouge-1.0.0|l:unique-tokens|avg:sentence-f1|{version}"
    bleu_signature = f"published BLEU|{form}|like:nltk-sentence_bleu|smooth:method1|avg:sentence|{version}"
    return {f"published_{name}": mean_of(values) for name, values in columns.items()}, f"{signature} + {bleu_signature}"


def rouge_l_by_sentence(hypotheses: Sequence[str], references: References) -> Numbers:
    """Return ROUGE-L of words for each text, in 0..100, for a significance test; the mean is ``score``'s ``rouge_l``.

    Raises ``UserError`` for unpaired or no texts.
    """
    lists = listed(hypotheses, references)
    rows: Numbers = 100 * _best(hypotheses, lists, words, lambda text, gold: (rouge_l(text, gold),))[:, 0]
    return rows


def show(scores: Scores, console: Console) -> None:
    """Print a table of the scores and their signature, or tab-separated lines if the console is not a terminal."""
    if not console.is_terminal:
        # Not through the console, which wraps lines and turns tabs into spaces.
        for name, value in scores.values.items():
            print(f"{name}\t{value:.2f}", file=console.file)
        print(f"signature\t{scores.signature}", file=console.file)
        return
    table = Table("metric")
    table.add_column("score", justify="right")
    table.add_column("better")
    for name, value in scores.values.items():
        table.add_row(name, f"{value:.2f}", better(name))
    console.print(table, soft_wrap=False)
    console.out(scores.signature, highlight=False)


def _bleu(lang: str) -> BLEU:
    primary = lang.replace("_", "-").split("-")[0].lower()
    tokenizer = _BLEU_TOKENIZERS.get(primary, "13a")
    try:
        # force: no warning about texts that look tokenised, as titles and lower-cased corpora do. It changes no score.
        return BLEU(tokenize=tokenizer, force=True)
    except RuntimeError as error:
        # sacrebleu's own message on the missing package of a tokenizer has several lines.
        needed = f"pip install 'sacrebleu[{tokenizer.partition('-')[0]}]'"
        raise UserError(f"BLEU for lang={lang} needs a tokenizer that is not installed: {needed}") from error


def measured(statistics: dict[str, Statistics]) -> dict[str, float]:
    """Return the scores of all texts together."""
    return {name: float(measure(rows.sum(axis=0))) for name, (rows, measure) in statistics.items()}


def percent(sums: Numbers) -> Numbers:
    """Return a hundred times the ratio of two sums [..., 2]."""
    ratio: Numbers = 100 * sums[..., 0] / sums[..., 1]
    return ratio


def mean_of(values: Numbers) -> Statistics:
    """Return the statistics of the mean over texts, times 100, of one value for each text."""
    return Statistics(np.stack([values, np.ones(len(values))], axis=-1), percent)


def _of_corpus(metric: BLEU | CHRF, hypotheses: Sequence[str], lists: Sequence[Sequence[str]]) -> Statistics:
    """Return sacrebleu's own statistics of each text, and the function that makes its score of their sum."""
    # sacrebleu reads None as a missing reference, which its types leave out.
    rows = metric._extract_corpus_statistics(list(hypotheses), streams(lists))  # type: ignore[arg-type]
    return Statistics(np.array(rows, dtype=np.float64), bleu if isinstance(metric, BLEU) else chrf)


def bleu(sums: Numbers) -> Numbers:
    """Return BLEU from sums [..., 10]: lengths of hypotheses and references, matching n-grams and n-grams, n = 1 to 4.

    It is sacrebleu's corpus BLEU with its default smoothing, for many rows of sums at once, as resampling needs it.
    """
    lengths, references = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2:6], sums[..., 6:10]
    # The n-th order without a match counts as 1 / 2^k of one, where k is the number of such orders so far.
    halvings = np.cumsum(correct == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(np.where(correct > 0, correct, 0.5**halvings) / total).mean(axis=-1)
        brevity = np.where(lengths < references, np.exp(1 - references / lengths), 1.0)
        scores = 100 * brevity * np.exp(logarithms)
    # Texts of fewer than 4 words have no 4-grams, and so no BLEU.
    zero = (total == 0).any(axis=-1) | (correct == 0).all(axis=-1) | (lengths == 0)
    # Rounding may leave a perfect score a hair above 100.
    return np.where(zero, 0.0, np.minimum(scores, 100.0))


def chrf(sums: Numbers) -> Numbers:
    """Return chrF from sums [..., 18]: for n = 1 to 6 the n-grams of hypotheses, of references, and those of both.

    It is sacrebleu's corpus chrF with its defaults (recall counts twice), for many rows of sums at once.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    hypotheses, references, both = counts[..., 0], counts[..., 1], counts[..., 2]
    valid = (hypotheses > 0) & (references > 0)
    orders = np.maximum(valid.sum(axis=-1), 1)
    precision = np.where(valid, both / np.maximum(hypotheses, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(valid, both / np.maximum(references, 1), 0.0).sum(axis=-1) / orders
    weighted = 4 * precision + recall
    return np.where(weighted > 0, 100 * 5 * precision * recall / np.where(weighted > 0, weighted, 1.0), 0.0)


def _rouge(
    hypotheses: Sequence[str], lists: Sequence[Sequence[str]], tokenize: Callable[[str], list[str]], suffix: str
) -> dict[str, Statistics]:
    def of_pair(text: list[str], gold: list[str]) -> tuple[float, float, float]:
        return rouge_n(text, gold, 1), rouge_n(text, gold, 2), rouge_l(text, gold)

    columns = _best(hypotheses, lists, tokenize, of_pair).T
    return {f"rouge_{kind}{suffix}": mean_of(column) for kind, column in zip("12l", columns, strict=True)}


def _best(
    hypotheses: Sequence[str],
    lists: Sequence[Sequence[str]],
    tokenize: Callable[[str], Tokens],
    of_pair: Callable[[Tokens, Tokens], Sequence[float]],
) -> Numbers:
    """Return the scores [N, F] of the texts, each the best over the text's references."""
    rows = []
    for hypothesis, references in zip(hypotheses, lists, strict=True):
        tokens = tokenize(hypothesis)
        rows.append(np.max([of_pair(tokens, tokenize(reference)) for reference in references], axis=0))
    return np.array(rows, dtype=np.float64)
