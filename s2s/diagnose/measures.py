"""All that was measured on one run, as the objects that the single measures work with."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from s2s.diagnose.cache import Cache
from s2s.diagnose.cached_passes import PARTS, Part, max_length
from s2s.diagnose.gap import Gap, compare
from s2s.diagnose.oracle import Divergences
from s2s.diagnose.ragged_arrays import Arrays, rows, traces
from s2s.diagnose.recovery import Recovery
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import Subject
from s2s.diagnose.traces import Free, OnProgress, Trace
from s2s.files.paths import readable
from s2s.machine.matmul import kernel
from s2s.machine.memory import enough_memory
from s2s.metrics.bootstrap import Numbers
from s2s.search.beam import Hypothesis


class Bar(Protocol):
    """Shows how far a pass is."""

    def __call__(self, title: str, size: int) -> AbstractContextManager[OnProgress]:
        """A line for a pass over so many pairs, and what hears of those that are done."""


class Measures(NamedTuple):
    """What the passes over one run gave; lists have an entry an example."""

    name: str  # of the run: its folder
    seen: frozenset[str]  # corruptions that are like what it has trained on
    decode: Callable[[Sequence[int]], str]  # ids to text
    source_ids: list[list[int]]
    sources: list[str]
    references: list[str]  # gold targets as the run's vocabulary spells them
    hypotheses: list[str]  # its greedy texts
    forced: list[Trace]
    free: list[Trace]
    free_texts: list[Free]
    gap: Gap
    recovery: Recovery
    margins: Numbers
    beams: dict[int, list[Hypothesis]]  # the best text of the first examples, with its summed log-probability
    beam_texts: dict[int, list[str]]
    perturbed: list[str]  # its greedy texts for perturbed sources
    perturbed_sources: list[str]
    divergences: Divergences | None  # from the oracle, where there is one
    truth: str | None  # what the oracle is
    exact: bool
    max_length: int


def measure(subject: Subject, settings: DiagnosisSettings, bar: Bar) -> Measures:
    """Make all passes over a run, or read what was kept of them."""
    cache, found = Cache(subject), dict[str, Arrays]()
    for name, part in PARTS.items():
        if part.there(subject):
            asked = part.asked(settings, subject)
            found[name] = cache.get(name, asked, partial(_pass, part, subject, settings, bar))
    return view(subject, settings, found)


def _pass(part: Part, subject: Subject, settings: DiagnosisSettings, bar: Bar) -> Arrays:
    title = f"{subject.run.folder.name}: {part.title}"
    memory = enough_memory(lambda: title, "lower batch, the examples that are measured together")
    with kernel(subject.run.kernel), memory, bar(title, part.size(subject, settings)) as on_progress:
        return part.measure(subject, settings, on_progress)


def view(subject: Subject, settings: DiagnosisSettings, found: dict[str, Arrays]) -> Measures:
    """The objects that the arrays of all parts stand for."""
    decode, end = subject.run.vocabulary.decode, subject.run.vocabulary.end
    forced, free = traces("forced", found["traces"]), traces("free", found["traces"])
    texts = [_free(one, ended, end) for one, ended in zip(free, found["traces"]["ended"].tolist(), strict=True)]
    searched = {beams: _hypotheses(found["search"], beams) for beams in settings.beams}
    return Measures(
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
        gap=compare(forced, free),
        recovery=_recovery(found["recovery"]),
        margins=found["margins"]["margins"],
        beams=searched,
        beam_texts={beams: [decode(ids) for ids, _ in best] for beams, best in searched.items()},
        perturbed=[decode(ids) for ids in rows("texts", found["perturbed"])],
        perturbed_sources=[decode(ids) for ids in rows("sources", found["perturbed"])],
        divergences=Divergences(**found["accumulation"]) if "accumulation" in found else None,
        truth=subject.truth.name if subject.truth else None,
        exact=bool(subject.truth and subject.truth.exact),
        max_length=max_length(subject),
    )


def _free(one: Trace, ended: bool, end: int) -> Free:
    ids = one.tokens.tolist()
    assert not ended or ids[-1] == end
    return Free(ids[:-1] if ended else ids, ended)


def _recovery(arrays: Arrays) -> Recovery:
    corruptions, prefixes = (tuple(arrays[name].tolist()) for name in ("corruptions", "prefixes"))
    return Recovery(corruptions, prefixes, arrays["deltas"], arrays["clean"], arrays["damaged"])


def _hypotheses(arrays: Arrays, beams: int) -> list[Hypothesis]:
    return list(zip(rows(f"beams_{beams}", arrays), arrays[f"scores_{beams}"].tolist(), strict=True))


def held_out(measured: Sequence[Measures]) -> tuple[str, ...]:
    """The corruptions that none of the runs has seen, its own errors left out: they are a measure of their own."""
    names = measured[0].recovery.corruptions
    return tuple(name for name in names if name != "own_errors" and not any(name in one.seen for one in measured))


def by_sentence(values: Sequence[float]) -> Numbers:
    """Statistics [N, 2] for ``mean`` of one number a sentence."""
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)
