"""Constraints that follow a hypothesis through an automaton: a tree of allowed outputs, phrases that must come."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Place = tuple[int, int]
"""The longest beginning of a phrase that the tokens so far end with, as a node; which phrases have come, as bits."""


class AllowedOutputs:
    """Only the given outputs, kept as a prefix tree (De Cao et al. 2021).

    A search's greatest length must be that of the longest output: at a smaller one a hypothesis may be its beginning.
    """

    def __init__(self, outputs: Sequence[Sequence[int]], end: int) -> None:
        self.root: dict[int, Any] = {}
        for output in outputs:
            node = self.root
            for token in (*output, end):
                node = node.setdefault(token, {})

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """-inf for all tokens that no output has next, which is all of them after what no output begins with."""
        allowed = torch.zeros_like(log_probs, dtype=torch.bool)
        for row, history in enumerate(histories.tolist()):
            allowed[row, sorted(self.following(history))] = True
        return log_probs.masked_fill(~allowed, -math.inf)

    def following(self, history: Sequence[int]) -> dict[int, Any]:
        """The node that a history leads to, its keys the tokens that may follow."""
        node = self.root
        for token in history:
            node = node.get(token, {})
        return node


class RequiredPhrases:
    """Each of some token sequences comes in every hypothesis, overlaps allowed; they are few, and have no end token.

    The least number of tokens that complete what is missing is known from an automaton over the phrases' beginnings
    (Aho and Corasick 1975) and the set of those that have come. A token after which it is more than there is room for
    is impossible, and so is the end before it is 0. A wide beam thus finds the best such hypothesis, a narrow one some
    such hypothesis: its phrases tend to come late, where they are forced.
    """

    def __init__(self, phrases: Sequence[Sequence[int]], end: int, max_length: int | Sequence[int]) -> None:
        self.phrases, self.end = [tuple(phrase) for phrase in phrases], end
        self.max_length = max_length
        beginnings = {phrase[:length] for phrase in self.phrases for length in range(len(phrase) + 1)} | {()}
        self.nodes = sorted(beginnings, key=lambda beginning: (len(beginning), beginning))
        self.numbers = {beginning: number for number, beginning in enumerate(self.nodes)}
        self.alphabet = sorted({token for phrase in self.phrases for token in phrase})
        if end in self.alphabet or () in self.phrases:
            raise ValueError("a required phrase has at least 1 token, and none of them is the end")
        self.missing = self._distances()

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """-inf for the tokens after which not all phrases can come, and for the end before all have."""
        allowed = torch.ones_like(log_probs, dtype=torch.bool)
        for row, (history, source) in enumerate(zip(histories.tolist(), sources.tolist(), strict=True)):
            longest = self.max_length if isinstance(self.max_length, int) else self.max_length[source]
            place, room = self.place(history), longest - len(history) - 1
            # All tokens that are in no phrase lead to the root.
            allowed[row] = self.missing[0, place[1]] <= room
            for token in self.alphabet:
                allowed[row, token] = self.missing[self.after(place, token)] <= room
            allowed[row, self.end] = self.missing[place] == 0
        return log_probs.masked_fill(~allowed, -math.inf)

    def place(self, history: Sequence[int]) -> Place:
        """Where a history leads."""
        place = (0, 0)
        for token in history:
            place = self.after(place, token)
        return place

    def after(self, place: Place, token: int) -> Place:
        """The place after one more token: the longest end of the tokens that begins a phrase."""
        tokens = (*self.nodes[place[0]], token)
        starts = range(len(tokens) + 1)
        longest = next(tokens[start:] for start in starts if tokens[start:] in self.numbers)
        come = (1 << bit for bit, phrase in enumerate(self.phrases) if tokens[-len(phrase) :] == phrase)
        return self.numbers[longest], place[1] | sum(come)

    def _distances(self) -> dict[Place, int]:
        """The least number of tokens from each place to one where all phrases have come, backwards in breadth."""
        every = [(node, came) for node in range(len(self.nodes)) for came in range(1 << len(self.phrases))]
        before: dict[Place, list[Place]] = {place: [] for place in every}
        for place in every:
            for token in self.alphabet:
                before[self.after(place, token)].append(place)
        found = {place: 0 for place in every if place[1] == (1 << len(self.phrases)) - 1}
        queue = deque(found)
        while queue:
            place = queue.popleft()
            for earlier in before[place]:
                if earlier not in found:
                    found[earlier] = found[place] + 1
                    queue.append(earlier)
        return found
