"""Scorers that look distributions up by source and whole prefix, and searches over them by enumeration."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

Prefix = tuple[int, ...]
Table = Callable[[int, Prefix], list[float]]
BEGIN = 7


def random_table(seed: int, vocabulary: int, impossible: float = 0.2, power: int = 3) -> Table:
    """Log-probabilities that are functions of their place; some tokens but the first are impossible."""

    @cache
    def table(name: int, prefix: Prefix) -> list[float]:
        chance = random.Random(repr((seed, name, prefix)))
        weights = [chance.random() ** power + 1e-3 for _ in range(vocabulary)]
        weights = [weight * (not token or chance.random() > impossible) for token, weight in enumerate(weights)]
        return [math.log(weight / sum(weights)) if weight else -math.inf for weight in weights]

    return table


class TableScorer:
    """The rows' prefixes are its state; it checks that the sources stand together, in order, with as many rows each."""

    def __init__(self, table: Table, names: Sequence[int], end: int = 0) -> None:
        self.table, self.names, self.sources, self.begin, self.end = table, list(names), len(names), BEGIN, end
        self.steps = list[list[int]]()

    def start(self) -> Tensor:
        return torch.arange(self.sources)[:, None]

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, tokens[:, None]], dim=1)
        assert (state[:, 1] == BEGIN).all()
        owners = state[:, 0].tolist()
        assert len({owners.count(owner) for owner in owners}) == 1
        assert owners == sorted(owners)
        self.steps.append(sorted(set(owners)))
        rows = [self.table(self.names[row], tuple(prefix)) for row, _, *prefix in state.tolist()]
        return torch.tensor(rows, dtype=torch.float64), state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


def outputs(vocabulary: int, longest: int, end: int = 0) -> Iterator[Prefix]:
    """All finished outputs, ended or of the greatest length."""
    others = [token for token in range(vocabulary) if token != end]
    for length in range(longest):
        yield from ((*tokens, end) for tokens in product(others, repeat=length))
    yield from product(others, repeat=longest)


def total_of(table: Table, name: int, output: Prefix) -> float:
    return sum(table(name, output[:place])[token] for place, token in enumerate(output))


def enumerated(table: Table, name: int, vocabulary: int, longest: int) -> list[tuple[list[int], float]]:
    """All outputs that are possible, best first, without ends."""
    totals = [(output, total_of(table, name, output)) for output in outputs(vocabulary, longest)]
    possible = [([token for token in output if token], total) for output, total in totals if total > -math.inf]
    return sorted(possible, key=lambda hypothesis: -hypothesis[1])
