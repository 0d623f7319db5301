"""Phrases that must or must not come in a hypothesis: sequences of tokens, or texts in whatever tokens spell them.

An automaton (Aho and Corasick 1975) follows a hypothesis token by token: its state is the longest beginning of a phrase
that the hypothesis ends with. For texts it reads bytes and, before every character that does not continue the word of
the one before it and at the end, a ``BOUNDARY``: a text that begins and ends with a boundary comes as whole words only.
Where a token ends within a character, a state also keeps the character's first bytes, until the last one decides
whether a boundary comes before them.

Shapes: V tokens, P states, C columns (tokens with the same effect in every state share one), N hypotheses.
"""

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from s2s.vocabulary.spelling import bytes_in_word, cut, endings

MOST = 10
"""The most required texts: each of them doubles the table of what is missing."""
BOUNDARY = 256
"""The symbol after the bytes: no word continues here."""


class PhraseTables:
    """Where tokens lead in an automaton, and the least number of tokens that complete a hypothesis.

    ``following`` [P, C] is the next state, ``gained`` [P, C] the required phrases that a column completes, as bits, and
    ``banned`` [P, C] whether it completes a forbidden one; state 0 is the start. ``missing`` [P, sets] is the fewest
    tokens after which the end may follow, from a state and the set of required phrases that have come.
    """

    def __init__(
        self, columns: Tensor, following: Tensor, gained: Tensor, banned: Tensor, end: int, required: int
    ) -> None:
        self.columns, self.following, self.gained, self.banned = columns, following, gained, banned
        self.end, self.every = end, (1 << required) - 1
        self.missing = self._missing()

    def least(self) -> float:
        """Return the fewest tokens that have all required phrases; infinite where none can."""
        return float(self.missing[0, 0])

    def rule(self, longest: int | Sequence[int]) -> "PhraseRule":
        """Return the constraint for sources whose hypotheses have at most ``longest`` tokens."""
        return PhraseRule(self, longest)

    def after(self, histories: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state and the set of required phrases, [N] each, after tokens [N, t] in the ``columns`` [V]."""
        states = come = torch.zeros(len(histories), dtype=torch.int64)
        for tokens in histories.cpu().T:
            taken = columns[tokens]
            come = come | self.gained[states, taken]
            states = self.following[states, taken]
        return states, come

    def _missing(self) -> Tensor:
        """Return the distances by a breadth-first search, backwards from where the end may follow."""
        end, sets = self.columns[self.end], torch.arange(self.every + 1)
        kept = ~self.banned
        kept[:, end] = False
        # One number stands for each (state, next state, gained): torch.unique of rows takes twenty times as long.
        base = (len(self.following), self.every + 1)
        codes = (torch.arange(base[0])[:, None] * base[0] + self.following) * base[1] + self.gained
        codes = codes[kept].unique()
        gained, before, after = codes % base[1], codes // (base[0] * base[1]), codes // base[1] % base[0]
        ended = ((sets | self.gained[:, end, None]) == self.every) & ~self.banned[:, end, None]
        table = torch.where(ended, 0.0, math.inf)
        # A shortest way passes no pair of state and set twice, so it has fewer tokens than there are pairs.
        for distance in range(1, base[0] * base[1]):
            known = table.isfinite()
            reached = torch.zeros_like(table)
            # In parts: ``leads`` has a row of sets for each code, here about 4 million entries at a time.
            for part in torch.arange(len(codes)).split(1 + (1 << 22) // base[1]):
                leads = known[after[part, None], sets | gained[part, None]]
                # There is no ``index_or_``; a sum above 0 means that some token leads on.
                reached.index_add_(0, before[part], leads.float())
            new = (reached > 0) & ~known
            if not bool(new.any()):
                break
            table[new] = distance
        return table


class PhraseRule:
    """A ``Constraint``: every required phrase comes, overlaps allowed, and no forbidden one does.

    A token is impossible after which more tokens are missing than the hypothesis has room for, and so is the end before
    nothing is missing. A wide beam thus finds the best hypothesis with the phrases, a narrow one some hypothesis with
    them: its phrases tend to come late, where they are forced.
    """

    def __init__(self, tables: PhraseTables, longest: int | Sequence[int]) -> None:
        self.tables, self.longest = tables, torch.tensor(longest, dtype=torch.int64)

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """Set to -inf tokens that complete a forbidden phrase or leave too little room, and the end before its time."""
        tables = self.tables
        # Tokens beyond the greatest of a phrase have column 0, which is what ``pad`` writes.
        columns = pad(tables.columns, (0, log_probs.size(1) - len(tables.columns)))
        states, come = tables.after(histories, columns)
        longest = self.longest[sources.cpu()] if self.longest.ndim else self.longest
        room = (longest - histories.size(1) - 1).view(-1, 1)
        needed = tables.missing[tables.following[states], come[:, None] | tables.gained[states]]
        refused = (tables.banned[states] | (needed > room))[:, columns]
        refused[:, tables.end] = tables.missing[states, come] > 0
        return log_probs.masked_fill(refused.to(log_probs.device), -math.inf)


class RequiredPhrases(PhraseRule):
    """Each of some token sequences comes in every hypothesis; they should be few, and have no end token."""

    def __init__(self, phrases: Sequence[Sequence[int]], end: int, max_length: int | Sequence[int]) -> None:
        alphabet = sorted({token for phrase in phrases for token in phrase})
        if end in alphabet or not all(phrases):
            raise ValueError("a required phrase has at least 1 token, and none of them is the end")
        # Column 0 is for all tokens that are in no phrase, those beyond the greatest one included.
        columns = torch.zeros(max(end, *alphabet, 0) + 1, dtype=torch.int64)
        columns[[end, *alphabet]] = torch.arange(1, len(alphabet) + 2)
        rows = [[int(columns[token]) for token in phrase] for phrase in phrases]
        step, marks = automaton(rows, range(len(phrases)), len(alphabet) + 2)
        never = torch.zeros_like(step, dtype=torch.bool)
        super().__init__(PhraseTables(columns, step, marks[step], never, end, len(phrases)), max_length)


class SpelledTexts(PhraseTables):
    """Required and forbidden texts, each a sequence of bytes, within words too, or a result of ``whole_words``.

    ``spelled`` [V] are the bytes that each token adds to a text.
    """

    def __init__(
        self, required: Sequence[Sequence[int]], forbidden: Sequence[Sequence[int]], spelled: Sequence[bytes], end: int
    ) -> None:
        texts = [[symbol for symbol in text if symbol != BOUNDARY] for text in (*required, *forbidden)]
        if not all(texts) or len(required) > MOST:
            raise ValueError(f"texts have at least a byte, and at most {MOST} are required")
        # All forbidden texts share one bit: it does not matter which of them comes, and there may be many.
        bits = [*range(len(required)), *[len(required)] * len(forbidden)]
        step, marks = automaton([bounded(text) for text in (*required, *forbidden)], bits, BOUNDARY + 1)
        columns, following, passed = TokenTables(step, marks, spelled, end).reachable()
        every = (1 << len(required)) - 1
        super().__init__(columns, following, passed & every, passed > every, end, len(required))


def whole_words(text: bytes, at_start: bool = True, at_end: bool = True) -> list[int]:
    """Return the text as symbols that match only where a word begins (``at_start``) and where one ends (``at_end``)."""
    return [*[BOUNDARY] * at_start, *text, *[BOUNDARY] * at_end]


def bounded(text: Sequence[int]) -> list[int]:
    """Return the symbols of a text with a boundary between two characters where the second does not continue a word."""
    inner = bytes(symbol for symbol in text if symbol != BOUNDARY)
    symbols = symbols_after(inner, Ending())[0]
    return [*symbols[0 if text[0] == BOUNDARY or symbols[0] != BOUNDARY else 1 :], *[BOUNDARY] * (text[-1] == BOUNDARY)]


class Ending(NamedTuple):
    """The end of a text: whether its last whole character is of a word, and the first bytes of an incomplete one."""

    in_word: bool = False
    begun: bytes = b""


@lru_cache(maxsize=1 << 16)  # tokens within characters are looked up in every state
def symbols_after(spelled: bytes, ending: Ending) -> tuple[list[int], Ending]:
    """Return the symbols of the whole characters that a token adds after an ending, and the new ending."""
    symbols, in_word = list[int](), ending.in_word
    whole, begun = cut(spelled, ending.begun)
    for character in whole:
        continues = bytes_in_word(character)
        symbols.extend(character if in_word and continues else (BOUNDARY, *character))
        in_word = continues
    return symbols, Ending(in_word, begun)


def automaton(phrases: Sequence[Sequence[int]], bits: Sequence[int], symbols: int) -> tuple[Tensor, Tensor]:
    """Return the next node [nodes, symbols] of each node, the root first, and the phrases [nodes] that end there.

    A node is a beginning of a phrase. The phrases that end in it, its ends included, are given by their bits.
    """
    children: list[dict[int, int]] = [{}]
    marks = [0]
    for bit, phrase in zip(bits, phrases, strict=True):
        node = 0
        for symbol in phrase:
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
                marks.append(0)
            node = children[node][symbol]
        marks[node] |= 1 << bit
    step = torch.zeros(len(children), symbols, dtype=torch.int64)
    queue = deque([(0, 0)])
    while queue:  # in breadth, so that a node's fallback, which is shorter, is complete before it
        node, fallback = queue.popleft()
        marks[node] |= marks[fallback] if node else 0
        row = step[fallback].clone() if node else step[0].clone()
        for symbol, child in children[node].items():
            queue.append((child, int(row[symbol]) if node else 0))
            row[symbol] = child
        step[node] = row
    return step, torch.tensor(marks)


class TokenTables:
    """Where tokens lead in an automaton of bytes: states are pairs of a node and the text's ending.

    Tokens that lead to the same state from everywhere share a column. Endings with begun characters are one state where
    their bytes lead to the same node, with a boundary before them and without, and the same last bytes make them
    continue a word.
    """

    def __init__(self, step: Tensor, marks: Tensor, spelled: Sequence[bytes], end: int) -> None:
        self.step, self.marks = step.tolist(), marks.tolist()
        rows = [
            ([BOUNDARY], Ending()) if id == end else symbols_after(text, Ending()) for id, text in enumerate(spelled)
        ]
        self.begun = list(dict.fromkeys([b"", *(ending.begun for _, ending in rows)]))
        numbers = {begun: number for number, begun in enumerate(self.begun)}
        halves = [self._half(step, marks, spelled, rows, in_word) for in_word in (False, True)]
        tails = torch.tensor([numbers[ending.begun] for _, ending in rows])
        # Tokens that begin within a character, or are empty, depend on the begun character: a column for each text of
        # theirs. The end has its own column.
        self.inner = list(dict.fromkeys(text for id, text in enumerate(spelled) if id != end and _is_inner(text)))
        # A random sum of a token's rows stands for all of them: equal sums share a column. Different rows have the same
        # 64-bit sum with a chance of about V^2 / 2^64.
        generator = torch.Generator().manual_seed(0)
        hashed = tails * _random(generator)
        for codes, passed in halves:
            for row in (*codes, *passed):
                hashed = hashed + row * _random(generator)
        single = [id for id, text in enumerate(spelled) if id == end or _is_inner(text)]
        inner = {text: number for number, text in enumerate(self.inner)}
        distinct, columns = hashed.unique(return_inverse=True)
        first = torch.zeros(len(distinct), dtype=torch.int64).scatter_(0, columns, torch.arange(len(spelled)))
        first = torch.cat([first, torch.tensor([end])])
        columns[single] = torch.tensor(
            [len(distinct) if id == end else len(distinct) + 1 + inner[spelled[id]] for id in single]
        )
        self.columns = columns
        self.codes = [codes[:, first] + 2 * len(step) * tails[first] for codes, _ in halves]
        self.passed = [passed[:, first] for _, passed in halves]

    def _half(
        self,
        step: Tensor,
        marks: Tensor,
        spelled: Sequence[bytes],
        rows: Sequence[tuple[list[int], Ending]],
        in_word: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return where tokens lead from each node after a whole character, and the phrases that end on the way.

        The nodes are doubled, and the last bit is whether the new last character is of a word.
        """
        words = torch.tensor([ending.in_word or (in_word and not symbols) for symbols, ending in rows])
        after = [symbols for symbols, _ in rows]
        if in_word:  # only the boundary before a token's first character depends on what comes before the token
            after = [
                symbols[1:] if symbols and text and bytes_in_word(cut(text)[0][0]) else symbols
                for symbols, text in zip(after, spelled, strict=True)
            ]
        nodes, passed = _walk_all(step, marks, after)
        return 2 * nodes + words, passed

    def reachable(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the column [V] of each token, and for each state that texts can reach the effects of the columns.

        These are the next state and the phrases that end on the way, as bits: both [P, C], the start first.
        """
        numbers: dict[tuple[object, ...], int] = {self._effect(0, Ending()): 0}
        known: dict[tuple[int, Ending], int] = {}
        whole: dict[tuple[int, int], Tensor] = {}
        order = [(0, Ending())]
        following, passed = list[Tensor](), list[Tensor]()

        def number(node: int, ending: Ending) -> int:
            if (node, ending) not in known:
                known[node, ending] = numbers.setdefault(self._effect(node, ending), len(order))
                if known[node, ending] == len(order):
                    order.append((node, ending))
            return known[node, ending]

        for node, ending in order:  # ``number`` appends to it
            start, half, come = node, int(ending.in_word), 0
            if ending.begun:  # a token that begins another character leaves the begun one unreadable
                (start, come), half = self._walk(node, [BOUNDARY, *ending.begun]), 0
            # Tokens that begin a character depend on the node and the last character only, not on the begun bytes.
            if (start, half) not in whole:
                codes, inverse = self.codes[half][start].unique(return_inverse=True)
                pairs = [divmod(code, 2 * len(self.step)) for code in codes.tolist()]
                states = [number(rest // 2, Ending(bool(rest % 2), self.begun[begun])) for begun, rest in pairs]
                whole[start, half] = torch.tensor(states)[inverse]
            leads, ends = list[int](), list[int]()
            for text in self.inner:
                symbols, after = symbols_after(text, ending)
                target, bits = self._walk(node, symbols)
                leads.append(number(target, after))
                ends.append(bits)
            following.append(torch.cat([whole[start, half], torch.tensor(leads, dtype=torch.int64)]))
            passed.append(torch.cat([self.passed[half][start] | come, torch.tensor(ends, dtype=torch.int64)]))
        return self.columns, torch.stack(following), torch.stack(passed)

    def _effect(self, node: int, ending: Ending) -> tuple[object, ...]:
        """Return a key that is equal for nodes and endings after which all texts lead to the same state."""
        if not ending.begun:
            return node, ending.in_word
        apart = self._walk(node, [BOUNDARY, *ending.begun])
        joined = self._walk(node, ending.begun) if ending.in_word else apart
        return apart, joined, endings(ending.begun)

    def _walk(self, node: int, symbols: Sequence[int]) -> tuple[int, int]:
        """Return the node after symbols, and the phrases that end on the way, as bits."""
        passed = 0
        for symbol in symbols:
            node = self.step[node][symbol]
            passed |= self.marks[node]
        return node, passed


def _is_inner(text: bytes) -> bool:
    # In UTF-8 a byte of the form 10xxxxxx continues a character.
    return not text or text[0] & 0xC0 == 0x80


def _random(generator: torch.Generator) -> Tensor:
    return torch.randint(-(2**62), 2**62, (1,), generator=generator)


def _walk_all(step: Tensor, marks: Tensor, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the node after each row of symbols from each node, and the phrases on the way: both [nodes, rows]."""
    table = torch.full((len(rows), max(map(len, rows))), -1, dtype=torch.int64)
    for token, row in enumerate(rows):
        table[token, : len(row)] = torch.tensor(row, dtype=torch.int64)
    nodes = torch.arange(len(step))[:, None].repeat(1, len(rows))
    passed = torch.zeros_like(nodes)
    for symbol in table.T:
        valid = symbol >= 0
        nodes[:, valid] = step[nodes[:, valid], symbol[valid]]
        passed[:, valid] |= marks[nodes[:, valid]]
    return nodes, passed
