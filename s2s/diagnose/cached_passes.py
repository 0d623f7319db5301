"""The passes that a diagnosis makes over one run, each giving arrays that are kept between diagnoses."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from s2s.diagnose.corruptions import CORRUPTIONS
from s2s.diagnose.hallucination import perturbed
from s2s.diagnose.margin import margins
from s2s.diagnose.oracle import oracle_divergences
from s2s.diagnose.ragged_arrays import Arrays, flat, flat_traces
from s2s.diagnose.recovery import recovery
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import Subject
from s2s.diagnose.traces import OnProgress, run_free, trace, trace_free
from s2s.inference.generate import generate
from s2s.search.methods.beam import SearchSettings

ROWS = 256
"""Hypotheses searched together, whatever the number of beams."""


class Part(NamedTuple):
    """A pass: what it does, on what it depends, how many pairs it goes over, and the pass itself."""

    title: str
    keys: tuple[str, ...]  # of the settings
    size: Callable[[Subject, DiagnosisSettings], int]
    measure: Callable[[Subject, DiagnosisSettings, OnProgress], Arrays]
    there: Callable[[Subject], bool] = lambda _: True

    def asked(self, settings: DiagnosisSettings, subject: Subject) -> dict[str, Any]:
        """What the arrays depend on besides the run and the examples."""
        asked = {key: value for key, value in asdict(settings).items() if key in self.keys}
        return asked | {"truth": subject.truth.identity} if "oracle" in self.keys and subject.truth else asked


def max_length(subject: Subject) -> int:
    """The most tokens that the run's own search writes."""
    return subject.run.max_length(subject.run.recipe.search)


def measure_traces(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Gold targets behind gold prefixes, and the run's own texts behind themselves."""
    run, size = subject.run, settings.batch
    sources = [source for source, _ in subject.pairs]
    forced = trace(run.model, run.vocabulary, subject.pairs, size, on_progress)
    free = run_free(run.model, run.vocabulary, sources, max_length(subject), size, on_progress)
    own = trace_free(run.model, run.vocabulary, sources, free, size, on_progress)
    ended = np.array([text.ended for text in free])
    return {**flat_traces("forced", forced), **flat_traces("free", own), "ended": ended}


def measure_recovery(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Gold targets behind damaged prefixes."""
    run = subject.run
    prefixes, distances = settings.prefixes, settings.distances
    names, size = tuple(CORRUPTIONS), settings.batch
    found = recovery(
        run.model, run.vocabulary, subject.pairs, prefixes, distances, names, settings.seed, size, on_progress
    )
    fields = zip(found._fields, found, strict=True)
    return {name: np.asarray(value) for name, value in fields}


def measure_margins(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Gold targets against others of equal length."""
    run = subject.run
    return {"margins": margins(run.model, run.vocabulary, subject.pairs, settings.seed, settings.batch, on_progress)}


def measure_search(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """The best text of each number of beams, without a length penalty."""
    run, sources = subject.run, searched(subject, settings)
    found: Arrays = {}
    for beams in settings.beams:
        search = SearchSettings(beams=beams, batch=max(1, ROWS // beams))
        best = generate(run.model, run.vocabulary, sources, search, max_length(subject), lambda _: None)
        found |= flat(f"beams_{beams}", [hypotheses[0][0] for hypotheses in best])
        found[f"scores_{beams}"] = np.array([hypotheses[0][1] for hypotheses in best])
        on_progress(beams * len(sources))
    return found


def searched(subject: Subject, settings: DiagnosisSettings) -> list[Sequence[int]]:
    """The sources of the curve over beam widths."""
    return [source for source, _ in subject.pairs[: settings.search_examples]]


def measure_perturbed(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """The run's own texts for sources that begin with one more word."""
    run = subject.run
    sources = perturbed([source for source, _ in subject.pairs], run.recipe.data.max_source, settings.seed)
    free = run_free(run.model, run.vocabulary, sources, max_length(subject), settings.batch, on_progress)
    return {**flat("texts", [text.ids for text in free]), **flat("sources", sources)}


def measure_accumulation(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """The divergence from the oracle along the run's own texts and along gold."""
    run, truth = subject.run, subject.truth
    assert truth is not None
    found = oracle_divergences(
        run.model, run.vocabulary, truth.oracle, subject.pairs, max_length(subject), settings.samples, settings.seed,
        settings.batch, on_progress,
    )  # fmt: skip
    return dict(found._asdict())


PARTS: dict[str, Part] = {
    "traces": Part("free running", (), lambda subject, _: 3 * len(subject.pairs), measure_traces),
    "recovery": Part(
        "damaged prefixes",
        ("prefixes", "distances", "seed"),
        lambda subject, _: len(subject.pairs),
        measure_recovery,
    ),
    "margins": Part("distractors", ("seed",), lambda subject, _: len(subject.pairs), measure_margins),
    "search": Part(
        "beam widths",
        ("beams", "search_examples"),
        lambda subject, settings: sum(settings.beams) * len(searched(subject, settings)),
        measure_search,
    ),
    "perturbed": Part("perturbed sources", ("seed",), lambda subject, _: len(subject.pairs), measure_perturbed),
    "accumulation": Part(
        "accumulated error",
        ("oracle", "samples", "seed"),
        lambda subject, _: len(subject.pairs),
        measure_accumulation,
        lambda subject: subject.truth is not None,
    ),
}
