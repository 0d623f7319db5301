"""Texts that must or must not come in a hypothesis, however its tokens spell them.

An automaton (Aho and Corasick 1975) follows what a hypothesis spells, token by token. It reads bytes and, before every
character that does not go on with the word of the one before it and at the end, a ``BOUNDARY``: a text that begins and
ends with a boundary comes as whole words only. Where a token ends within a character, the automaton keeps what its
first bytes can lead to until the last one decides whether a boundary comes before them.
"""

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.vocabulary.boundaries import bytes_in_word, cut, endings

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
        self.columns, self.following, found = Tables(step, marks, spelled, end).reachable()
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
            columns = self.columns[tokens]
            sets = sets | self.gained[places, columns]
            places = self.following[places, columns]
        return places, sets

    def _missing(self) -> Tensor:
        """The least number of tokens from each place and set to one where the text may end, backwards in breadth."""
        end, sets = self.columns[self.end], torch.arange(self.every + 1)
        kept = ~self.banned
        kept[:, end] = False
        # One number for each step: torch.unique of rows takes twenty times as long.
        base = (len(self.following), self.every + 1)
        codes = (torch.arange(base[0])[:, None] * base[0] + self.following) * base[1] + self.gained
        codes = codes[kept].unique()
        gained, before, after = codes % base[1], codes // (base[0] * base[1]), codes // base[1] % base[0]
        ended = ((sets | self.gained[:, end, None]) == self.every) & ~self.banned[:, end, None]
        table = torch.where(ended, 0.0, math.inf)
        for distance in range(1, base[0] * base[1]):
            known = table.isfinite()
            reached = torch.zeros_like(table)
            for some in torch.arange(len(codes)).split(1 + (1 << 22) // base[1]):
                leads = known[after[some, None], sets | gained[some, None]]
                reached.index_add_(0, before[some], leads.float())
            new = (reached > 0) & ~known
            if not bool(new.any()):
                break
            table[new] = distance
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
        forbidden = (texts.banned[places] | (needed > room[:, None]))[:, texts.columns]
        forbidden[:, texts.end] = texts.missing[places, come] > 0
        return log_probs.masked_fill(forbidden.to(log_probs.device), -math.inf)


def bounded(text: Sequence[int]) -> list[int]:
    """The symbols of a text with a boundary between any two of its characters of which the second begins a word."""
    inner = bytes(symbol for symbol in text if symbol != BOUNDARY)
    symbols = symbols_after(inner, Ending())[0]
    return [*symbols[0 if text[0] == BOUNDARY or symbols[0] != BOUNDARY else 1 :], *[BOUNDARY] * (text[-1] == BOUNDARY)]


class Ending(NamedTuple):
    """Whether a text's last whole character is of a word, and the bytes after it, of one that lacks its last."""

    in_word: bool = False
    begun: bytes = b""


@lru_cache(maxsize=1 << 16)  # those of tokens within characters are asked for at each place
def symbols_after(spelled: bytes, ending: Ending) -> tuple[list[int], Ending]:
    """The symbols that a token adds to a text with an ending, those of whole characters, and the new ending."""
    symbols, in_word = list[int](), ending.in_word
    whole, begun = cut(spelled, ending.begun)
    for character in whole:
        goes_on = bytes_in_word(character)
        symbols.extend(character if in_word and goes_on else (BOUNDARY, *character))
        in_word = goes_on
    return symbols, Ending(in_word, begun)


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


class Tables:
    """Where each token leads from each place of an automaton after each ending of a text.

    Tokens that lead to the same from everywhere share a column. Begun characters are the same where their bytes lead to
    the same, with a boundary before them and without, and the same last bytes make them go on with a word.
    """

    def __init__(self, step: Tensor, marks: Tensor, spelled: Sequence[bytes], end: int) -> None:
        self.step, self.marks = step.tolist(), marks.tolist()
        rows = [
            ([BOUNDARY], Ending()) if id == end else symbols_after(text, Ending()) for id, text in enumerate(spelled)
        ]
        begun = {ending.begun: None for _, ending in rows} | {b"": None}
        self.begun = [b"", *(each for each in begun if each)]
        numbers = {each: number for number, each in enumerate(self.begun)}
        halves = [self._half(step, marks, spelled, rows, in_word) for in_word in (False, True)]
        tails = torch.tensor([numbers[ending.begun] for _, ending in rows])
        # What begins within a character, or says nothing, goes on with a begun one. The end has a column of its own.
        self.within = list(dict.fromkeys(text for id, text in enumerate(spelled) if id != end and _is_within(text)))
        chance = torch.Generator().manual_seed(0)
        hashed = tails * _random(1, chance)
        for codes, found in halves:
            for each in (*codes, *found):
                hashed = hashed + each * _random(1, chance)
        alone = torch.tensor([id for id, text in enumerate(spelled) if id == end or _is_within(text)])
        own = {text: number for number, text in enumerate(self.within)}
        distinct, columns = hashed.unique(return_inverse=True)
        first = torch.zeros(len(distinct), dtype=torch.int64).scatter_(0, columns, torch.arange(len(spelled)))
        first = torch.cat([first, torch.tensor([end])])
        columns[alone] = torch.tensor(
            [len(distinct) if id == end else len(distinct) + 1 + own[spelled[id]] for id in alone.tolist()]
        )
        self.columns = columns
        self.codes = [codes[:, first] + 2 * len(step) * tails[first] for codes, _ in halves]
        self.found = [found[:, first] for _, found in halves]

    def _half(
        self,
        step: Tensor,
        marks: Tensor,
        spelled: Sequence[bytes],
        rows: Sequence[tuple[list[int], Ending]],
        in_word: bool,
    ) -> tuple[Tensor, Tensor]:
        """Where tokens lead from each place after a whole character, with what it is as the last bit, and what ends."""
        words = torch.tensor([ending.in_word or (in_word and not symbols) for symbols, ending in rows])
        after = [symbols for symbols, _ in rows]
        if in_word:  # only the boundary before a token's first character depends on what comes before the token
            after = [
                symbols[1:] if symbols and text and bytes_in_word(cut(text)[0][0]) else symbols
                for symbols, text in zip(after, spelled, strict=True)
            ]
        places, found = _after(step, marks, after)
        return 2 * places + words, found

    def reachable(self) -> tuple[Tensor, Tensor, Tensor]:
        """The column [V] of each token, and for each place that texts can lead to what comes with each column.

        That is the next place, and the phrases that end on the way, as bits: both [P, columns], the start first.
        """
        numbers: dict[tuple[object, ...], int] = {self._same(0, Ending()): 0}
        known: dict[tuple[int, Ending], int] = {}
        whole: dict[tuple[int, int], Tensor] = {}
        order = [(0, Ending())]
        following, found = list[Tensor](), list[Tensor]()

        def number(place: int, ending: Ending) -> int:
            if (place, ending) not in known:
                known[place, ending] = numbers.setdefault(self._same(place, ending), len(order))
                if known[place, ending] == len(order):
                    order.append((place, ending))
            return known[place, ending]

        for place, ending in order:  # grows as it goes
            start, half, come = place, int(ending.in_word), 0
            if ending.begun:  # another character begins: the begun one stays unread
                (start, come), half = self._walk(place, [BOUNDARY, *ending.begun]), 0
            if (start, half) not in whole:
                codes, inverse = self.codes[half][start].unique(return_inverse=True)
                pairs = [divmod(code, 2 * len(self.step)) for code in codes.tolist()]
                ways = [number(rest // 2, Ending(bool(rest % 2), self.begun[begun])) for begun, rest in pairs]
                whole[start, half] = torch.tensor(ways)[inverse]
            leads, ends = list[int](), list[int]()
            for text in self.within:
                symbols, after = symbols_after(text, ending)
                to, bits = self._walk(place, symbols)
                leads.append(number(to, after))
                ends.append(bits)
            following.append(torch.cat([whole[start, half], torch.tensor(leads, dtype=torch.int64)]))
            found.append(torch.cat([self.found[half][start] | come, torch.tensor(ends, dtype=torch.int64)]))
        return self.columns, torch.stack(following), torch.stack(found)

    def _same(self, place: int, ending: Ending) -> tuple[object, ...]:
        """What is the same for places and endings after which all texts lead to the same."""
        if not ending.begun:
            return place, ending.in_word
        apart = self._walk(place, [BOUNDARY, *ending.begun])
        joined = self._walk(place, ending.begun) if ending.in_word else apart
        return apart, joined, endings(ending.begun)

    def _walk(self, place: int, symbols: Sequence[int]) -> tuple[int, int]:
        """The place after symbols, and the phrases that end on the way, as bits."""
        found = 0
        for symbol in symbols:
            place = self.step[place][symbol]
            found |= self.marks[place]
        return place, found


def _is_within(text: bytes) -> bool:
    return not text or text[0] & 0xC0 == 0x80


def _random(count: int, chance: torch.Generator) -> Tensor:
    return torch.randint(-(2**62), 2**62, (count,), generator=chance)


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
