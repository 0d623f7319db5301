"""A search that looks at a few steps at a time finds what one finds that looks at each: any scorer, in any batch."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import Prefix, Table, TableScorer, random_table
from test_beam import Case, PrefixScorer, cases, enumerated, naive

from s2s.search import (
    AllowedOutputs,
    ConstrainedScorer,
    Ensemble,
    ForbiddenPhrases,
    ForcedPrefixes,
    MinimumLength,
    NoRepeatedNgram,
    PowerPenalty,
    RepetitionPenalty,
    RequiredPhrases,
    Scorer,
    TranslationPenalty,
    WordReward,
)
from s2s.search.beam import Rules, search
from s2s.search.hypotheses import Hypothesis, NotANumberError
from s2s.search.length_scores import STOPS, LengthScore

EVERY = (2, 3, 8, 99)
SCORES: dict[str, LengthScore] = {
    "power": PowerPenalty(0.8),
    "reversed power": PowerPenalty(-0.5),
    "translation": TranslationPenalty(0.6),
    "reward": WordReward(0.7),
    "of a user": lambda total, length: math.floor(8 * total / math.sqrt(length)) / 8,
}
"""The last one gives many equal scores, so that their order counts."""


def rules_of(case: Case, score: LengthScore | None = None, stop: str = "safe") -> Rules:
    score = PowerPenalty(case.penalty) if score is None else score
    return Rules(case.end, case.beams, case.n_best, score, case.longest, case.shortest, STOPS[stop])


def found(scorer: Scorer[object], rules: Rules, every: int) -> list[list[Hypothesis]]:
    return search(scorer, rules, look_every=every)


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY)
@given(cases())
@settings(deadline=None, max_examples=200)
def test_sources_are_searched_as_if_alone_and_to_the_end(every: int, case: Case) -> None:
    scorer = PrefixScorer(case.table, list(range(len(case.longest))), case.end)
    assert found(scorer, rules_of(case), every) == [naive(case, row)[0] for row in range(len(case.longest))]
    for step, rows in enumerate(scorer.seen):
        sources = sorted({source for source, _ in rows})
        assert [source for source, _ in rows] == sorted(sources * (case.beams if step else 1))
        # A model may have no positions for more tokens than a source's hypotheses may have.
        assert not step or all(step < case.longest[source] for source in sources)


@pytest.mark.parametrize("every", EVERY)
@given(cases(beams=81, longest=3))
@settings(deadline=None, max_examples=30)
def test_a_beam_as_wide_as_the_space_is_exhaustive(every: int, case: Case) -> None:
    scorer = PrefixScorer(case.table, list(range(len(case.longest))), case.end)
    assert found(scorer, rules_of(case), every) == [enumerated(case, row) for row in range(len(case.longest))]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("stop", STOPS)
@given(cases(), st.sampled_from(EVERY))
@settings(deadline=None, max_examples=25)
def test_each_stop_and_score_is_that_of_single_steps(score: str, stop: str, case: Case, every: int) -> None:
    rules, names = rules_of(case, SCORES[score], stop), list(range(len(case.longest)))
    single, several = (found(PrefixScorer(case.table, names, case.end), rules, each) for each in (1, every))
    assert several == single


def constrained(seed: int) -> tuple[ConstrainedScorer[object], list[int]]:
    """The mean of two scorers under a few of all constraints, and the greatest lengths of its sources."""
    chance = random.Random(seed)
    longest = [chance.randint(2, 7) for _ in range(3)]
    outputs = [[chance.randint(1, 4) for _ in range(chance.randint(0, 7))] for _ in range(40)]
    every = [
        NoRepeatedNgram(2),
        RepetitionPenalty(1.3),
        ForbiddenPhrases([[1, 2], [3, 3, 1], [4, 0]]),
        MinimumLength([chance.randint(0, length) for length in longest], 0),
        ForcedPrefixes([[1], [], [2, 3]]),
        RequiredPhrases([[1, 2], [3]], 0, longest),
        AllowedOutputs(outputs, 0),
    ]
    both = [TableScorer(random_table(seed + number, 5), range(3)) for number in range(2)]
    return ConstrainedScorer(Ensemble(both, [0.7, 0.3]), chance.sample(every, chance.randint(1, 4))), longest


@given(st.integers(0, 2**20), st.sampled_from(EVERY), st.sampled_from(list(STOPS)))
@settings(deadline=None, max_examples=80)
def test_constraints_and_ensembles_hold(seed: int, every: int, stop: str) -> None:
    results = []
    for each in (1, every):
        scorer, longest = constrained(seed)
        results.append(found(scorer, Rules(0, 4, 3, PowerPenalty(0.5), longest, [0, 1, 2], STOPS[stop]), each))
    assert results[1] == results[0]


def damaged(table: Table, bad: set[tuple[int, int]]) -> Table:
    """The table without a number for the sources that are bad, each from a step on."""

    def row(name: int, prefix: Prefix) -> list[float]:
        broken = any(name == source and len(prefix) >= step for source, step in bad)
        return [math.nan] * 5 if broken else table(name, prefix)

    return row


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("every", [1, *EVERY])
def test_the_first_number_that_is_none_is_named(every: int, beams: int) -> None:
    table = damaged(random_table(0, 5, impossible=0.0), {(1, 3), (2, 2)})
    never = Rules(0, beams, 1, PowerPenalty(0.0), [6, 6, 6], [6, 6, 6], STOPS["never"])
    with pytest.raises(NotANumberError, match="at step 3, source 2"):
        found(TableScorer(table, range(3)), never, every)


@pytest.mark.parametrize("early", [False, True])
def test_an_end_that_is_no_number_is_one_even_where_it_may_not_come(early: bool) -> None:
    scorer = PrefixScorer(lambda _, prefix: [math.nan if prefix else -1.0, -2.0, -3.0], [0])
    with pytest.raises(NotANumberError, match="at step 2, source 0"):
        found(scorer, Rules(0, 2, 1, PowerPenalty(0.0), [5], [4 * early], STOPS["never"]), 3)


@pytest.mark.parametrize("every", [1, *EVERY])
def test_a_source_that_has_stopped_may_be_damaged(every: int) -> None:
    def table(name: int, prefix: Prefix) -> list[float]:
        if name:
            return [-9.0, -0.1, -0.2]
        return [math.nan] * 3 if prefix else [-0.1, -5.0, -6.0]

    [[ended], [full]] = found(
        PrefixScorer(table, [0, 1]), Rules(0, 2, 1, PowerPenalty(0.0), [9, 9], [0, 0], STOPS["safe"]), every
    )
    assert (ended[0], len(full[0])) == ([], 9)
