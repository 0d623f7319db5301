"""Beam search against brute force and against an independent search of one source that never stops early."""

import math
import random
from collections.abc import Callable
from itertools import accumulate, product
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2s.search import beam_search

Prefix = tuple[int, ...]
Found = list[tuple[list[int], float]]
BEGIN = 5
REFUSED = [(0, 9, "got 0"), (2, 9, "2, got 3"), (3, [1, 2, 3], "3 .* 2"), (3, [1, -2], "got -2"), (3, 9, "2, source 1")]


def logarithms(*weights: float) -> list[float]:
    return [math.log(weight / sum(weights)) if weight else -math.inf for weight in weights]


class PrefixScorer:
    """Looks rows up in a table by source and whole prefix, which are its state, and remembers those of every step."""

    def __init__(self, table: Callable[[int, Prefix], list[float]], names: list[int], end: int = 0) -> None:
        self.table, self.names, self.sources, self.begin, self.end = table, names, len(names), BEGIN, end
        self.dtype, self.seen = torch.float64, list[list[tuple[int, Prefix]]]()

    def start(self) -> Tensor:
        return torch.arange(self.sources)[:, None]

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, tokens[:, None]], dim=1)
        assert (state[:, 1] == BEGIN).all()
        self.seen.append([(source, tuple(prefix)) for source, _, *prefix in state.tolist()])
        return torch.tensor([self.table(self.names[row], key) for row, key in self.seen[-1]], dtype=self.dtype), state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


class RecurrentScorer(PrefixScorer):
    """A random recurrent network, whose state is its hidden vectors."""

    weights = torch.arange(144.0).double().sin().view(4, 6, 6).to("cuda" if torch.cuda.is_available() else "cpu")

    def start(self) -> Tensor:
        return self.weights[0, self.names]

    @torch.inference_mode()
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.weights[1, tokens.to(state.device)] + state @ self.weights[2])
        return (state @ self.weights[3]).log_softmax(dim=1), state


class Case(NamedTuple):
    """A search of up to four sources, each with its own distributions."""

    seed: int
    vocabulary: int
    end: int
    beams: int
    n_best: int
    penalty: float
    longest: list[int]
    shortest: list[int]

    def table(self, row: int, prefix: Prefix) -> list[float]:
        # Only where some tokens are near certain, and some impossible, can a hypothesis come from behind late.
        chance, power = random.Random(repr((self.seed, row, prefix))), 1 + self.seed % 11
        weights = [chance.random() ** power for _ in range(self.vocabulary)]
        return logarithms(*(weight * (chance.random() > self.seed % 4 / 8) for weight in weights))

    def allowed(self, row: int, prefix: Prefix) -> list[float]:
        """The log-probabilities with the end, where it may not come yet, made impossible."""
        forbidden = self.end if len(prefix) < self.shortest[row] else None
        return [-math.inf if token == forbidden else more for token, more in enumerate(self.table(row, prefix))]

    def is_final(self, row: int, prefix: Prefix) -> bool:
        return len(prefix) == self.longest[row] or self.end in prefix

    def ranked(self, sums: dict[Prefix, float]) -> Found:
        """The best of finished hypotheses that are given with their ends."""
        scores = {key: total / max(len(key), 1) ** self.penalty for key, total in sums.items() if total > -math.inf}
        best = sorted(scores, key=lambda key: -scores[key])[: self.n_best]
        return [([token for token in key if token != self.end], scores[key]) for key in best]

    def search(self) -> tuple[list[Found], list[list[tuple[int, Prefix]]]]:
        """What beam search finds, and the rows that its scorer saw at each step."""
        scorer = PrefixScorer(self.table, list(range(len(self.longest))), self.end)
        return beam_search(scorer, self.beams, self.longest, self.n_best, self.penalty, self.shortest), scorer.seen


@st.composite
def cases(draw: st.DrawFn, beams: int = 0, longest: int = 10) -> Case:
    # Everything comes from one seed: of its own accord hypothesis would prefer cases too small to be wrong about.
    chance = random.Random(seed := draw(st.integers(0, 2**32)))
    width, vocabulary, sources = beams or chance.randint(1, 6), chance.randint(1, 4), chance.randint(0, 4)
    lengths = [[chance.randint(0, most) for _ in range(sources)] for most in (longest, 3)]
    n_best, penalty = chance.randint(1, chance.randint(1, width)), chance.uniform(-1, 2)
    return Case(seed, vocabulary, chance.randrange(vocabulary), width, n_best, penalty, *lengths)


def naive(case: Case, row: int) -> tuple[Found, list[set[Prefix]]]:
    """Search one source to the very end: the best hypotheses, and those that were live before each step."""
    live: dict[Prefix, float] = {(): 0.0}
    finished, trace = ({} if case.longest[row] else dict(live)), [set(live)]
    for _ in range(case.longest[row]):
        grown = {(*key, token): live[key] + more for key in live for token, more in enumerate(case.allowed(row, key))}
        best = sorted((key for key in grown if grown[key] > -math.inf), key=lambda key: -grown[key])[: case.beams]
        finished |= {key: grown[key] for key in best if case.is_final(row, key)}
        live = {key: grown[key] for key in best if not case.is_final(row, key)}
        trace.append(set(live))
    return case.ranked(finished), trace


def enumerated(case: Case, row: int) -> Found:
    """The best of all hypotheses there are."""
    keys = [key for length in range(case.longest[row] + 1) for key in product(range(case.vocabulary), repeat=length)]
    whole = [key for key in keys if case.is_final(row, key) and case.end not in key[:-1]]
    steps = {key: [case.allowed(row, key[:place])[token] for place, token in enumerate(key)] for key in whole}
    return case.ranked({key: list(accumulate(steps[key], initial=0.0))[-1] for key in whole})


@pytest.mark.parametrize(("beams", "best", "chance"), [(1, [1, 2], 0.33), (2, [3, 4], 0.36)])
def test_a_second_beam_mends_what_greedy_decoding_misses(beams: int, best: list[int], chance: float) -> None:
    weights = {(): [0, 0.6, 0, 0.4, 0], (1,): [0, 0, 0.55, 0, 0.45], (3,): [0, 0, 0.1, 0, 0.9]}
    scorer = PrefixScorer(lambda _, prefix: logarithms(*weights.get(prefix, [1, 0, 0, 0, 0])), [0, 0])
    assert beam_search(scorer, beams, max_length=[2, 5]) == [[(best, pytest.approx(math.log(chance)))]] * 2


@given(cases(beams=81, longest=3))
@settings(deadline=None)
def test_a_beam_as_wide_as_the_space_is_exhaustive(case: Case) -> None:
    assert case.search()[0] == [enumerated(case, row) for row in range(len(case.longest))]


@pytest.mark.slow
@given(cases())
@settings(deadline=None, max_examples=800)
def test_sources_are_searched_together_as_if_alone_and_to_the_end(case: Case) -> None:
    (found, seen), wanted = case.search(), [naive(case, row) for row in range(len(case.longest))]
    assert found == [best for best, _ in wanted]
    assert all(len({tuple(tokens) for tokens, _ in each}) == len(each) for each in found)
    # The scorer sees whole beams of live hypotheses: the sources in order, each with as many rows.
    for step, rows in enumerate(seen):
        sources = sorted({source for source, _ in rows})
        assert [source for source, _ in rows] == sorted(sources * (case.beams if step else 1))
        assert all({key for row, key in rows if row == source} == wanted[source][1][step] for source in sources)


@given(cases(beams=1))
@settings(deadline=None)
def test_one_beam_takes_the_likeliest_token_each_time(case: Case) -> None:
    for row, found in enumerate(case.search()[0]):
        key: Prefix = ()
        while not case.is_final(row, key) and max(case.allowed(row, key)) > -math.inf:
            key = (*key, max(range(case.vocabulary), key=case.allowed(row, key).__getitem__))
        wanted = case.ranked({key: 0.0}) if case.is_final(row, key) else []
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]


# The live sum after k steps is k log(1 - end). At penalty 1 it may yet be divided by 10, at -1 multiplied by k + 1.
@pytest.mark.parametrize(("end", "penalty", "steps"), [(0.6, 0, 1), (0.6, 1, 6), (0.15, -1, 3), (0.2, -1, 3)])
def test_a_source_is_left_once_nothing_better_can_come(end: float, penalty: float, steps: int) -> None:
    scorer = PrefixScorer(lambda name, _: logarithms(end, 1 - end) if name else logarithms(0, 1), [0, 1])
    beam_search(scorer, beams=2, max_length=10, length_penalty=penalty)
    assert [{source for source, _ in rows} for rows in scorer.seen] == [{0, 1}] * steps + [{0}] * (10 - steps)


@pytest.mark.parametrize(("names", "beams"), [([0, 1, 2], 1), ([0, 1, 2], 4), ([2, 0, 1], 4), ([1], 8)])
def test_a_state_that_is_reordered_equals_one_computed_afresh(names: list[int], beams: int) -> None:
    def afresh(name: int, prefix: Prefix) -> list[float]:
        state = network.weights[0, [name]]
        for token in (BEGIN, *prefix):
            log_probs, state = network.step(torch.tensor([token]), state)
        return log_probs[0].tolist()

    network = RecurrentScorer(afresh, names)
    for name, [(tokens, score)] in zip(names, beam_search(network, beams, 9, 1, 0.7, 2), strict=True):
        assert beam_search(PrefixScorer(afresh, [name]), beams, 9, 1, 0.7, 2) == [[(tokens, pytest.approx(score))]]


def test_sums_of_half_precision_are_kept_in_single() -> None:
    scorer = PrefixScorer(lambda *_: logarithms(0, 1, 2), [0])
    scorer.dtype = torch.bfloat16
    [[(_, score)]] = beam_search(scorer, 1, 300)
    assert score == pytest.approx(300 * torch.tensor(2 / 3).log().bfloat16().item(), rel=1e-5)


@pytest.mark.parametrize(("beams", "lengths", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(beams: int, lengths: int | list[int], message: str) -> None:
    scorer = PrefixScorer(lambda name, prefix: [-9.0, math.nan if name and prefix else -0.1], [0, 1])
    with pytest.raises(ValueError, match=message):
        beam_search(scorer, beams, lengths, n_best=3)
