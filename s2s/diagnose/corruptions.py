"""Ways in which a prefix can be wrong: each corruption changes the first tokens of a gold target.

A corruption returns the tokens that replace the prefix, or None where it has no way to change it. Positions and new
tokens are drawn from (seed, example, corruption, length) alone, so all runs are measured on the same wrong prefixes.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from s2s.mitigations.base import Mitigation
from s2s.randomness import seed_of

Ids = list[int]
RATE = 0.3
"""The probability with which each token is replaced. One more token is drawn that is replaced in any case."""


class Prefix(NamedTuple):
    """The first ``length`` tokens of a target, and the tokens that corruptions may replace them with."""

    target: Sequence[int]  # the whole target, without its end
    length: int
    other: Sequence[int]  # another sentence's target, without its end; empty where no other one fits
    greedy: Sequence[int]  # at each position the model's likeliest plain token, given the gold tokens before it
    plain: Sequence[int]  # all ids that can occur in texts

    @property
    def tokens(self) -> Ids:
        """The gold tokens of the prefix."""
        return list(self.target[: self.length])


Corruption = Callable[[Prefix, Random], Ids | None]


def replace_from_target(prefix: Prefix, random: Random) -> Ids | None:
    """Replace tokens at ``RATE`` by others of the same target: right words in the wrong position."""
    return _replaced(prefix.tokens, sorted(set(prefix.target)), random)


def replace_from_vocabulary(prefix: Prefix, random: Random) -> Ids | None:
    """Replace tokens at ``RATE`` by others of the vocabulary."""
    return _replaced(prefix.tokens, prefix.plain, random)


def swap(prefix: Prefix, random: Random) -> Ids | None:
    """Exchange two neighbouring tokens that differ."""
    tokens = prefix.tokens
    positions = [index for index in range(len(tokens) - 1) if tokens[index] != tokens[index + 1]]
    if not positions:
        return None
    first = random.choice(positions)
    return [*tokens[:first], tokens[first + 1], tokens[first], *tokens[first + 2 :]]


def drop(prefix: Prefix, random: Random) -> Ids | None:
    """Leave out one token; all tokens after it move one position to the left."""
    dropped = random.randrange(prefix.length)
    return [*prefix.tokens[:dropped], *prefix.tokens[dropped + 1 :]]


def duplicate(prefix: Prefix, random: Random) -> Ids | None:
    """Repeat one token; all tokens after it move one position to the right."""
    doubled = random.randrange(prefix.length)
    return [*prefix.tokens[: doubled + 1], *prefix.tokens[doubled:]]


def distract(prefix: Prefix, random: Random) -> Ids | None:  # noqa: ARG001
    """Take the first tokens of another sentence's target, equally long."""
    tokens = list(prefix.other[: prefix.length])
    return tokens if len(tokens) == prefix.length and tokens != prefix.tokens else None


def own_errors(prefix: Prefix, random: Random) -> Ids | None:  # noqa: ARG001
    """Take the model's likeliest token at every position, right or wrong."""
    tokens = list(prefix.greedy[: prefix.length])
    return tokens if tokens != prefix.tokens else None


CORRUPTIONS: dict[str, Corruption] = {
    "replace_from_target": replace_from_target,
    "replace_from_vocabulary": replace_from_vocabulary,
    "swap": swap,
    "drop": drop,
    "duplicate": duplicate,
    "distract": distract,
    "own_errors": own_errors,
}


def corrupt(name: str, prefix: Prefix, seed: int, example: int) -> Ids | None:
    """Apply a row of ``CORRUPTIONS`` to a prefix of the example with this number."""
    return CORRUPTIONS[name](prefix, Random(seed_of(seed, "corruption", example, name, prefix.length)))


def other_target(targets: Sequence[Sequence[int]], example: int, length: int, seed: int) -> Sequence[int]:
    """Return another target of at least ``length`` tokens that begins differently; empty where there is none."""
    start = Random(seed_of(seed, "distractor", example, length)).randrange(len(targets))
    gold = list(targets[example][:length])
    for step in range(len(targets)):
        other = targets[(start + step) % len(targets)]
        if len(other) >= length and list(other[:length]) != gold:
            return other
    return ()


def seen(mitigations: Sequence[Mitigation]) -> frozenset[str]:
    """Return the corruptions that resemble what a run with these methods was trained on; all others are held out."""
    return frozenset(name for method in mitigations if method.weight for name in method.teaches())


def _replaced(tokens: Ids, pool: Sequence[int], random: Random) -> Ids | None:
    positions = [index for index, token in enumerate(tokens) if any(other != token for other in pool)]
    if not positions:
        return None
    # At RATE alone a short prefix would often stay gold, and its damage of 0 would dilute the mean.
    sure = random.choice(positions)
    hit = [index for index in positions if random.random() < RATE or index == sure]
    return [_another(token, pool, random) if index in hit else token for index, token in enumerate(tokens)]


def _another(token: int, pool: Sequence[int], random: Random) -> int:
    """Draw from the pool until the draw differs from the token; the pool is known to have another one."""
    while (drawn := random.choice(pool)) == token:
        pass
    return drawn
