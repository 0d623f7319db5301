"""The passes that a diagnosis makes over one run; their arrays are kept in the run's folder for the next diagnosis."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from inspect import getsource
from typing import Any, NamedTuple, Protocol

import numpy as np

from s2s.diagnose import cache, corruptions, gap, hallucination, margin, oracle, recovery, traces
from s2s.diagnose.cache import Arrays, Cache, flatten, flatten_traces, rows
from s2s.diagnose.measurements import Divergences, Measurements, Recovery
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import Subject, weights_hash
from s2s.diagnose.traces import GreedyText, OnProgress, no_progress
from s2s.errors import own_version
from s2s.files.paths import readable
from s2s.inference.generate import generate
from s2s.machine.memory import enough_memory
from s2s.machine.paths import computing
from s2s.search.methods.beam import SearchSettings

ROWS = 256
"""Hypotheses that are searched together, whatever the beam width."""
MEASURING = (corruptions, hallucination, margin, oracle, sys.modules[__name__], cache, recovery, traces)
"""The modules that compute the kept numbers: when one of them is edited, nothing that was kept is read again."""


class Bar(Protocol):
    """Shows how far a pass is."""

    def __call__(self, title: str, size: int) -> AbstractContextManager[OnProgress]:
        """Show a line for a pass over ``size`` pairs; the context gives the function that moves it on."""


@contextmanager
def no_bar(title: str, size: int) -> Iterator[OnProgress]:  # noqa: ARG001
    """Show nothing."""
    yield no_progress


class Pass(NamedTuple):
    """A pass: its title, the keys of the settings that it depends on, its number of pairs, and the pass itself."""

    title: str
    keys: tuple[str, ...]
    size: Callable[[Subject, DiagnosisSettings], int]
    measure: Callable[[Subject, DiagnosisSettings, OnProgress], Arrays]


def max_length(subject: Subject) -> int:
    """Return the most tokens that the run's own search writes."""
    return subject.run.max_length(subject.run.recipe.search)


def _traces(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Trace gold targets, and the run's own texts."""
    run, size = subject.run, settings.batch
    sources = [source for source, _ in subject.pairs]
    forced = traces.trace(run.model, run.vocabulary, subject.pairs, size, on_progress)
    texts = traces.write_greedily(run.model, run.vocabulary, sources, max_length(subject), size, on_progress)
    free = traces.trace_greedy(run.model, run.vocabulary, sources, texts, size, on_progress)
    ended = np.array([text.ended for text in texts])
    return {**flatten_traces("forced", forced), **flatten_traces("free", free), "ended": ended}


def _recovery(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    result = recovery.measure_recovery(
        subject.run.model, subject.run.vocabulary, subject.pairs, settings.prefixes, settings.distances,
        seed=settings.seed, size=settings.batch, on_progress=on_progress,
    )  # fmt: skip
    return {name: np.asarray(value) for name, value in result._asdict().items()}


def _margins(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    run, seed, size = subject.run, settings.seed, settings.batch
    return {"margins": margin.measure_margins(run.model, run.vocabulary, subject.pairs, seed, size, on_progress)}


def _search(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Search the best text at each beam width, without a length penalty."""
    run, sources = subject.run, _searched(subject, settings)
    arrays: Arrays = {}
    for beams in settings.beams:
        # A step's memory grows with beams times sources, so fewer sources are read together at more beams.
        search = SearchSettings(beams=beams, batch=max(1, ROWS // beams))
        best = generate(run.model, run.vocabulary, sources, search, max_length(subject), lambda _: None)
        arrays |= flatten(f"beams_{beams}", [hypotheses[0][0] for hypotheses in best])
        arrays[f"scores_{beams}"] = np.array([hypotheses[0][1] for hypotheses in best])
        # The time of a search grows with its beams, so a unit of progress is one beam of one source.
        on_progress(beams * len(sources))
    return arrays


def _searched(subject: Subject, settings: DiagnosisSettings) -> list[Sequence[int]]:
    return [source for source, _ in subject.pairs[: settings.search_examples]]


def _perturbed(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Write the run's own texts for sources that begin with one more word."""
    run, limit = subject.run, subject.run.recipe.data.max_source
    around = len(subject.run.vocabulary.opening), len(subject.run.vocabulary.closing)
    sources = hallucination.perturbed([source for source, _ in subject.pairs], limit, settings.seed, *around)
    size = settings.batch
    texts = traces.write_greedily(run.model, run.vocabulary, sources, max_length(subject), size, on_progress)
    return {**flatten("texts", [text.ids for text in texts]), **flatten("sources", sources)}


def _accumulation(subject: Subject, settings: DiagnosisSettings, on_progress: OnProgress) -> Arrays:
    """Measure the divergence from the oracle along the run's own texts and along gold."""
    run, truth = subject.run, subject.truth
    assert truth is not None
    divergences = oracle.measure_divergences(
        run.model, run.vocabulary, truth.oracle, subject.pairs, max_length(subject), settings.samples, settings.seed,
        settings.batch, on_progress,
    )  # fmt: skip
    return dict(divergences._asdict())


def _pairs(subject: Subject, settings: DiagnosisSettings) -> int:  # noqa: ARG001
    return len(subject.pairs)


PASSES: dict[str, Pass] = {
    "traces": Pass("free running", (), lambda subject, _: 3 * len(subject.pairs), _traces),
    "recovery": Pass("damaged prefixes", ("prefixes", "distances", "seed"), _pairs, _recovery),
    "margins": Pass("distractors", ("seed",), _pairs, _margins),
    "search": Pass(
        "beam widths",
        ("beams", "search_examples"),
        lambda subject, settings: sum(settings.beams) * len(_searched(subject, settings)),
        _search,
    ),
    "perturbed": Pass("perturbed sources", ("seed",), _pairs, _perturbed),
    "accumulation": Pass("accumulated error", ("oracle", "samples", "seed"), _pairs, _accumulation),
}


def measure(subject: Subject, settings: DiagnosisSettings, bar: Bar) -> Measurements:
    """Make all passes over a run, or read what was kept of them; without an oracle no accumulated error."""
    ids = [[list(source), list(target)] for source, target in subject.pairs]
    ids_hash = sha256(json.dumps(ids).encode()).hexdigest()
    code_hash = sha256("".join(map(getsource, MEASURING)).encode()).hexdigest()
    # The paths of the arithmetic are part of it, since other ways round differently.
    paths = json.dumps(subject.run.paths, sort_keys=True)
    identity = [own_version(), code_hash, weights_hash(subject.run), ids_hash, paths]
    kept, arrays = Cache(subject.run.folder / "diagnosis" / "cache", identity), dict[str, Arrays]()
    for name, row in PASSES.items():
        asked: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key in row.keys}
        if "oracle" in row.keys:
            if subject.truth is None:
                continue
            asked["truth"] = subject.truth.identity  # the same folders may hold other weights
        arrays[name] = kept.get(name, asked, partial(_run_pass, row, subject, settings, bar))
    return _view(subject, settings, arrays)


def _run_pass(row: Pass, subject: Subject, settings: DiagnosisSettings, bar: Bar) -> Arrays:
    title = f"{subject.run.folder.name}: {row.title}"
    memory = enough_memory(lambda: title, "lower batch, the examples that are measured together")
    with computing(subject.run.paths), memory, bar(title, row.size(subject, settings)) as on_progress:
        return row.measure(subject, settings, on_progress)


def _view(subject: Subject, settings: DiagnosisSettings, arrays: dict[str, Arrays]) -> Measurements:
    """Turn the arrays of all passes into the objects that the quantities are computed of."""
    decode, end = subject.run.vocabulary.decode, subject.run.vocabulary.end
    forced, free = cache.traces("forced", arrays["traces"]), cache.traces("free", arrays["traces"])
    texts = []
    for row, ended in zip(free, arrays["traces"]["ended"].tolist(), strict=True):
        assert not ended or row.tokens[-1] == end
        texts.append(GreedyText(row.tokens[: len(row.tokens) - ended].tolist(), ended))
    # Quadratic in a text's length and in plain Python: made once, for all quantities that read it.
    correct, edits = gap.aligned(free, forced)
    beams = {
        width: list(
            zip(rows(f"beams_{width}", arrays["search"]), arrays["search"][f"scores_{width}"].tolist(), strict=True)
        )
        for width in settings.beams
    }
    recovered = arrays["recovery"]
    return Measurements(
        name=readable(str(subject.run.folder)),
        seen=subject.seen,
        decode=decode,
        source_ids=[list(source) for source, _ in subject.pairs],
        sources=[decode(source) for source, _ in subject.pairs],
        references=[decode(target) for _, target in subject.pairs],
        hypotheses=[decode(text.ids) for text in texts],
        forced=forced,
        free=free,
        free_texts=texts,
        correct=correct,
        edits=edits,
        recovery=Recovery(
            tuple(recovered["corruptions"].tolist()),
            tuple(recovered["prefixes"].tolist()),
            *(recovered[name] for name in ("deltas", "clean", "damaged")),
        ),
        margins=arrays["margins"]["margins"],
        beams=beams,
        beam_texts={width: [decode(ids) for ids, _ in best] for width, best in beams.items()},
        perturbed=[decode(ids) for ids in rows("texts", arrays["perturbed"])],
        perturbed_sources=[decode(ids) for ids in rows("sources", arrays["perturbed"])],
        divergences=Divergences(**arrays["accumulation"]) if "accumulation" in arrays else None,
        truth=subject.truth.name if subject.truth else None,
        exact=bool(subject.truth and subject.truth.exact),
        max_length=max_length(subject),
    )
