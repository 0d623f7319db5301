"""Texts that must or must not come in a hypothesis, however its tokens spell them.

An automaton over bytes (Aho and Corasick 1975) follows what a hypothesis spells, token by token.
"""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 10
"""Required texts: the table of what is missing doubles with each."""


class SpelledTexts:
    """Each required text comes in every hypothesis, overlaps allowed, and no forbidden one does.

    ``spelled`` [V] is what each token adds to a text. The least number of tokens that complete what is missing is
    known for each place of the automaton and each set of texts that have come. A token after which it is more than
    there is room for is impossible, and so is the end before it is 0; so the best such hypothesis is found by a beam
    that is wide enough, and some such hypothesis by any.
    """

    def __init__(
        self, required: Sequence[bytes], forbidden: Sequence[bytes], spelled: Sequence[bytes], end: int
    ) -> None:
        if not all([*required, *forbidden]) or len(required) > MOST:
            raise ValueError(f"texts have at least a byte, and at most {MOST} are required")
        self.end, self.every = end, (1 << len(required)) - 1
        step, marks = automaton([*required, *forbidden])
        self.following, found = by_token(step, marks, spelled)
        self.gained, self.banned = found & self.every, found > self.every
        self.banned[:, end] = False
        self.missing = self._missing()

    def least(self) -> float:
        """The fewest tokens that have all required texts; infinite where none can."""
        return float(self.missing[0, 0])

    def rule(self, longest: Sequence[int]) -> "TextRule":
        """The constraint for sources with so many tokens at most."""
        return TextRule(self, torch.tensor(longest, dtype=torch.int64))

    def places(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Where the rows' tokens [N, t] lead: a place and a set of required texts each, [N]."""
        places = sets = torch.zeros(len(histories), dtype=torch.int64)
        for tokens in histories.cpu().T:
            sets = sets | self.gained[places, tokens]
            places = self.following[places, tokens]
        return places, sets

    def _missing(self) -> Tensor:
        """The least number of tokens from each place and set to one where all have come, backwards in breadth."""
        before: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place in range(len(self.following)):
            kept = ~self.banned[place]
            pairs = torch.stack([self.following[place][kept], self.gained[place][kept]]).unique(dim=1).T.tolist()
            for come in range(self.every + 1):
                for after, gained in pairs:
                    before.setdefault((after, come | gained), []).append((place, come))
        distance = {(place, self.every): 0 for place in range(len(self.following))}
        queue = deque(distance)
        while queue:
            here = queue.popleft()
            for earlier in before.get(here, []):
                if earlier not in distance:
                    distance[earlier] = distance[here] + 1
                    queue.append(earlier)
        table = torch.full((len(self.following), self.every + 1), math.inf)
        for (place, come), least in distance.items():
            table[place, come] = least
        return table


class TextRule:
    """A ``Constraint``: spelled texts, with room for ``longest`` tokens in each source's hypotheses."""

    def __init__(self, texts: SpelledTexts, longest: Tensor) -> None:
        self.texts, self.longest = texts, longest

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """-inf for tokens that spell what is forbidden or leave too little room, and for the end before its time."""
        texts = self.texts
        places, come = texts.places(histories)
        room = self.longest[sources.cpu()] - histories.size(1) - 1
        needed = texts.missing[texts.following[places], come[:, None] | texts.gained[places]]
        forbidden = texts.banned[places] | (needed > room[:, None])
        forbidden[:, texts.end] = come != texts.every
        return log_probs.masked_fill(forbidden.to(log_probs.device), -math.inf)


def automaton(phrases: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """The place [P, 256] after each byte at each place, 0 being the first, and which phrases end there, as bits [P]."""
    children: list[dict[int, int]] = [{}]
    marks = [0]
    for bit, phrase in enumerate(phrases):
        place = 0
        for byte in phrase:
            if byte not in children[place]:
                children[place][byte] = len(children)
                children.append({})
                marks.append(0)
            place = children[place][byte]
        marks[place] |= 1 << bit
    step = torch.zeros(len(children), 256, dtype=torch.int64)
    queue = deque([(0, 0)])
    while queue:
        place, fallback = queue.popleft()
        marks[place] |= marks[fallback] if place else 0
        row = step[fallback].clone() if place else step[0].clone()
        for byte, child in children[place].items():
            queue.append((child, int(row[byte]) if place else 0))
            row[byte] = child
        step[place] = row
    return step, torch.tensor(marks)


def by_token(step: Tensor, marks: Tensor, spelled: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """The place [P, V] after all bytes of each token, and the phrases that end at any of them, as bits [P, V]."""
    width = max(map(len, spelled), default=0)
    table = torch.full((len(spelled), width), -1, dtype=torch.int64)
    for token, text in enumerate(spelled):
        table[token, : len(text)] = torch.tensor(list(text), dtype=torch.int64)
    places = torch.arange(len(step))[:, None].repeat(1, len(spelled))
    found = torch.zeros_like(places)
    for byte in table.T:
        real = byte >= 0
        places[:, real] = step[places[:, real], byte[real]]
        found[:, real] |= marks[places[:, real]]
    return places, found
