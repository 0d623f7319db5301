"""Texts that must or must not come in a hypothesis, however its tokens spell them.

An automaton (Aho and Corasick 1975) follows what a hypothesis spells, token by token. It reads bytes and, before every
character that does not go on with the word of the one before it and at the end, a ``BOUNDARY``: a text that begins and
ends with a boundary comes as whole words only.
"""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.vocabulary.boundaries import begins_in_word, byte_in_word, characters

MOST = 10
"""Required texts: the table of what is missing doubles with each."""
BOUNDARY = 256
"""The symbol after the bytes: here no word goes on."""


def whole_words(text: bytes, at_start: bool = True, at_end: bool = True) -> list[int]:
    """Return the text as symbols, which no word may begin before (``at_start``) or go on after (``at_end``)."""
    return [*[BOUNDARY] * at_start, *text, *[BOUNDARY] * at_end]


class SpelledTexts:
    """Each required text comes in every hypothesis, overlaps allowed, and no forbidden one does.

    A text is a sequence of bytes, within words too, or what ``whole_words`` makes of one. ``spelled`` [V] is what each
    token adds to a text. The least number of tokens that complete what is missing is known for each place of the
    automaton and each set of texts that have come. A token after which it is more than there is room for is impossible,
    and so is the end before it is 0; so the best such hypothesis is found by a beam that is wide enough, and some such
    hypothesis by any.
    """

    def __init__(
        self, required: Sequence[Sequence[int]], forbidden: Sequence[Sequence[int]], spelled: Sequence[bytes], end: int
    ) -> None:
        texts = [[symbol for symbol in text if symbol != BOUNDARY] for text in (*required, *forbidden)]
        if not all(texts) or len(required) > MOST:
            raise ValueError(f"texts have at least a byte, and at most {MOST} are required")
        self.end, self.every = end, (1 << len(required)) - 1
        # All forbidden texts share one bit: which of them comes does not matter, and there may be many.
        bits = [*range(len(required)), *[len(required)] * len(forbidden)]
        step, marks = automaton([bounded(text) for text in (*required, *forbidden)], bits)
        self.following, found = reachable(*by_token(step, marks, spelled, end))
        self.gained, self.banned = found & self.every, found > self.every
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
        """The least number of tokens from each place and set to one where the text may end, backwards in breadth."""
        before: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place in range(len(self.following)):
            kept = ~self.banned[place]
            kept[self.end] = False
            # One number for each pair: torch.unique of pairs takes twenty times as long.
            pairs = (self.following[place][kept] * (self.every + 1) + self.gained[place][kept]).unique().tolist()
            for come in range(self.every + 1):
                for after, gained in (divmod(pair, self.every + 1) for pair in pairs):
                    before.setdefault((after, come | gained), []).append((place, come))
        ends = [
            (place, come)
            for place in range(len(self.following))
            for come in range(self.every + 1)
            if come | int(self.gained[place, self.end]) == self.every and not self.banned[place, self.end]
        ]
        distance = dict.fromkeys(ends, 0)
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
        forbidden[:, texts.end] = texts.missing[places, come] > 0
        return log_probs.masked_fill(forbidden.to(log_probs.device), -math.inf)


def bounded(text: Sequence[int]) -> list[int]:
    """The symbols of a text with a boundary between any two of its characters of which the second begins a word."""
    inner = bytes(symbol for symbol in text if symbol != BOUNDARY)
    symbols, _ = symbols_after(inner, in_word=False)
    return [*symbols[0 if text[0] == BOUNDARY or symbols[0] != BOUNDARY else 1 :], *[BOUNDARY] * (text[-1] == BOUNDARY)]


def symbols_after(spelled: bytes, in_word: bool) -> tuple[list[int], bool]:
    """The symbols that a token adds to a text that ends in a word or not, and whether it then ends in one."""
    symbols = list[int]()
    for character in characters(spelled):
        goes_on = byte_in_word(character)
        if not (in_word and goes_on) and character[0] & 0xC0 != 0x80:
            symbols.append(BOUNDARY)
        symbols.extend(character)
        in_word = goes_on if character[0] & 0xC0 != 0x80 else in_word
    return symbols, in_word


def automaton(phrases: Sequence[Sequence[int]], bits: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The place [P, 257] after each symbol at each place, 0 first, and the bits [P] of the phrases that end there."""
    children: list[dict[int, int]] = [{}]
    marks = [0]
    for bit, phrase in zip(bits, phrases, strict=True):
        place = 0
        for symbol in phrase:
            if symbol not in children[place]:
                children[place][symbol] = len(children)
                children.append({})
                marks.append(0)
            place = children[place][symbol]
        marks[place] |= 1 << bit
    step = torch.zeros(len(children), BOUNDARY + 1, dtype=torch.int64)
    queue = deque([(0, 0)])
    while queue:
        place, fallback = queue.popleft()
        marks[place] |= marks[fallback] if place else 0
        row = step[fallback].clone() if place else step[0].clone()
        for symbol, child in children[place].items():
            queue.append((child, int(row[symbol]) if place else 0))
            row[symbol] = child
        step[place] = row
    return step, torch.tensor(marks)


def by_token(step: Tensor, marks: Tensor, spelled: Sequence[bytes], end: int) -> tuple[Tensor, Tensor]:
    """The place after all symbols of each token, and the phrases that end at any of them, as bits: both [2 P, V].

    The places are those of the automaton twice, after what is in no word and then after what is in one.
    """
    rows = [[BOUNDARY] if token == end else symbols_after(text, in_word=False)[0] for token, text in enumerate(spelled)]
    halves = []
    for in_word in (False, True):
        words = torch.tensor([symbols_after(text[-8:], in_word)[1] for text in spelled])
        if in_word:  # only the boundary before a token's first character depends on what comes before the token
            rows = [
                row[1:] if begins_in_word(text) and row[0] == BOUNDARY else row
                for row, text in zip(rows, spelled, strict=True)
            ]
        places, found = _after(step, marks, rows)
        halves.append((places + len(step) * words, found))
    return torch.cat([places for places, _ in halves]), torch.cat([found for _, found in halves])


def _after(step: Tensor, marks: Tensor, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The place after each row of symbols from each place, and what ends on the way, as bits: both [P, rows]."""
    table = torch.full((len(rows), max(map(len, rows))), -1, dtype=torch.int64)
    for token, row in enumerate(rows):
        table[token, : len(row)] = torch.tensor(row, dtype=torch.int64)
    places = torch.arange(len(step))[:, None].repeat(1, len(rows))
    found = torch.zeros_like(places)
    for symbol in table.T:
        real = symbol >= 0
        places[:, real] = step[places[:, real], symbol[real]]
        found[:, real] |= marks[places[:, real]]
    return places, found


def reachable(following: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The tables' rows that texts can lead to, the start first, and their places renumbered."""
    order, seen = [0], {0}
    for place in order:  # grows as it goes
        for after in following[place].unique().tolist():
            if after not in seen:
                seen.add(after)
                order.append(after)
    numbers = torch.zeros(len(following), dtype=torch.int64)
    numbers[order] = torch.arange(len(order))
    return numbers[following[order]], found[order]
