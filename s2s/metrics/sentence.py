"""Metrics of one text against one reference, in [0, 1]: rewards of training and utilities of search."""

from collections.abc import Callable
from importlib import import_module

from sacrebleu.metrics import BLEU, CHRF

from s2s.errors import UserError, nearest
from s2s.metrics.sequences import rouge_l, rouge_n
from s2s.metrics.tokenisation import characters, composed, words

Metric = Callable[[str, str], float]
"""(hypothesis, reference) to [0, 1], 1 being best."""


def _sentence_chrf() -> Metric:
    chrf = CHRF()
    return lambda hypothesis, reference: min(
        1.0, chrf.sentence_score(composed(hypothesis), [composed(reference)]).score / 100
    )


def _sentence_bleu() -> Metric:
    # sacrebleu's settings for single sentences: exponential smoothing, and no n-grams longer than the sentence. The
    # tokens are our words, so that ideographs count one by one.
    bleu = BLEU(tokenize="none", effective_order=True)
    return lambda hypothesis, reference: min(
        1.0, bleu.sentence_score(" ".join(words(hypothesis)), [" ".join(words(reference))]).score / 100
    )


METRICS: dict[str, Callable[[], Metric]] = {
    "chrf": _sentence_chrf,
    "bleu": _sentence_bleu,
    "rouge_1": lambda: lambda hypothesis, reference: rouge_n(words(hypothesis), words(reference), 1),
    "rouge_2": lambda: lambda hypothesis, reference: rouge_n(words(hypothesis), words(reference), 2),
    "rouge_l": lambda: lambda hypothesis, reference: rouge_l(words(hypothesis), words(reference)),
    "rouge_l_char": lambda: lambda text, gold: rouge_l(characters(composed(text)), characters(composed(gold))),
}


def check_metric(name: str) -> None:
    """Raise a ``UserError`` for anything but a name in ``METRICS`` or ``module:function``."""
    if name not in METRICS and ":" not in name:
        raise UserError(f"metric: no '{name}'{nearest(name, METRICS)}, or module:function")


def sentence_metric(name: str) -> Metric:
    """Return the metric of a name in ``METRICS``, or the user's function that ``module:function`` names."""
    check_metric(name)
    if name in METRICS:
        return METRICS[name]()
    module, _, function = name.partition(":")
    try:
        metric: Metric = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"metric: '{name}' cannot be imported: {error}") from error
    if not callable(metric):
        raise UserError(f"metric: '{name}' is no function")
    return metric
