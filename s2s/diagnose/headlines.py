"""The numbers that a diagnosis stands for: each as sums a sentence and a function of them, to be tested.

The primary one, declared beforehand, is the damage under held-out corruptions; clean cost and quality are its guards.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from s2s.diagnose import calibration
from s2s.diagnose.accumulation import accumulated
from s2s.diagnose.calibration import Judged, judge_forced, judge_free
from s2s.diagnose.gap import eb_slope, language_slope
from s2s.diagnose.hallucination import hallucinations
from s2s.diagnose.measures import Measures, by_sentence, held_out
from s2s.diagnose.quantity import HIGHER, LOWER, NEITHER, Headline
from s2s.diagnose.search_sums import model_errors, qualities, su_gap
from s2s.metrics.bootstrap import Measure, Numbers, mean
from s2s.metrics.repetition import copy_rate, seq_rep_n
from s2s.metrics.sentence import sentence_metric


def headlines(measured: Sequence[Measures]) -> list[Headline]:
    """The headlines that these runs have, the primary one first; what depends on all runs is the same for each."""
    return [*_recovery(measured), *_gap(), *_texts(measured), *_calibration(), *_search(measured), *_errors(measured)]


def _recovery(measured: Sequence[Measures]) -> list[Headline]:
    names, measure = held_out(measured), measured[0].recovery.measure
    others = [name for name in measured[0].recovery.corruptions if name not in names and name != "own_errors"]
    found = [
        ("damage_held_out", "damage under held-out corruptions", names),
        ("damage_own_errors", "damage under the model's own errors", ["own_errors"]),
        ("damage_seen", "damage under corruptions that a run was trained on", others),
    ]
    rows = [
        Headline(key, title, "nats", LOWER, partial(_damage, names=chosen), measure)
        for key, title, chosen in found
        if chosen
    ]
    clean = Headline(
        "clean_cost", "cost of gold behind gold prefixes", "nats/token", LOWER, lambda one: one.recovery.clean, mean
    )
    return [*rows, clean]


def _damage(one: Measures, names: Sequence[str]) -> Numbers:
    return one.recovery.statistics(names)


def by_corruption(measured: Sequence[Measures]) -> list[Headline]:
    """The damage under each corruption by itself."""
    first = measured[0].recovery
    return [
        Headline(f"damage_{name}", f"damage: {name}", "nats", LOWER, partial(_damage, names=[name]), first.measure)
        for name in first.corruptions
    ]


def _gap() -> list[Headline]:
    def total(sums: Numbers, side: int) -> Numbers:
        """Accuracy over all parts of the texts."""
        each = sums.reshape(*sums.shape[:-1], 2, -1, 4)[..., side, :, :].sum(axis=-2)
        return mean(each[..., [0, 3]])

    def statistics(one: Measures) -> Numbers:
        return one.gap.statistics()

    return [
        Headline("eb_slope", "growth of the gap along a text", "accuracy", LOWER, statistics, eb_slope),
        Headline(
            "language_slope", "growth of the cost of gold along a text", "nats", NEITHER, statistics, language_slope
        ),
        Headline(
            "accuracy_forced", "accuracy behind gold prefixes", "share", HIGHER, statistics, partial(total, side=0)
        ),
        Headline("accuracy_free", "accuracy behind own prefixes", "share", HIGHER, statistics, partial(total, side=1)),
    ]


def _texts(measured: Sequence[Measures]) -> list[Headline]:
    chrf, rouge = sentence_metric("chrf"), sentence_metric("rouge_l")

    def quality(one: Measures, metric: Callable[[str, str], float]) -> Numbers:
        return by_sentence([100 * metric(*pair) for pair in zip(one.hypotheses, one.references, strict=True)])

    def lengths(one: Measures) -> Numbers:
        pairs = zip(one.free_texts, one.forced, strict=True)
        return np.array([(len(text.ids), len(gold.tokens) - 1) for text, gold in pairs], dtype=float)

    def repeated(one: Measures) -> Numbers:
        return by_sentence([seq_rep_n(text.ids, 2) for text in one.free_texts])

    def copied(one: Measures) -> Numbers:
        pairs = zip(one.free_texts, one.source_ids, strict=True)
        return by_sentence([copy_rate(text.ids, source, 2) for text, source in pairs])

    def against_source(one: Measures) -> Numbers:
        sums, there = np.nansum(one.margins, axis=1), ~np.isnan(one.margins).all(axis=1)
        return np.stack([(sums < 0) & there, there], axis=1).astype(float)

    rows = [
        Headline(
            "chrf", "chrF of greedy texts, mean of sentences", "0..100", HIGHER, partial(quality, metric=chrf), mean
        ),
        Headline("rouge_l", "ROUGE-L of greedy texts by words", "0..100", HIGHER, partial(quality, metric=rouge), mean),
        Headline("length_ratio", "tokens of greedy texts over gold's", "ratio", NEITHER, lengths, mean),
        Headline("repetition", "repeated bigrams (seq-rep-2)", "share", LOWER, repeated, mean),
        Headline("copying", "tokens copied from the source in runs of 2 or more", "share", NEITHER, copied, mean),
    ]
    paired = all(not np.isnan(one.margins).all() for one in measured)
    if paired:
        title = "sentences whose gold target is worth less than another one"
        rows.append(Headline("distracted", title, "share", LOWER, against_source, mean))
    return rows


def _calibration() -> list[Headline]:
    edges = calibration.equal_width()
    width = 3 * (len(edges) + 1)

    def statistics(one: Measures) -> Numbers:
        return np.concatenate([calibration.statistics(side, edges) for side in judged(one)], axis=1)

    def difference(sums: Numbers, of: Measure) -> Numbers:
        found: Numbers = of(sums[..., width:]) - of(sums[..., :width])
        return found

    error, confidence = calibration.expected_calibration_error, calibration.overconfidence
    return [
        Headline(
            "calibration_gap", "calibration error behind own prefixes minus behind gold", "share", LOWER, statistics,
            partial(difference, of=error),
        ),
        Headline(
            "overconfidence_gap", "overconfidence behind own prefixes minus behind gold", "share", LOWER, statistics,
            partial(difference, of=confidence),
        ),
    ]  # fmt: skip


def judged(one: Measures) -> tuple[list[Judged], list[Judged]]:
    """A run's tokens behind gold prefixes and behind its own, with its confidence in them."""
    return judge_forced(one.forced), judge_free(one.free, one.forced)


def _search(measured: Sequence[Measures]) -> list[Headline]:
    widths = list(measured[0].beams)

    def curse(sums: Numbers) -> Numbers:
        means = sums[..., :-1] / sums[..., -1:]
        found: Numbers = means.max(axis=-1) - means[..., -1]
        return found

    def gaps(one: Measures) -> Numbers:
        return su_gap(one, widths[-1])

    def errors(one: Measures) -> Numbers:
        return model_errors(one, widths[-1])

    beams = f"at {widths[-1]} beams"
    return [
        Headline("beam_curse", f"chrF lost {beams} against the best width", "0..100", LOWER, qualities, curse),
        Headline("su_gap", f"locally right, globally wrong {beams} (Su-gap)", "share", LOWER, gaps, mean),
        Headline("model_errors", f"texts {beams} that score more than gold", "share", NEITHER, errors, mean),
    ]


def _errors(measured: Sequence[Measures]) -> list[Headline]:
    def broken(one: Measures) -> Numbers:
        return hallucinations(one.hypotheses, one.perturbed, one.references)

    title = "texts that break when a word is put before the source"
    return [Headline("hallucinations", title, "share", LOWER, broken, mean), *accumulated(measured)]
