"""Sums a sentence of what search makes of a run: quality by beam width, Su's gap, model errors."""

import numpy as np

from s2s.diagnose.measures import Measures
from s2s.diagnose.search_errors import Gold, gold_of, outcome
from s2s.metrics.bootstrap import Numbers
from s2s.metrics.sentence import sentence_metric


def golds(one: Measures) -> list[Gold]:
    """The gold targets of the examples that were searched."""
    return gold_of(one.forced[: len(next(iter(one.beams.values())))])


def qualities(one: Measures) -> Numbers:
    """ChrF [N, widths + 1] of each width's text, and 1."""
    chrf, texts = sentence_metric("chrf"), one.beam_texts
    columns = [[100 * chrf(*pair) for pair in zip(found, one.references, strict=False)] for found in texts.values()]
    return np.stack([*columns, np.ones(len(columns[0]))], axis=1)


def su_gap(one: Measures, beams: int) -> Numbers:
    """Statistics [N, 2] of Su's gap for ``mean``."""
    each = [outcome([gold], [[text]], one.max_length) for gold, text in zip(golds(one), one.beams[beams], strict=True)]
    return np.array([(np.nan_to_num(found.su_gap), found.locally_right) for found in each])


def model_errors(one: Measures, beams: int) -> Numbers:
    """Statistics [N, 2] of the share of texts that score more than gold."""
    each = [outcome([gold], [[text]], one.max_length) for gold, text in zip(golds(one), one.beams[beams], strict=True)]
    return np.array([(np.nan_to_num(found.model_errors), found.sentences) for found in each])
