"""How a model of ``transformers`` lays out sources and targets: the ids around them, and a prompt's template.

A source and its target are encoded apart, since a source is encoded once for many targets. Each is encoded in its
context, the text of the template before and after it, so that pieces at the joins are those of one text. Where they
are not (a piece would cross the join, or a text spells a special piece) the part is encoded by itself, and
``differences`` counts how often.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from s2s.errors import UserError

CHAT, SOURCE, TARGET = "chat", "{source}", "{target}"
DEFAULT = f"{SOURCE}\n{TARGET}"
PROBES = ("a b", "the Word 7", "Z", "x.")
"""Texts whose encodings show the ids that a template has around any of them."""


class LayoutRequest(NamedTuple):
    """The things that a layout depends on besides the tokenizer: the kind of model, its ids, and ``data.template``."""

    kind: str  # encoder_decoder or causal_lm
    decoder_start: int | None
    end: int | None
    template: str | None


@dataclass(frozen=True)
class Layout:
    """The ids around sources and targets, and the texts of the template before and after a source."""

    opening: list[int]
    closing: list[int]
    start: int
    end: int
    padding: int
    prefix: list[int]
    before: str = ""
    between: str = ""  # after the source; in a prompt also before the target
    special: bool = False  # whether the template spells special pieces, as those of a chat do

    def values(self) -> dict[str, Any]:
        """Return the layout as values that JSON holds."""
        return asdict(self)


def ids_of(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[list[int]]:
    """Encode texts without ids around them; ``special`` reads special pieces that a text spells."""
    if not texts:
        return []
    given = {"add_special_tokens": False, "split_special_tokens": not special, "return_attention_mask": False}
    rows: list[list[int]] = tokenizer(list(texts), verbose=False, **given)["input_ids"]
    return rows


def layout_of(tokenizer: Any, request: LayoutRequest) -> Layout:
    """Return the layout of a kind of model. Errors: a UserError for a template or tokenizer that has none."""
    return (_of_decoder if request.kind == "encoder_decoder" else _of_prompt)(tokenizer, request)


def _of_decoder(tokenizer: Any, request: LayoutRequest) -> Layout:
    before, between = _parts(request.template or SOURCE, needs_target=False)
    opening, closing = _around(tokenizer, tokenizer("a").input_ids)
    target_opening, target_closing = _around(tokenizer, tokenizer(text_target="a").input_ids)
    end = target_closing[0] if target_closing else first_known(tokenizer.eos_token_id, request.end)
    if end is None or request.decoder_start is None:
        raise UserError("vocabulary: the tokenizer has no end, or the model no decoder_start_token_id")
    inner = _template_ids(tokenizer, before, between)
    # The library trains BART on targets that begin with <s>: its decoder reads that after its own start.
    starts = [request.decoder_start, *target_opening]
    return Layout(
        opening=[*opening, *inner[0]],
        closing=[*inner[1], *closing],
        start=starts[-1],
        end=end,
        padding=first_known(tokenizer.pad_token_id, end),
        prefix=starts[:-1],
        before=before,
        between=between,
    )


def _of_prompt(tokenizer: Any, request: LayoutRequest) -> Layout:
    template, special, after = request.template or DEFAULT, False, ""
    if template == CHAT:
        template, after = _chat(tokenizer)
        special = True
    before, between = _parts(template, needs_target=True)
    opening = [] if special else _around(tokenizer, tokenizer("a").input_ids)[0]
    first, last = _template_ids(tokenizer, before, between, special)
    if not last:
        raise UserError(
            f"data.template: nothing that stays between {SOURCE} and {TARGET}; a mark or a line end is needed there"
        )
    end = first_known(tokenizer.eos_token_id, request.end)
    if after and (ids := ids_of(tokenizer, [after], special=True)[0]):
        end = ids[0]
    if end is None:
        raise UserError("vocabulary: neither the tokenizer nor the model has an end of sequence")
    return Layout(
        opening=[*opening, *first],
        closing=last[:-1],
        start=last[-1],
        end=end,
        padding=first_known(tokenizer.pad_token_id, end),
        prefix=[],
        before=before,
        between=between,
        special=special,
    )


def _parts(template: str, needs_target: bool) -> tuple[str, str]:
    """Return a template's text before the source, and the one after it."""
    wanted = f"{SOURCE} and then {TARGET} at its end" if needs_target else f"{SOURCE}, and no {TARGET}"
    before, has_source, rest = template.partition(SOURCE)
    between, has_target, after = rest.partition(TARGET)
    if not has_source or after or bool(has_target) != needs_target or SOURCE in rest or TARGET in before:
        raise UserError(f"data.template: {template!r} must hold {wanted}, or be {CHAT} for a causal language model")
    return before, between


def _chat(tokenizer: Any) -> tuple[str, str]:
    """Return the tokenizer's chat as a template, and the text that follows an answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("data.template: the tokenizer has no chat template; write one with {source} and {target}")
    asked = [{"role": "user", "content": SOURCE}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": TARGET}], tokenize=False)
    return f"{prompt}{TARGET}", whole.partition(TARGET)[2]


def _around(tokenizer: Any, framed: list[int]) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after the text "a"."""
    text = ids_of(tokenizer, ["a"])[0]
    at = next((at for at in range(len(framed)) if framed[at : at + len(text)] == text), None)
    if at is None or not text:
        raise UserError("vocabulary: the tokenizer reads a text otherwise with its special tokens around it")
    return framed[:at], framed[at + len(text) :]


def _template_ids(tokenizer: Any, before: str, between: str, special: bool = False) -> tuple[list[int], list[int]]:
    """Return the ids that a template has before and after any source."""
    first, last = list[int](), list[int]()
    # Some tokenizers make one piece of a full stop and a line end. Unless nothing else is left, such a piece is taken
    # for one of the source, so that it stays one.
    for probes in (PROBES, PROBES[:-1]):
        rows = ids_of(tokenizer, [f"{before}{probe}{between.rstrip(' ')}" for probe in probes], special)
        first = _common(rows) if before else []
        last = last or (_common([row[::-1] for row in rows])[::-1] if between else [])
    return first, last


def _common(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the beginning that all rows share."""
    columns = list(zip(*rows, strict=False))
    count = next((at for at, column in enumerate(columns) if len(set(column)) > 1), len(columns))
    return list(rows[0][:count])


def first_known(*ids: int | None) -> Any:
    """Return the first id that is not None; None where all are."""
    return next((id for id in ids if id is not None), None)


class LayoutEncoder:
    """Encodes sources and targets within a layout's template."""

    def __init__(self, tokenizer: Any, layout: Layout) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.markers = [str(token) for token in tokenizer.all_special_tokens]
        self.first, self.last = _template_ids(tokenizer, layout.before, layout.between, layout.special)
        self.anchor = ids_of(tokenizer, [layout.between.rstrip(" ")], layout.special)[0]

    def sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text between those of the template."""
        layout, tail = self.layout, self.layout.between.rstrip(" ")
        whole = ids_of(self.tokenizer, [f"{layout.before}{text}{tail}" for text in texts], layout.special)
        bare = ids_of(self.tokenizer, texts)
        return [self._within(*row) for row in zip(texts, whole, bare, strict=True)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text after those of the template."""
        between = self.layout.between
        if not between:
            return ids_of(self.tokenizer, texts)
        blanks = " " * (len(between) - len(between.rstrip(" ")))
        whole = ids_of(self.tokenizer, [f"{between}{text}" for text in texts], self.layout.special)
        bare = ids_of(self.tokenizer, [f"{blanks}{text}" for text in texts])
        size = len(self.anchor)
        pairs = zip(texts, whole, bare, strict=True)
        return [
            row[size:] if row[:size] == self.anchor and self._is_plain(text) else other for text, row, other in pairs
        ]

    def differences(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the pairs whose prompt and target are other ids than those of one text."""
        if not self.layout.between:
            return []
        sources, targets = ([row[side] for row in pairs] for side in (0, 1))
        texts = [f"{self.layout.before}{source}{self.layout.between}{target}" for source, target in pairs]
        whole = ids_of(self.tokenizer, texts, self.layout.special)
        parts = zip(pairs, whole, self.sources(sources), self.targets(targets), strict=True)
        return [pair for pair, row, source, target in parts if row != [*self.first, *source, *self.last, *target]]

    def _within(self, text: str, whole: list[int], bare: list[int]) -> list[int]:
        first, last = len(self.first), len(self.last)
        inside = whole[first : len(whole) - last]
        fits = whole[:first] == self.first and whole[len(whole) - last :] == self.last and len(whole) >= first + last
        return inside if fits and self._is_plain(text) else bare

    def _is_plain(self, text: str) -> bool:
        """Return whether a text spells no special piece, which only the template may."""
        return not self.layout.special or not any(marker in text for marker in self.markers)
