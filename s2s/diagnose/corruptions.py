"""What may have gone wrong in a prefix: corruptions of the first tokens of a target, the same for an example each time.

A corruption gives other tokens in the prefix's place, or None where it has no way to change it. Which places and
tokens it takes is drawn from (seed, example, corruption, length) alone.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from s2s.mitigations.base import Mitigation
from s2s.mitigations.consistency import NoiseConsistency
from s2s.mitigations.minimum_risk import Sampled
from s2s.mitigations.prefix_noise import DuplicateNoise, Noise, RandomReplacement, ShiftNoise, SwapNoise
from s2s.mitigations.raml import RewardAugmented
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.randomness import seed_of

Ids = list[int]
RATE = 0.3
"""The probability that a token is replaced; one is replaced in any case."""


class Prefix(NamedTuple):
    """The first ``length`` tokens of a target, and what corruptions may put in their place."""

    target: Sequence[int]  # the whole target, without its end
    length: int
    other: Sequence[int]  # another sentence's target, without its end; empty where there is none
    greedy: Sequence[int]  # the model's likeliest plain token for each place, given the gold tokens before it
    plain: Sequence[int]  # the ids that texts are made of

    @property
    def tokens(self) -> Ids:
        """The gold tokens of the prefix."""
        return list(self.target[: self.length])


Corruption = Callable[[Prefix, Random], Ids | None]


def replace_from_target(prefix: Prefix, random: Random) -> Ids | None:
    """Each token becomes another of the same target at ``RATE``: right words in the wrong place."""
    return _replaced(prefix.tokens, sorted(set(prefix.target)), random)


def replace_from_vocabulary(prefix: Prefix, random: Random) -> Ids | None:
    """Each token becomes another of the vocabulary at ``RATE``."""
    return _replaced(prefix.tokens, prefix.plain, random)


def swap(prefix: Prefix, random: Random) -> Ids | None:
    """Two different neighbours change places."""
    tokens = prefix.tokens
    places = [place for place in range(len(tokens) - 1) if tokens[place] != tokens[place + 1]]
    if not places:
        return None
    place = random.choice(places)
    return [*tokens[:place], tokens[place + 1], tokens[place], *tokens[place + 2 :]]


def drop(prefix: Prefix, random: Random) -> Ids | None:
    """One token is left out; all behind it come a place early."""
    place = random.randrange(prefix.length)
    return [*prefix.tokens[:place], *prefix.tokens[place + 1 :]]


def duplicate(prefix: Prefix, random: Random) -> Ids | None:
    """One token stands there twice; all behind it come a place late."""
    place = random.randrange(prefix.length)
    return [*prefix.tokens[: place + 1], *prefix.tokens[place:]]


def distract(prefix: Prefix, random: Random) -> Ids | None:  # noqa: ARG001
    """The first tokens of another sentence's target, as many."""
    found = list(prefix.other[: prefix.length])
    return found if len(found) == prefix.length and found != prefix.tokens else None


def own_errors(prefix: Prefix, random: Random) -> Ids | None:  # noqa: ARG001
    """The model's likeliest token at every place where it is not gold."""
    found = list(prefix.greedy[: prefix.length])
    return found if found != prefix.tokens else None


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
    """What a row of ``CORRUPTIONS`` makes of a prefix of the example of this number."""
    return CORRUPTIONS[name](prefix, Random(seed_of(seed, "corruption", example, name, prefix.length)))


def other_target(targets: Sequence[Sequence[int]], example: int, length: int, seed: int) -> Sequence[int]:
    """Another example's target of at least ``length`` tokens with another beginning; empty where there is none."""
    start = Random(seed_of(seed, "distractor", example, length)).randrange(len(targets))
    own = list(targets[example][:length])
    for step in range(len(targets)):
        other = targets[(start + step) % len(targets)]
        if len(other) >= length and list(other[:length]) != own:
            return other
    return ()


def seen(mitigations: Sequence[Mitigation]) -> set[str]:
    """The corruptions that are like what a run with these methods has trained on; all others are held out.

    A corruption counts as seen too where the run's noise has another rate or form; methods that read the model's own
    words, or train on its own texts, have seen its own errors.
    """
    return {name for method in mitigations for name in _taught(method)}


def _taught(method: Mitigation) -> set[str]:
    if not method.weight or (isinstance(method, Noise) and not (method.rate and method.gate)):
        return set()
    if isinstance(method, RandomReplacement):
        return _POOLS[method.pool]
    return {name for kind, name in _TAUGHT if isinstance(method, kind)}


_TAUGHT: list[tuple[type[Mitigation], str]] = [
    (DuplicateNoise, "duplicate"),
    (ShiftNoise, "drop"),
    (SwapNoise, "swap"),
    (RewardAugmented, "replace_from_vocabulary"),
    (NoiseConsistency, "replace_from_target"),
    (ScheduledSampling, "own_errors"),
    (Sampled, "own_errors"),
]
_POOLS = {
    "target": {"replace_from_target"},
    "sequence": {"replace_from_target"},
    "vocabulary": {"replace_from_vocabulary"},
    "unigram": {"replace_from_vocabulary"},
    "similar": {"replace_from_vocabulary"},
    "model_top_k": {"replace_from_vocabulary", "own_errors"},
}


def _replaced(tokens: Ids, pool: Sequence[int], random: Random) -> Ids | None:
    """Each token another one of the pool at ``RATE``, and one of those that can be replaced in any case."""
    places = [place for place, token in enumerate(tokens) if any(other != token for other in pool)]
    if not places:
        return None
    sure = random.choice(places)
    hit = [place for place in places if random.random() < RATE or place == sure]
    return [_another(token, pool, random) if place in hit else token for place, token in enumerate(tokens)]


def _another(token: int, pool: Sequence[int], random: Random) -> int:
    """Any of the pool but the token, which the pool is known to have."""
    while (found := random.choice(pool)) == token:
        pass
    return found
