"""A task whose true conditional distribution is known: a hidden Markov chain turns letters into words.

A pointer moves over the letters of the source. In mode z it writes letter i as word i + z, or with a small probability
any word; then the mode may change, and the pointer moves on or stays. A word therefore shows mode and pointer only with
some probability, and the next word depends on the whole prefix. Rabiner's forward recursion ("A Tutorial on Hidden
Markov Models", 1989, section III A) gives its probability exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from s2s.data.settings import LETTERS, TaskSettings

Numbers = NDArray[np.float64]


@dataclass
class Transduction(TaskSettings):
    """The chain with these settings. Letters are ``a b c`` ..., words ``A B C`` ..., separated by blanks in a text."""

    @property
    def words(self) -> list[str]:
        """The words of targets."""
        return list(LETTERS[: self.letters].upper())

    def pairs(self, size: int, seed: int = 0) -> list[tuple[str, str]]:
        """Draw ``size`` pairs: a source of ``shortest`` to ``longest`` letters, and a target from the chain."""
        random = Random(seed)
        lengths = (random.randint(self.shortest, self.longest) for _ in range(size))
        sources = [random.choices(LETTERS[: self.letters], k=length) for length in lengths]
        return [(" ".join(source), " ".join(self.sample(source, random))) for source in sources]

    def sample(self, source: Sequence[str], random: Random) -> list[str]:
        """Draw the words of a target for the letters of a source."""
        words, mode, pointer = self.words, random.randrange(self.modes), 0
        target = []
        while pointer < len(source):
            word = (LETTERS.index(source[pointer]) + mode) % self.letters
            target.append(words[random.randrange(self.letters) if random.random() < self.noise else word])
            if self.modes > 1 and random.random() < self.switch:
                mode = (mode + random.randrange(1, self.modes)) % self.modes
            pointer += random.random() >= self.stay
        return target

    def log_probs(self, source: Sequence[str], prefix: Sequence[str]) -> Numbers:
        """Return log-probabilities [letters + 1] of each word, and last of the end, after a source and a prefix."""
        last: Numbers = self.along(source, prefix)[-1]
        return last

    def along(self, source: Sequence[str], target: Sequence[str]) -> Numbers:
        """Return the same after every prefix of a target, [words + 1, letters + 1].

        A word that the task does not have leaves the belief about the chain's state as it is. Raises ``ValueError``
        for a source without letters or with others.
        """
        emissions, numbers = self._emissions(source), {word: number for number, word in enumerate(self.words)}
        belief, over = np.zeros((len(source), self.modes)), 0.0
        belief[0] = 1 / self.modes
        rows = []
        for word in [*target, None]:
            chances = np.append(np.einsum("iz,izw->w", belief, emissions), over)
            # log(0) is meant: the end cannot come before the pointer has left the last letter.
            with np.errstate(divide="ignore"):
                rows.append(np.log(chances))
            posterior = belief * emissions[:, :, numbers[word]] if word in numbers else belief
            belief, over = self._move(posterior / posterior.sum())
        return np.stack(rows)

    def _emissions(self, source: Sequence[str]) -> Numbers:
        """Return the probability of each word at each letter in each mode, [S, modes, letters]."""
        letters = LETTERS[: self.letters]
        if not source or not all(letter in letters and len(letter) == 1 for letter in source):
            raise ValueError(f"a source is at least one letter of {letters}, not {list(source)}")
        numbers = np.array([letters.index(letter) for letter in source])[:, None] + np.arange(self.modes)
        sure = np.eye(self.letters)[numbers % self.letters]
        chances: Numbers = self.noise / self.letters + (1 - self.noise) * sure
        return chances

    def _move(self, belief: Numbers) -> tuple[Numbers, float]:
        """Return the belief [S, modes] after a word, and the probability that the pointer is past the last letter."""
        if self.modes > 1:
            others = (belief.sum(axis=1, keepdims=True) - belief) / (self.modes - 1)
            belief = (1 - self.switch) * belief + self.switch * others
        moved = self.stay * belief
        moved[1:] += (1 - self.stay) * belief[:-1]
        return moved, float((1 - self.stay) * belief[-1].sum())
