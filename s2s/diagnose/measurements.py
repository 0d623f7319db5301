"""The results of all passes over one run, and the form of the numbers that a diagnosis reports of them.

The modules that measure something (``recovery``, ``gap``, ``texts``, ``margin``, ``calibration``, ``search_errors``,
``hallucination``, ``oracle``) are built alike: ``quantities`` are their numbers that are tested, and ``details`` the
curves and counts for the report.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from s2s.diagnose.traces import GreedyText, Integers, Marks, Trace
from s2s.metrics.bootstrap import Measure, Numbers
from s2s.search.hypotheses import Hypothesis

Plain = dict[str, Any]
"""Values for the report's JSON file by their keys."""


class Recovery(NamedTuple):
    """The cost after corrupted prefixes of N sentences, as ``s2s.diagnose.recovery`` measures it."""

    corruptions: tuple[str, ...]
    prefixes: tuple[int, ...]  # numbers k of corrupted tokens
    deltas: Numbers  # [corruptions, prefixes, N, distances], nats; NaN where there is no such token or corruption
    clean: Numbers  # [N, 2]: nats of the gold target after gold prefixes, and the number of its tokens
    damaged: Integers  # [corruptions, prefixes, N, longest]: ids of the corrupted prefixes, filled with NO_TOKEN


class Divergences(NamedTuple):
    """KL(oracle || model) in nats at each token of N texts of the model, and of the data's for the same sources.

    Rows are filled with NaN; ``sources`` [N] are the numbers of the sources, which may have several texts.
    """

    rollouts: Numbers  # [N, longest]
    data: Numbers  # [N, longest]
    sources: Integers


class Measurements(NamedTuple):
    """The results of the passes over one run; lists have an entry for each of N examples."""

    name: str  # of the run: its folder
    seen: frozenset[str]  # corruptions that resemble what it was trained on
    decode: Callable[[Sequence[int]], str]  # ids to text
    source_ids: list[list[int]]
    sources: list[str]
    references: list[str]  # gold targets as the run's vocabulary spells them
    hypotheses: list[str]  # its greedy texts
    forced: list[Trace]  # of gold targets
    free: list[Trace]  # of its greedy texts
    free_texts: list[GreedyText]
    correct: list[Marks]  # which tokens of ``free`` are aligned with an equal one of gold
    edits: Numbers  # [N, 4]: the numbers of edits between greedy and gold text, by ``s2s.diagnose.gap.KINDS``
    recovery: Recovery
    margins: Numbers
    beams: dict[int, list[Hypothesis]]  # by beam width: the best text of the first examples, and its sum of log-probs
    beam_texts: dict[int, list[str]]
    perturbed: list[str]  # its greedy texts for perturbed sources
    perturbed_sources: list[str]
    divergences: Divergences | None  # from the oracle, where there is one
    truth: str | None  # the oracle in words
    exact: bool  # whether the oracle is the true distribution
    max_length: int  # of the run's own search


class Quantity(NamedTuple):
    """A number of a run that a diagnosis reports, with an interval over sentences, and compares among methods.

    ``value`` of the statistics' sum over sentences is the number, so one bootstrap serves means, slopes and ratios.
    """

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    statistics: Callable[[Measurements], Numbers]  # [N, F]: sums of each sentence
    value: Measure  # sums [..., F] to the number [...]
