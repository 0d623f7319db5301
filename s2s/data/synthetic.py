"""A task whose true conditional distribution is known: letters are turned into words by a hidden Markov chain.

A pointer goes over the letters of the source. In mode z it writes letter i as word i + z, or by chance any word; then
the mode may change, and the pointer moves on or stays. A word so tells of mode and pointer only by chance, and what
comes next depends on the whole prefix. Rabiner's forward recursion ("A Tutorial on Hidden Markov Models", 1989,
section III A) gives its probability exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from s2s.errors import UserError

Numbers = NDArray[np.float64]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Transduction:
    """The chain's chances; letters are ``a b c`` ..., words ``A B C`` ..., with blanks between them in a text."""

    letters: int = 8
    modes: int = 2
    noise: float = 0.05  # that a word is any word, all alike
    switch: float = 0.1  # that the mode changes behind a word, to any other one
    stay: float = 0.1  # that the pointer stays behind a word

    def __post_init__(self) -> None:
        if not 2 <= self.letters <= len(LETTERS):
            raise UserError(f"letters: {self.letters} is not in 2 .. {len(LETTERS)}")
        if not 1 <= self.modes <= self.letters:
            raise UserError(f"modes: {self.modes} is not in 1 .. letters ({self.letters})")
        for name in ("noise", "switch", "stay"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not between 0 and 1; every prefix must be possible")

    @property
    def words(self) -> list[str]:
        """The words that targets are made of."""
        return list(LETTERS[: self.letters].upper())

    def pairs(self, size: int, shortest: int = 5, longest: int = 20, seed: int = 0) -> list[tuple[str, str]]:
        """Texts of sources with so many letters, and a target of each, drawn from the chain."""
        random = Random(seed)
        sources = [random.choices(LETTERS[: self.letters], k=random.randint(shortest, longest)) for _ in range(size)]
        return [(" ".join(source), " ".join(self.sample(source, random))) for source in sources]

    def sample(self, source: Sequence[str], random: Random) -> list[str]:
        """The words of a target for letters."""
        words, mode, place = self.words, random.randrange(self.modes), 0
        target = []
        while place < len(source):
            word = (LETTERS.index(source[place]) + mode) % self.letters
            target.append(words[random.randrange(self.letters) if random.random() < self.noise else word])
            if self.modes > 1 and random.random() < self.switch:
                mode = (mode + random.randrange(1, self.modes)) % self.modes
            place += random.random() >= self.stay
        return target

    def log_probs(self, source: Sequence[str], prefix: Sequence[str]) -> Numbers:
        """Log-probabilities [letters + 1] of each word, and last of the end, behind a source and a prefix of words."""
        last: Numbers = self.along(source, prefix)[-1]
        return last

    def along(self, source: Sequence[str], target: Sequence[str]) -> Numbers:
        """The same behind every prefix of a target, [words + 1, letters + 1], in one go.

        A word that the task does not have tells nothing of where the chain stands. Raises ``ValueError`` for a source
        without letters or with others.
        """
        emissions, known = self._emissions(source), {word: number for number, word in enumerate(self.words)}
        belief, over = np.zeros((len(source), self.modes)), 0.0
        belief[0] = 1 / self.modes
        rows = []
        for word in [*target, None]:
            chances = np.append(np.einsum("iz,izw->w", belief, emissions), over)
            with np.errstate(divide="ignore"):
                rows.append(np.log(chances))
            told = belief * emissions[:, :, known[word]] if word in known else belief
            belief, over = self._move(told / told.sum())
        return np.stack(rows)

    def _emissions(self, source: Sequence[str]) -> Numbers:
        """The chance of each word at each letter in each mode, [S, modes, letters]."""
        letters = LETTERS[: self.letters]
        if not source or not all(letter in letters and len(letter) == 1 for letter in source):
            raise ValueError(f"a source is at least one letter of {letters}, not {list(source)}")
        places = np.array([letters.index(letter) for letter in source])[:, None] + np.arange(self.modes)
        sure = np.eye(self.letters)[places % self.letters]
        chances: Numbers = self.noise / self.letters + (1 - self.noise) * sure
        return chances

    def _move(self, belief: Numbers) -> tuple[Numbers, float]:
        """The belief [S, modes] behind a word, and the chance that the pointer is past the last letter."""
        if self.modes > 1:
            others = (belief.sum(axis=1, keepdims=True) - belief) / (self.modes - 1)
            belief = (1 - self.switch) * belief + self.switch * others
        moved = self.stay * belief
        moved[1:] += (1 - self.stay) * belief[:-1]
        return moved, float((1 - self.stay) * belief[-1].sum())
